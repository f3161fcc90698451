package channel

import (
	"context"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"
)

const (
	// protocol is what both ends of a TLS connection agree on (ALPN, RFC 7301).
	protocol = "devicekeys/1"
	// exporterLabel names the bytes that both sides have of one connection (RFC 8446 §7.5).
	exporterLabel = "EXPORTER-devicekeys-channel"
	exporterSize  = 32
	// alertInternal is how crypto/tls names the alert that a service without time for a
	// signature sends (RFC 8446 §6.2, internal_error).
	alertInternal = "tls: internal error"
)

// ClientTLS gives the TLS configuration that devices use: what config says, with TLS 1.3 and
// this package's protocol and nothing else.
func ClientTLS(config *tls.Config) (*tls.Config, error) {
	if config == nil || config.ServerName == "" || config.RootCAs == nil {
		return nil, errors.New("a TLS suite needs the service's CA and its name")
	}
	return confine(config), nil
}

// ServerTLS gives the TLS configuration that the service uses. A device shows its
// certificate or none. TLS checks that it holds the certificate's key, and [Server], after
// the device's hello, that the chain leads to ClientCAs: by itself this configuration lets
// in whoever has a certificate.
func ServerTLS(config *tls.Config) (*tls.Config, error) {
	if config == nil || len(config.Certificates) == 0 && config.GetCertificate == nil {
		return nil, errors.New("a TLS suite needs the service's certificate")
	}
	c := confine(config)
	if c.ClientAuth = tls.NoClientCert; c.ClientCAs != nil {
		c.ClientAuth = tls.RequestClientCert
	}
	// A resumed connection shows no certificate and no key again.
	c.SessionTicketsDisabled = true
	return c, nil
}

func confine(config *tls.Config) *tls.Config {
	c := config.Clone()
	c.MinVersion, c.MaxVersion = tls.VersionTLS13, tls.VersionTLS13
	c.NextProtos = []string{protocol}
	c.InsecureSkipVerify = false
	c.ClientSessionCache = nil
	c.GetConfigForClient = nil // it would have the last word
	return c
}

// greet does TLS's handshake, and checks that it agreed on this protocol: TLS goes on
// without one where a side names none, and its certificates may serve others too.
func greet(ctx context.Context, conn *tls.Conn) error {
	if err := conn.HandshakeContext(ctx); err != nil {
		return err
	}
	if s := conn.ConnectionState(); s.NegotiatedProtocol != protocol {
		return fmt.Errorf("%w: TLS without %q agreed on", ErrForm, protocol)
	}
	return nil
}

// exported gives the exporter of a connection whose handshake is over.
func exported(conn *tls.Conn) ([]byte, error) {
	s := conn.ConnectionState()
	return s.ExportKeyingMaterial(exporterLabel, nil, exporterSize)
}

// tls is SuiteTLS and SuiteCertificate.
func (c DeviceConfig) tls(ctx context.Context, conn net.Conn, hello []byte) (*Conn, error) {
	config, err := ClientTLS(c.TLS)
	if err != nil {
		return nil, err
	}
	if (c.Hello.Suite == SuiteCertificate) != (len(config.Certificates) == 1 || config.GetClientCertificate != nil) {
		return nil, fmt.Errorf("suite %s: a device shows its certificate in suite %s, and only there", c.Hello.Suite, SuiteCertificate)
	}
	inside := tls.Client(conn, config)
	if err := greet(ctx, inside); err != nil {
		return nil, explain(err, config)
	}
	exporter, err := exported(inside)
	if err != nil {
		return nil, err
	}
	if err := writeFrame(inside, []byte{frameHello}, hello); err != nil {
		return nil, err
	}
	if c.Hello.Suite == SuiteTLS {
		mac, err := c.MAC(ctx, proofMessage(labelDevice, hello, exporter))
		if err != nil {
			return nil, fmt.Errorf("use the device's key: %w", err)
		}
		if err := writeFrame(inside, []byte{frameHandshake}, mac); err != nil {
			return nil, err
		}
	}
	out := &Conn{conn: inside, stream: newStream(inside), in: plainRecords{}, out: plainRecords{}, binding: exporter}
	b, err := answer(out.stream)
	if alert := (*net.OpError)(nil); errors.As(err, &alert) && alert.Op == "remote error" {
		return nil, fmt.Errorf("%w: %w", ErrRefused, err) // the service's TLS didn't take the certificate
	}
	if err != nil {
		return nil, err
	}
	if c.Hello.Suite == SuiteTLS {
		want, err := c.MAC(ctx, proofMessage(labelService, hello, exporter))
		if err != nil {
			return nil, fmt.Errorf("use the device's key: %w", err)
		}
		if len(b) < macSize || subtle.ConstantTimeCompare(b[:macSize], want) != 1 {
			return nil, ErrRefused
		}
		b = b[macSize:]
	}
	out.greeted, err = parseGreeting(b)
	return out, err
}

