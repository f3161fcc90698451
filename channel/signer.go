package channel

import (
	"context"
	"crypto"
	"crypto/tls"
	"io"
)

// signer is the service's TLS key on one connection, each use of which asks ServiceConfig.Sign.
// TLS keeps no more of an error than its text, so why it failed stays here. It serves one
// goroutine, that of the handshake.
type signer struct {
	crypto.Signer
	ctx  context.Context
	sign func(ctx context.Context, do func() error) error
	err  *error
}

func (s signer) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) (signature []byte, err error) {
	*s.err = s.sign(s.ctx, func() error {
		signature, err = s.Signer.Sign(rand, digest, opts)
		return err
	})
	return signature, *s.err
}

// bound has the keys of a configuration, which is this connection's own, ask Sign; why is
// where the reason of a refusal comes to stand.
func (c ServiceConfig) bound(ctx context.Context, config *tls.Config) (why *error) {
	why = new(error)
	if c.Sign == nil {
		return why
	}
	wrap := func(t tls.Certificate) tls.Certificate {
		if key, ok := t.PrivateKey.(crypto.Signer); ok {
			t.PrivateKey = signer{key, ctx, c.Sign, why}
		}
		return t
	}
	all := make([]tls.Certificate, 0, len(config.Certificates))
	for _, t := range config.Certificates {
		all = append(all, wrap(t))
	}
	config.Certificates = all
	if get := config.GetCertificate; get != nil {
		config.GetCertificate = func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
			t, err := get(h)
			if t != nil {
				own := wrap(*t)
				t = &own
			}
			return t, err
		}
	}
	return why
}
