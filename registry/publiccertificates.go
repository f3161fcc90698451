package registry

import (
	"fmt"

	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/devicecert"
)

// PublicCertificates is what a certificates entry carries in the place of a sealed
// record: what a product line that opts in tells everyone of a device. Nothing in
// it is vouched for by the registry: a reader checks each certificate by the
// maker's device CA (devicecert.Check).
type PublicCertificates struct {
	// Identity is the device's, by its URN ("urn:gsma:imei:00440200-000001-0"), where
	// the device may be found by it; else empty.
	Identity string
	X509     [][]byte // DER, 1 to MaxX509
}

// maxURN bounds an identity's URN, in bytes.
const maxURN = 128

const publicVersion = 1

type publicWire struct {
	_        struct{} `cbor:",toarray"`
	Version  uint
	Identity string
	X509     [][]byte
}

// Encode gives the one encoding: [1, identity's URN or "", [certificate…]].
func (p PublicCertificates) Encode() ([]byte, error) {
	if err := p.check(); err != nil {
		return nil, fmt.Errorf("encode certificates: %w", err)
	}
	return detcbor.Marshal(publicWire{Version: publicVersion, Identity: p.Identity, X509: p.X509})
}

// ParsePublicCertificates reads what Encode wrote, and nothing else.
func ParsePublicCertificates(b []byte) (PublicCertificates, error) {
	var w publicWire
	if err := detcbor.Unmarshal(b, &w, MaxEntry); err != nil {
		return PublicCertificates{}, fmt.Errorf("read certificates: %w", err)
	}
	if w.Version != publicVersion {
		return PublicCertificates{}, fmt.Errorf("read certificates: version %d is not known", w.Version)
	}
	p := PublicCertificates{Identity: w.Identity, X509: w.X509}
	if err := p.check(); err != nil {
		return PublicCertificates{}, fmt.Errorf("read certificates: %w", err)
	}
	return p, nil
}

func (p PublicCertificates) check() error {
	if len(p.Identity) > maxURN {
		return fmt.Errorf("identity of %d bytes, at most %d are allowed", len(p.Identity), maxURN)
	}
	for _, r := range p.Identity {
		if r <= ' ' || r > '~' || r == '/' {
			return fmt.Errorf("identity %.32q is no URN", p.Identity)
		}
	}
	if len(p.X509) == 0 || len(p.X509) > MaxX509 {
		return fmt.Errorf("%d certificates: 1 to %d are allowed", len(p.X509), MaxX509)
	}
	for i, der := range p.X509 {
		if len(der) == 0 || len(der) > devicecert.MaxCertificate {
			return fmt.Errorf("certificate %d has %d bytes: 1 to %d are allowed", i+1, len(der), devicecert.MaxCertificate)
		}
	}
	return nil
}
