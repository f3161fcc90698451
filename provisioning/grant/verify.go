package grant

import (
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// Verify checks that a client's chain, leaf first, ends at one of the CAs and is for clients. A leaf that is past its
// end at now is taken as what it was while it lasted, so that its holder can be told that it expired; whoever serves
// it looks at NotAfter. One that is not valid yet is refused.
func Verify(cas *x509.CertPool, chain []*x509.Certificate, now time.Time) error {
	if cas == nil || len(chain) == 0 {
		return errors.New("verify certificate: there is none, or no CA to verify it with")
	}
	leaf := chain[0]
	if now.After(leaf.NotAfter) {
		now = leaf.NotAfter
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{
		Roots: cas, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}); err != nil {
		return fmt.Errorf("verify certificate: %w", err)
	}
	return nil
}
