// Package message is mail to a device: anyone who has the device's certificate
// encrypts to it, and only the device decrypts, whenever it is next there. No
// connection and no shared key are needed; nothing here knows PKCS#11.
//
// A message is HPKE (RFC 9180) in base mode, in deterministic CBOR:
//
//	message   = [1, suite, key id, enc, ciphertext]
//	suite 1   = DHKEM(P-256, HKDF-SHA256), HKDF-SHA256, AES-256-GCM
//	key id    = SHA-256 of the recipient's public point, 65 bytes
//	info      = ["dk-message", 1, realm, SHA-256(recipient's certificate)]
//	AAD       = [1, suite, key id, enc]
//	plaintext = [1, 0, content] | [1, 1, statement over content]
//	content   = [1, realm, SHA-256(recipient's certificate), message id, content type, body]
//
// # What it promises
//
// Only the holder of the certified key reads the body. A certificate that
// package devicecert did not check is refused; whose it is the caller asks. A message opens under
// the certificate it was encrypted to, whole and unchanged, or not at all.
//
// HPKE's base mode says nothing about the sender. A sender who wants to be
// known signs: the statement (package statement) covers the recipient's
// certificate and the message id, so a recipient can't pass it on as a letter
// to someone else. The signature is inside, seen by the recipient alone. Whom
// a device believes, and whether it takes anonymous mail, is its [Policy]; the
// zero Policy takes nothing.
//
// # What it does not
//
// Whoever carries a message may drop, delay and repeat it. Each has an id of
// 16 random bytes, by which an application that must act once drops the second
// copy; this package keeps no memory of ids. An anonymous message can be sent
// again under another id by nobody but who knows its body, the recipient
// included.
//
// There is no forward secrecy on the recipient's side: who one day has the
// device's private key reads all mail that was kept. That key never leaves the
// device's token, which does the one ECDH; the shared secret it gives, one
// message's, is in the device's memory.
//
// The length of the body can be seen, and which key a message is for. The
// suite number leaves room for a post-quantum one.
package message
