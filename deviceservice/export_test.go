package deviceservice

import (
	"context"
	"crypto/x509"
	"net/netip"

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

// Gate is a gate.
type Gate struct{ *gate }

// NewGate gives a gate.
func NewGate(most, ofSource, channels int) Gate { return Gate{newGate(most, ofSource, channels)} }

// Enter takes a connection in, or not.
func (g Gate) Enter(a netip.Addr) bool { return g.enter(a) == "" }

// Leave takes one out.
func (g Gate) Leave(a netip.Addr) { g.leave(a) }

// Open counts a channel, or not.
func (g Gate) Open() bool { return g.open() }

// Close takes a channel out.
func (g Gate) Close() { g.close() }

// Sources counts the networks that are remembered.
func (g Gate) Sources() int { return len(g.sources) }
