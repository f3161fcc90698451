package devicecert

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

// MaxPEM bounds a text of certificates in PEM, in bytes: some eighty of them.
const MaxPEM = 64 << 10

// ParsePEM reads certificates in PEM (RFC 7468 §5), one after the other, at least one. As
// openssl writes it, words may stand before a certificate; nothing but blanks stands
// after the last one, so a text that was cut short is refused. Nobody's signature is checked.
func ParsePEM(text []byte) ([]*x509.Certificate, error) {
	if len(text) > MaxPEM {
		return nil, fmt.Errorf("read certificates in PEM: %d bytes are above the limit of %d", len(text), MaxPEM)
	}
	var all []*x509.Certificate
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("read certificates: PEM blocks CERTIFICATE are expected, not %q", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("read certificates in PEM: %w", err)
		}
		all, text = append(all, c), rest
	}
	if len(all) == 0 || len(bytes.TrimSpace(text)) != 0 {
		return nil, errors.New("read certificates: PEM blocks CERTIFICATE are expected and nothing behind them")
	}
	return all, nil
}