// tls is SuiteTLS and SuiteCertificate.
func (c ServiceConfig) tls(ctx context.Context, conn net.Conn, r *stream, source netip.Addr) (*Conn, error) {
	if c.TLS == nil || !c.speaks(SuiteTLS) && !c.speaks(SuiteCertificate) {
		return nil, fmt.Errorf("%w: TLS, which the service doesn't speak", ErrForm)
	}
	config, err := ServerTLS(c.TLS)
	if err != nil {
		return nil, err
	}
	if err := c.Limiter.handshake(); err != nil {
		return nil, err // and nothing to say it in
	}
	unsigned := c.bound(ctx, config)
	inside := tls.Server(peeked{conn, r}, config)
	if err := greet(ctx, inside); err != nil {
		return nil, errors.Join(*unsigned, unshaken(err))
	}
	exporter, err := exported(inside)
	if err != nil {
		return nil, err
	}
	out := &Conn{conn: inside, stream: newStream(inside), in: plainRecords{}, out: plainRecords{}, binding: exporter, greeted: newGreeting(c.Now())}
	raw, h, err := readHello(out.stream)
	if err != nil {
		return nil, err
	}
	out.hello = h
	var proof []byte
	switch {
	case !c.speaks(h.Suite):
		return nil, fmt.Errorf("%w: suite %s, which the service doesn't speak", ErrForm, h.Suite)
	case h.Suite == SuiteTLS:
		proof, err = c.prove(ctx, out, raw, exporter, source)
	case h.Suite == SuiteCertificate:
		err = c.certified(ctx, h, inside.ConnectionState().PeerCertificates, source)
	default:
		return nil, fmt.Errorf("%w: suite %s inside TLS", ErrForm, h.Suite)
	}
	if _, ok := busy(err); ok {
		return nil, c.later(inside, err)
	}
	if err != nil {
		return nil, err
	}
	return out, writeFrame(inside, []byte{frameHandshake}, proof, out.greeted.encode())
}

// unshaken tells a TLS handshake that broke off from one that the two sides can't agree on.
func unshaken(err error) error {
	op := (*net.OpError)(nil)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, context.Canceled) || errors.As(err, &op) && op.Op != "remote error" && op.Op != "local error" {
		return unheard(err)
	}
	return fmt.Errorf("%w: %w", ErrForm, err)
}

// explain says what the end of a TLS handshake means to a device.
func explain(err error, config *tls.Config) error {
	op, invalid := (*net.OpError)(nil), x509.CertificateInvalidError{}
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE),
		errors.As(err, &op) && op.Op == "remote error" && op.Err.Error() == alertInternal:
		return fmt.Errorf("%w: %w", ErrTurnedAway, err)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		now := time.Now
		if config.Time != nil {
			now = config.Time
		}
		return fmt.Errorf("%w: it is %s here: if that is wrong, set the clock or use suite %s: %w", ErrClock, now().UTC().Format(time.RFC3339), SuiteNoise, err)
	}
	return err
}

// prove checks the device's proof in the HSM and gives the service's.
func (c ServiceConfig) prove(ctx context.Context, conn *Conn, raw, exporter []byte, source netip.Addr) ([]byte, error) {
	if err := c.Limiter.identity(conn.hello.Identity); err != nil {
		return nil, err
	}
	b, err := conn.stream.take(1 + macSize)
	if err != nil {
		return nil, unheard(err)
	}
	if len(b) != 1+macSize || b[0] != frameHandshake {
		return nil, fmt.Errorf("%w: a proof of %d bytes", ErrForm, len(b))
	}
	return c.use(ctx, conn.hello, source, func(p Peer) ([]byte, error) {
		if err := p.Verify(ctx, proofMessage(labelDevice, raw, exporter), b[1:]); err != nil {
			return nil, err
		}
		return p.MAC(ctx, proofMessage(labelService, raw, exporter))
	})
}

// peeked is a connection of which the first bytes were looked at.
type peeked struct {
	net.Conn
	r *stream
}

func (p peeked) Read(b []byte) (int, error) { return p.r.Read(b) }
