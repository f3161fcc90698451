package channel

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

const (
	// maxChain bounds the certificates that a device shows: its own, and CAs between it and
	// one of ClientCAs. Each costs the service signatures to check.
	maxChain = 4
	// clockSkew is how far in this side's future a certificate may have been issued: clocks
	// on a line and in the field differ by minutes.
	clockSkew = 10 * time.Minute
)

// ErrStranger says that the peer has shown no certificate of a device CA: it is none of the
// maker's devices, whatever it says of itself.
var ErrStranger = errors.New("no certificate of the device CA was shown")

// certified asks whether a device that has shown its certificate is let in. The chain comes
// first: who has no certificate of the device CA costs no lookup, and uses up nobody's rate.
func (c ServiceConfig) certified(ctx context.Context, h Hello, shown []*x509.Certificate, source netip.Addr) error {
	leaf, err := c.chain(shown)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if err := c.Limiter.certificate(leaf); err != nil {
		return err
	}
	return c.certificate(ctx, h, leaf, source)
}

func (c ServiceConfig) certificate(ctx context.Context, h Hello, leaf *x509.Certificate, source netip.Addr) (err error) {
	defer c.paced(ctx, h, time.Now(), &err)
	if h.Realm != c.Realm || c.AdmitCertificate == nil {
		return fmt.Errorf("%w: a device of realm %s", ErrRefused, h.Realm)
	}
	if err := c.AdmitCertificate(ctx, h, leaf, source); err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return nil
}

// chain gives the device's own certificate if one of the device CAs signed it. TLS has seen
// that the device holds its key. By the chain model a CA's certificate was valid when it
// signed: devices' certificates don't end (IEEE 802.1AR §8.10.3), the CA's do, and TLS's
// own check, of now, would shut every device out on that day.
func (c ServiceConfig) chain(shown []*x509.Certificate) (*x509.Certificate, error) {
	switch {
	case len(shown) == 0:
		return nil, fmt.Errorf("%w: none at all", ErrStranger)
	case len(shown) > maxChain:
		return nil, fmt.Errorf("%w: %d certificates, at most %d are read", ErrStranger, len(shown), maxChain)
	case c.TLS.ClientCAs == nil:
		return nil, fmt.Errorf("%w: the service knows no device CA", ErrStranger)
	}
	leaf, now := shown[0], c.Now()
	if leaf.NotBefore.After(now.Add(clockSkew)) || leaf.NotAfter.Before(now) {
		return nil, fmt.Errorf("%w: valid from %s to %s, and it is %s here: if that is wrong, set the service's clock",
			ErrClock, leaf.NotBefore.Format(time.RFC3339), leaf.NotAfter.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	between := x509.NewCertPool()
	for _, ca := range shown[1:] {
		between.AddCert(ca)
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: c.TLS.ClientCAs, Intermediates: between, CurrentTime: leaf.NotBefore,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrStranger, err)
	}
	return leaf, nil
}
