package channel

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// DeviceConfig is what a device opens channels with.
type DeviceConfig struct {
	Hello Hello
	MAC   MAC // of SuiteNoise and SuiteTLS
	// TLS has, for the TLS suites, the service's CA (RootCAs) and its name (ServerName); of
	// SuiteCertificate the device's certificate too, whose private key may be a token's
	// (crypto.Signer). The rest is this package's business.
	TLS    *tls.Config
	Limits Limits
}

// Client opens a channel as the device, on a connection that was just made. On an error
// the connection is the caller's to close. A service that doesn't know the device, or
// one that isn't the maker's, is ErrRefused; one without time a *BusyError, or, before TLS
// is through, ErrTurnedAway; a certificate that isn't valid by the device's clock ErrClock.
func Client(ctx context.Context, conn net.Conn, c DeviceConfig) (*Conn, error) {
	limits, err := c.Limits.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("open channel: %w", err)
	}
	c.Limits = limits
	hello, err := c.Hello.Encode()
	if err != nil {
		return nil, fmt.Errorf("open channel: %w", err)
	}
	if c.Hello.Suite != SuiteCertificate && c.MAC == nil {
		return nil, fmt.Errorf("open channel: suite %s needs the device's key", c.Hello.Suite)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limits.Handshake, ErrIdle)
	defer cancel()
	var out *Conn
	err = shake(ctx, conn, func() error {
		if c.Hello.Suite == SuiteNoise {
			out, err = c.noise(ctx, conn, hello)
		} else {
			out, err = c.tls(ctx, conn, hello)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open channel: %w", err)
	}
	out.limits, out.hello = limits, c.Hello
	return out, nil
}

// shake does a handshake while ctx lasts. The connection has no deadline afterwards.
func shake(ctx context.Context, conn net.Conn, do func() error) error {
	if err := conn.SetDeadline(deadline(ctx, maxRetry)); err != nil {
		return err
	}
	stop := within(ctx, conn.SetDeadline)
	err := do()
	stop()
	if err != nil {
		if cause := why(ctx, err); cause != err {
			err = fmt.Errorf("%w: %w", cause, err)
		}
		return err
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return err
	}
	if ctx.Err() != nil { // its deadline may have been set just now
		return context.Cause(ctx)
	}
	return nil
}

// noise is SuiteNoise.
func (c DeviceConfig) noise(ctx context.Context, conn net.Conn, hello []byte) (*Conn, error) {
	own, err := newEphemeral()
	if err != nil {
		return nil, err
	}
	hs, err := newNoise(true, hello, own)
	if err != nil {
		return nil, err
	}
	first, err := hs.write(nil)
	if err != nil {
		return nil, err
	}
	var packet bytes.Buffer
	if err := errors.Join(writeFrame(&packet, []byte{frameHello}, hello), writeFrame(&packet, []byte{frameHandshake}, first)); err != nil {
		return nil, err
	}
	if _, err := conn.Write(packet.Bytes()); err != nil {
		return nil, err
	}
	r := newStream(conn)
	second, err := answer(r)
	if err != nil {
		return nil, err
	}
	if len(second) < ephemeralSize {
		return nil, fmt.Errorf("%w: a message of %d bytes", ErrForm, len(second))
	}
	theirs := second[:ephemeralSize]
	if bytes.Equal(theirs, own.public()) {
		return nil, ErrReflected
	}
	psk, err := c.MAC(ctx, pskMessage(hello, own.public(), theirs))
	if err != nil {
		return nil, fmt.Errorf("use the device's key: %w", err)
	}
	defer clear(psk)
	if err := hs.preshare(psk); err != nil {
		return nil, err
	}
	payload, err := hs.read(second)
	if err != nil {
		return nil, ErrRefused // the service has another key, or lets nobody of this name in
	}
	out := &Conn{conn: conn, stream: r}
	if out.greeted, err = parseGreeting(payload); err != nil {
		return nil, err
	}
	send, receive, binding, err := hs.split()
	if err != nil {
		return nil, err
	}
	out.out, out.in, out.binding = &noiseRecords{state: send, rekey: c.Limits.Rekey}, &noiseRecords{state: receive, rekey: c.Limits.Rekey}, binding
	// The service acts on nothing before this: it shows that the device has the key.
	confirm, err := out.out.seal(nil, recordConfirm, nil)
	if err != nil {
		return nil, err
	}
	_, err = conn.Write(confirm)
	return out, err
}

// answer reads the service's answer: a handshake message, or that it has no time.
func answer(r *stream) ([]byte, error) {
	b, err := r.take(maxFrame)
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return nil, fmt.Errorf("%w: the service ended the connection", ErrRefused)
	case err != nil:
		return nil, err
	case b[0] == frameBusy:
		return nil, parseBusy(b)
	case b[0] != frameHandshake:
		return nil, fmt.Errorf("%w: a frame of type %d", ErrForm, b[0])
	}
	return b[1:], nil
}
