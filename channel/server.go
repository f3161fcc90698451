package channel

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/devicekeys/devicekeys/identity"
)

// ServiceConfig is what a service opens channels with. It serves any number of
// handshakes at once.
type ServiceConfig struct {
	Realm identity.Realm
	// Admit lets a device in by its key, or not: of SuiteNoise and SuiteTLS. It is asked
	// after the limiter. An error that has a method RetryAfter() time.Duration tells the
	// device to come again; of every other one it learns nothing.
	Admit func(ctx context.Context, h Hello, source netip.Addr) (Peer, error)
	// AdmitCertificate lets a device in by its certificate, whose chain was verified
	// against TLS.ClientCAs: of SuiteCertificate.
	AdmitCertificate func(ctx context.Context, h Hello, c *x509.Certificate, source netip.Addr) error
	// TLS has the service's certificate and, for SuiteCertificate, the device CAs
	// (ClientCAs). nil: SuiteNoise only.
	TLS *tls.Config
	// Limiter bounds handshakes by source and by identity; nil bounds nothing.
	Limiter *Limiter
	Limits  Limits
	// Now is the service's clock; nil is the machine's.
	Now func() time.Time
}

// tlsRecord is the first byte of a TLS connection (RFC 8446 §5.1, handshake); a hello's
// frame begins with a zero.
const tlsRecord = 0x16

// Server opens a channel as the service, on a connection that was just accepted. On an
// error the connection is the caller's to close; the error has the reason, which the
// device wasn't told.
func Server(ctx context.Context, conn net.Conn, c ServiceConfig) (*Conn, error) {
	limits, err := c.Limits.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("take a device: %w", err)
	}
	c.Limits = limits
	if c.Now == nil {
		c.Now = time.Now
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limits.Handshake, ErrIdle)
	defer cancel()
	var out *Conn
	err = shake(ctx, conn, func() error {
		out, err = c.take(ctx, conn)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("take a device: %w", err)
	}
	out.limits = limits
	return out, nil
}

// take tells the suites apart and takes the device.
func (c ServiceConfig) take(ctx context.Context, conn net.Conn) (*Conn, error) {
	source := sourceOf(conn)
	over := c.Limiter.source(source)
	r := newStream(conn)
	if err := r.need(1); err != nil {
		return nil, err
	}
	first := r.buffer()[0]
	switch {
	case first == tlsRecord && over != nil:
		return nil, over // no TLS handshake for a flood, and nothing to say it in
	case first == tlsRecord:
		return c.tls(ctx, conn, r, source)
	case over != nil:
		return nil, c.later(conn, over)
	}
	return c.noise(ctx, conn, r, source)
}

// later tells a device to come again, and gives why.
func (c ServiceConfig) later(w io.Writer, err error) error {
	after, _ := busy(err)
	return errors.Join(err, writeFrame(w, busyFrame(after)))
}

// noise is SuiteNoise.
func (c ServiceConfig) noise(ctx context.Context, conn net.Conn, r *stream, source netip.Addr) (*Conn, error) {
	raw, h, err := readHello(r)
	if err != nil {
		return nil, err
	}
	if h.Suite != SuiteNoise {
		return nil, fmt.Errorf("%w: suite %s outside TLS", ErrForm, h.Suite)
	}
	first, err := r.take(1 + ephemeralSize + tagSize)
	if err != nil {
		return nil, err
	}
	if len(first) != 1+ephemeralSize+tagSize || first[0] != frameHandshake {
		return nil, fmt.Errorf("%w: a first message of %d bytes", ErrForm, len(first))
	}
	first = first[1:]
	if err := c.Limiter.identity(h.Identity); err != nil {
		return nil, c.later(conn, err)
	}
	own, err := newEphemeral()
	if err != nil {
		return nil, err
	}
	theirs := first[:ephemeralSize]
	if bytes.Equal(theirs, own.public()) {
		return nil, ErrReflected
	}
	hs, err := newNoise(false, raw, own)
	if err != nil {
		return nil, err
	}
	if _, err := hs.read(first); err != nil {
		return nil, fmt.Errorf("%w: the first message doesn't open", ErrForm)
	}
	psk, refused := c.psk(ctx, h, source, pskMessage(raw, theirs, own.public()))
	if _, ok := busy(refused); ok {
		return nil, c.later(conn, refused)
	}
	defer clear(psk)
	if err := hs.preshare(psk); err != nil {
		return nil, err
	}
	out := &Conn{conn: conn, stream: r, hello: h, greeted: newGreeting(c.Now())}
	second, err := hs.write(out.greeted.encode())
	if err != nil {
		return nil, err
	}
	if err := writeFrame(conn, []byte{frameHandshake}, second); err != nil {
		return nil, errors.Join(refused, err)
	}
	send, receive, binding, err := hs.split()
	if err != nil {
		return nil, err
	}
	out.out, out.in, out.binding = &noiseRecords{state: send, rekey: c.Limits.Rekey}, &noiseRecords{state: receive, rekey: c.Limits.Rekey}, binding
	return out, errors.Join(refused, out.confirmed())
}

// psk gives the pre-shared key of a device that is let in. Of one that isn't, it gives a
// random one and why: the handshake goes on alike, and fails at the device.
func (c ServiceConfig) psk(ctx context.Context, h Hello, source netip.Addr, msg []byte) (psk []byte, refused error) {
	psk = make([]byte, pskSize)
	rand.Read(psk) // never fails
	if h.Realm != c.Realm {
		return psk, fmt.Errorf("%w: a device of realm %s", ErrRefused, h.Realm)
	}
	if c.Admit == nil {
		return psk, fmt.Errorf("%w: the service takes no symmetric keys", ErrRefused)
	}
	peer, err := c.Admit(ctx, h, source)
	if err != nil {
		return psk, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	mac, err := peer.MAC(ctx, msg)
	if err = errors.Join(err, peer.Close(context.WithoutCancel(ctx))); err != nil {
		return psk, fmt.Errorf("%w: use the device's key: %w", ErrRefused, err)
	}
	if len(mac) != pskSize {
		return psk, fmt.Errorf("%w: the HSM gave a MAC of %d bytes", ErrRefused, len(mac))
	}
	return mac, nil
}

// confirmed reads the device's first frame: it shows that the device has the key.
func (c *Conn) confirmed() error {
	body, err := c.stream.take(1 + tagSize)
	if err != nil {
		return fmt.Errorf("%w: the device didn't confirm: %w", ErrRefused, err)
	}
	if plain, err := c.in.open(nil, body); err != nil || len(plain) != 1 || plain[0] != recordConfirm {
		return fmt.Errorf("%w: the device's confirmation doesn't open", ErrRefused)
	}
	return nil
}

func readHello(r *stream) ([]byte, Hello, error) {
	b, err := r.take(1 + MaxHello)
	if err != nil {
		return nil, Hello{}, err
	}
	if b[0] != frameHello {
		return nil, Hello{}, fmt.Errorf("%w: a frame of type %d, a hello was due", ErrForm, b[0])
	}
	h, err := ParseHello(b[1:])
	if err != nil {
		return nil, Hello{}, fmt.Errorf("%w: %w", ErrForm, err)
	}
	return b[1:], h, nil
}

// sourceOf gives the address that a connection counts for.
func sourceOf(conn net.Conn) netip.Addr {
	a := conn.RemoteAddr()
	if a == nil {
		return netip.Addr{}
	}
	p, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{} // a pipe of a test: all of them are one source
	}
	return p.Addr().Unmap().WithZone("")
}
