package issued

import (
	"crypto/sha256"
	"fmt"
)

// Certificates are the certificates of a device's keys, as the records know them:
// SHA-256 of each one's DER, 32 bytes, one behind the other. The zero value has none.
type Certificates string

// maxCertificates bounds how many a device has: a record holds no more (registry.MaxX509).
const maxCertificates = 8

// CertificatesOf gives those of certificates in DER.
func CertificatesOf(all ...[]byte) Certificates {
	var b []byte
	for _, der := range all {
		h := sha256.Sum256(der)
		b = append(b, h[:]...)
	}
	return Certificates(b)
}

func parseCertificates(b []byte) (Certificates, error) {
	if len(b)%sha256.Size != 0 || len(b) > maxCertificates*sha256.Size {
		return "", fmt.Errorf("hashes of its certificates in %d bytes: 0 to %d of %d bytes are expected", len(b), maxCertificates, sha256.Size)
	}
	return Certificates(b), nil
}

// Has tells whether a certificate, in DER, is one of them.
func (c Certificates) Has(der []byte) bool {
	h := sha256.Sum256(der)
	for ; len(c) >= len(h); c = c[len(h):] {
		if string(c[:len(h)]) == string(h[:]) {
			return true
		}
	}
	return false
}
