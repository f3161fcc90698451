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
	"slices"
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
	// against TLS.ClientCAs as of when it was issued: of SuiteCertificate.
	AdmitCertificate func(ctx context.Context, h Hello, c *x509.Certificate, source netip.Addr) error
	// Pace, if there is one, is called once for each device that Admit or AdmitCertificate
	// decides on, or the realm: when the key was used and given back, right before the
	// answer. began is when the decision began, err why the device isn't let in, nil if it
	// is. It may wait, so that one takes as long as the other, while ctx lasts.
	Pace func(ctx context.Context, h Hello, began time.Time, err error)
	// Sign, if there is one, does each signature of the service's TLS key by calling do, or
	// gives an error instead: to bound how many there are at once. An error that has a
	// method RetryAfter says that the service has no time.
	Sign func(ctx context.Context, do func() error) error
	// Suites are those that are spoken; none: each that the rest makes possible.
	Suites []Suite
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

// overWait bounds how long a source that came too often has for its first byte, which says
// in what words it is told so: enough for one whose packets are under way already.
const overWait = 200 * time.Millisecond

// take tells the suites apart and takes the device.
func (c ServiceConfig) take(ctx context.Context, conn net.Conn) (*Conn, error) {
	source := sourceOf(conn)
	over := c.Limiter.source(source)
	if over != nil {
		if err := arm(ctx, conn.SetReadDeadline, overWait); err != nil {
			return nil, errors.Join(over, err)
		}
	}
	r := newStream(conn)
	if err := r.need(1); err != nil {
		return nil, errors.Join(over, unheard(err))
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

// unheard marks the end of a connection on which no hello has come.
func unheard(err error) error {
	if errors.Is(err, ErrForm) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrNoHello, err)
}

// speaks tells whether a suite is one that the service speaks.
func (c ServiceConfig) speaks(s Suite) bool {
	return len(c.Suites) == 0 || slices.Contains(c.Suites, s)
}

// noise is SuiteNoise.
func (c ServiceConfig) noise(ctx context.Context, conn net.Conn, r *stream, source netip.Addr) (*Conn, error) {
	if !c.speaks(SuiteNoise) {
		return nil, fmt.Errorf("%w: bytes outside TLS, and the service speaks TLS alone", ErrForm)
	}
	raw, h, err := readHello(r)
	if err != nil {
		return nil, err
	}
	if h.Suite != SuiteNoise {
		return nil, fmt.Errorf("%w: suite %s outside TLS", ErrForm, h.Suite)
	}
	first, err := r.take(1 + ephemeralSize + tagSize)
	if err != nil {
		return nil, unheard(err)
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
	mac, err := c.use(ctx, h, source, func(p Peer) ([]byte, error) { return p.MAC(ctx, msg) })
	if err != nil {
		return psk, err
	}
	return mac, nil
}

// use asks whether a device is let in by its key, uses the key and gives it back. However
// that ends, what follows comes after Pace: the time of all of it, the key's destruction
// included, is what a device that isn't let in has to be made to wait for.
func (c ServiceConfig) use(ctx context.Context, h Hello, source netip.Addr, do func(Peer) (mac []byte, err error)) (mac []byte, err error) {
	defer c.paced(ctx, h, time.Now(), &err)
	if h.Realm != c.Realm {
		return nil, fmt.Errorf("%w: a device of realm %s", ErrRefused, h.Realm)
	}
	if c.Admit == nil {
		return nil, fmt.Errorf("%w: the service takes no symmetric keys", ErrRefused)
	}
	peer, err := c.Admit(ctx, h, source)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	defer peer.Close(context.WithoutCancel(ctx)) // if do panics; repeated otherwise
	mac, err = do(peer)
	if err = errors.Join(err, peer.Close(context.WithoutCancel(ctx))); err != nil {
		return nil, fmt.Errorf("%w: use the device's key: %w", ErrRefused, err)
	}
	if len(mac) != macSize {
		return nil, fmt.Errorf("%w: the HSM gave a MAC of %d bytes", ErrRefused, len(mac))
	}
	return mac, nil
}

// paced calls Pace.
func (c ServiceConfig) paced(ctx context.Context, h Hello, began time.Time, err *error) {
	if c.Pace != nil {
		c.Pace(ctx, h, began, *err)
	}
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
		return nil, Hello{}, unheard(err)
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
