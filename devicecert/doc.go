// Package devicecert makes and checks the X.509 certificates of devices: what
// the other end of a TLS connection or the sender of a message goes by. The
// device itself goes by its identity certificate (package identity).
//
// The profile is that of an IEEE 802.1AR IDevID on RFC 5280, and it leaves no
// choice: what differs from one certificate to the next is named in [Request],
// and [Check] refuses whatever it would not have made itself.
//
//	issuer            subject of the device CA's certificate, whose common name is "development device CA"
//	serialNumber      20 random bytes, positive
//	validity          from the second of issue to 99991231235959Z: a device lives until it is broken (802.1AR §8.7)
//	subject           O  = "Devicekeys development" | "Devicekeys production": the realm
//	                  OU = the product line
//	                  CN = "device record" | "device key": what the serial number is
//	                  serialNumber = 64 lower-case hexadecimal digits
//	public key        P-256
//	basicConstraints  critical, no CA
//	keyUsage          critical, digitalSignature (ES256) or keyAgreement (ECDH), never both
//	extKeyUsage       clientAuth and serverAuth (ES256); absent (ECDH)
//	subjectKeyId      160 bits of SHA-256 of the key (RFC 7093 §2, method 1)
//	authorityKeyId    the CA's
//	subjectAltName    hardwareModuleName (RFC 4108 §5), and the identity's URN where the product line wants it
//
// # What it names
//
// The serial number, and the same 32 bytes as hwSerialNum, are the record id.
// A certificate that was made before its device is bound to no record yet: it
// has SHA-256 of its own SubjectPublicKeyInfo there instead. Which of the two
// it is stands three times, in the common name, in hwType (two numbers below
// one arc) and in the value, which [Check] compares with the key; so neither
// passes for the other. The chip ID never stands in a certificate: it is a
// capability, and certificates are shown to everyone.
//
// # Realms
//
// Both the CA's name and the subject carry the realm, and the functions here
// refuse to bring two realms together.
//
// # Trust
//
// A device CA signs devices directly (pathlen 0). Several may be trusted at a
// time ([NewRoots]): a new one is added before it signs, an old one stays as
// long as its devices live. A certificate holds if its CA's certificate was
// valid when it was issued (the chain model): the CA's own expiry ends what it
// may sign and not the devices in the field. It follows that the thief of an
// old CA's key may backdate; the remedy is to take the CA out of the roots and
// to rely on the registry, which lists the certificates that were issued.
// There are no revocation lists: whether a device is still in use is the
// registry's to say.
//
// What someone gains who has the CA's key: certificates for keys of his own
// under any record id. They stand in no registry entry, so whoever asks there
// refuses them.
package devicecert
