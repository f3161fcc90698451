// Package identity holds the names of a device and the certificate that binds
// them: the identity it is sold under (an IMEI, an EUI, a serial number), the
// chip ID that never leaves with anyone but its owner, the record id under
// which the registry files it, and the identity certificate.
//
// Everything here is a value: no I/O, no key, no clock. A certificate is made
// from claims and a Signer that the caller brings, and verified with a ROMKey.
//
// Chip IDs are capabilities. Who knows one may read the record it belongs to,
// so the type does not print, marshal or log itself: the bytes come out only
// through ChipID.Bytes, which is easy to search for.
package identity
