package deviceservice

import (
	"context"
	"crypto/x509"

	"github.com/devicekeys/devicekeys/channel"
)

// AdmitCertificate is what the channel asks about a certificate.
func (s *Service) AdmitCertificate(ctx context.Context, h channel.Hello, c *x509.Certificate) error {
	return s.admitCertificate(ctx, &admission{}, h, c)
}

// Admit is what the channel asks about a device with a symmetric key.
func (s *Service) Admit(ctx context.Context, h channel.Hello) (channel.Peer, error) {
	return s.admit(ctx, &admission{}, h)
}

// ReasonOf gives the reason of a refusal.
func ReasonOf(err error) Reason { return reasonOf(err) }

// Sessions counts the open channels.
func (s *Service) Sessions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, all := range s.open {
		n += len(all)
	}
	return n
}
