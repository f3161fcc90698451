package channel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"time"
)

// Conn is an open channel. Both sides send and receive whole messages; one goroutine may
// send while another receives. An error of either direction ends that direction.
type Conn struct {
	conn    net.Conn
	stream  *stream
	limits  Limits
	hello   Hello
	greeted greeting
	binding []byte

	sending sync.Mutex // guards what follows
	out     recordCipher
	sent    error // why nothing more can be sent

	receiving sync.Mutex // guards what follows
	in        recordCipher
	received  error // why nothing more comes; io.EOF: the peer has ended the channel
}

// growth is what a message that comes in parts is given room for at first.
const growth = 4 * chunk

// Hello gives what the device said of itself. At the service, identity and generation are
// proven as far as Admit or AdmitCertificate tied them to the key or the certificate that
// the device has shown to hold; the rest is the device's word. Of SuiteCertificate the
// key's name is no more than that. At the device, it is what the device said.
func (c *Conn) Hello() Hello { return c.hello }

// Binding gives 32 bytes that both sides have of this channel and no other.
func (c *Conn) Binding() []byte { return bytes.Clone(c.binding) }

// SessionID gives the service's name of this channel, for both sides' logs.
func (c *Conn) SessionID() [sessionSize]byte { return c.greeted.session }

// ServiceTime gives the service's time when it let the device in, to the second.
func (c *Conn) ServiceTime() time.Time { return c.greeted.at }

// RemoteAddr gives the peer's network address.
func (c *Conn) RemoteAddr() net.Addr { return c.conn.RemoteAddr() }

// Send sends a message, of up to Limits.Message bytes. It returns once it was given to
// the network, at the latest Limits.Frame after the peer stopped taking it; whether it
// came through, only an answer tells.
func (c *Conn) Send(ctx context.Context, message []byte) error {
	if len(message) > c.limits.Message {
		return fmt.Errorf("send a message of %d bytes: %w: at most %d are sent", len(message), ErrTooLarge, c.limits.Message)
	}
	c.sending.Lock()
	defer c.sending.Unlock()
	return c.send(ctx, recordLast, message)
}

// CloseWrite says that nothing more comes from this side: the peer's Receive ends with
// io.EOF. Repeating it does no harm.
func (c *Conn) CloseWrite(ctx context.Context) error {
	c.sending.Lock()
	defer c.sending.Unlock()
	if c.sent == ErrEnded {
		return nil
	}
	if err := c.send(ctx, recordEnd, nil); err != nil {
		return err
	}
	c.sent = ErrEnded
	return nil
}

// Close closes the connection. Without CloseWrite before it, the peer sees a cut.
func (c *Conn) Close() error { return c.conn.Close() }

// send sends data as parts and one frame of the type given. Needs c.sending.
func (c *Conn) send(ctx context.Context, last byte, data []byte) error {
	if c.sent != nil {
		return c.sent
	}
	room := rooms.Get().(*[]byte)
	defer rooms.Put(room)
	out := (*room)[:0]
	stop := within(ctx, c.conn.SetWriteDeadline)
	defer stop()
	for first := true; first || len(data) > 0; first = false {
		part := data[:min(chunk, len(data))]
		data = data[len(part):]
		kind := last
		if len(data) > 0 {
			kind = recordPart
		}
		var err error
		if out, err = c.out.seal(out, kind, part); err != nil {
			return c.unsent(err)
		}
		if len(data) == 0 || len(out)+headSize+maxFrame > cap(out) {
			if err := arm(ctx, c.conn.SetWriteDeadline, c.limits.Frame); err != nil {
				return c.unsent(err)
			}
			if _, err := c.conn.Write(out); err != nil {
				return c.unsent(why(ctx, err))
			}
			out = out[:0]
		}
	}
	return nil
}

// unsent ends this direction: the peer may have got a part.
func (c *Conn) unsent(err error) error {
	c.sent = fmt.Errorf("send on the channel: %w", err)
	return c.sent
}

// Receive gives the next message. io.EOF means that the peer has ended the channel
// properly; ErrTruncated that the connection ended without that; ErrIdle that nothing
// came for Limits.Idle. A ctx that ends while it waits ends this direction too.
func (c *Conn) Receive(ctx context.Context) ([]byte, error) { return c.ReceiveInto(ctx, nil) }

// ReceiveInto is Receive for one who has room for the message, which it overwrites and
// whose place the message takes as far as it is large enough. Memory is taken in
// proportion to what has come, never to what the peer says.
func (c *Conn) ReceiveInto(ctx context.Context, room []byte) ([]byte, error) {
	c.receiving.Lock()
	defer c.receiving.Unlock()
	if c.received != nil {
		return nil, c.received
	}
	message, err := c.receive(ctx, room[:0])
	if err != nil {
		if err != io.EOF {
			err = fmt.Errorf("receive on the channel: %w", err)
		}
		c.received = err
		return nil, err
	}
	return message, nil
}

func (c *Conn) receive(ctx context.Context, message []byte) ([]byte, error) {
	defer c.stream.rest()
	stop := within(ctx, c.conn.SetReadDeadline)
	defer stop()
	for begun := false; ; begun = true {
		wait := c.limits.Idle
		if begun {
			wait = c.limits.Frame
		}
		longer, kind, err := c.record(ctx, message, wait)
		if err != nil {
			return nil, err
		}
		content := len(longer) - len(message)
		switch message = longer; kind {
		case recordPart, recordLast:
			if len(message) > c.limits.Message {
				return nil, fmt.Errorf("%w: more than %d bytes come", ErrTooLarge, c.limits.Message)
			}
			if content == 0 && (kind == recordPart || begun) {
				return nil, fmt.Errorf("%w: an empty part of a message", ErrForm)
			}
			if kind == recordLast {
				return message, nil
			}
		case recordEnd:
			if content > 0 || begun {
				return nil, fmt.Errorf("%w: an end with something in it, or within a message", ErrForm)
			}
			return nil, io.EOF
		default:
			return nil, fmt.Errorf("%w: a record of type %d", ErrForm, kind)
		}
	}
}

// record reads one frame, which begins within a time, appends the content of its record
// to message and gives the record's type.
func (c *Conn) record(ctx context.Context, message []byte, wait time.Duration) (longer []byte, kind byte, err error) {
	body, err := c.frame(ctx, wait)
	if err != nil {
		return nil, 0, c.ended(ctx, err)
	}
	if free := cap(message) - len(message); free < len(body) {
		more := len(body)
		if more > chunk {
			more = max(len(message), growth) // twice as much each time
		}
		message = slices.Grow(message, more)
	}
	return c.open(message, body)
}

// open opens a frame's record behind a message, and takes its type out from between.
func (c *Conn) open(message, body []byte) (longer []byte, kind byte, err error) {
	n := len(message)
	var last byte
	at := max(n-1, 0) // the type comes to lie on the message's last byte, which is put back
	if n > 0 {
		last = message[at]
	}
	if longer, err = c.in.open(message[:at], body); err != nil {
		return nil, 0, err
	}
	if size := len(longer) - at; size == 0 || size > 1+chunk {
		return nil, 0, fmt.Errorf("%w: a record of %d bytes", ErrForm, size)
	}
	if kind = longer[at]; n == 0 {
		return longer[:copy(longer, longer[1:])], kind, nil
	}
	longer[at] = last
	return longer, kind, nil
}

// frame reads one frame, which begins within a time.
func (c *Conn) frame(ctx context.Context, wait time.Duration) ([]byte, error) {
	if c.stream.buffered() == 0 {
		if err := arm(ctx, c.conn.SetReadDeadline, wait); err != nil {
			return nil, err
		}
		if err := c.stream.need(1); err != nil {
			return nil, err
		}
	}
	if !c.stream.whole() {
		if err := arm(ctx, c.conn.SetReadDeadline, c.limits.Frame); err != nil {
			return nil, err
		}
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return c.stream.frame(maxFrame)
}

// ended says what the end of a connection means within a channel.
func (c *Conn) ended(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return ErrIdle
	case errors.Is(err, ErrForm):
		return err
	}
	return fmt.Errorf("%w: %w", ErrTruncated, err)
}

// within has a deadline of the connection pass when ctx ends. Once stop has returned, it
// touches the connection no more: the next call sets its own deadline.
func within(ctx context.Context, set func(time.Time) error) (stop func()) {
	done := make(chan struct{})
	end := context.AfterFunc(ctx, func() {
		defer close(done)
		_ = set(time.Unix(1, 0))
	})
	return func() {
		if !end() {
			<-done // setting a deadline waits for nothing
		}
	}
}

// arm sets a deadline while within is at work. A ctx that ends meanwhile is seen here, or
// by within after this.
func arm(ctx context.Context, set func(time.Time) error, after time.Duration) error {
	if err := set(deadline(ctx, after)); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// deadline gives the earlier of ctx's and the one after a time; it has passed where ctx
// has ended.
func deadline(ctx context.Context, after time.Duration) time.Time {
	if ctx.Err() != nil {
		return time.Unix(1, 0)
	}
	at := time.Now().Add(after)
	if by, ok := ctx.Deadline(); ok && by.Before(at) {
		return by
	}
	return at
}

// why tells a context that ended from a peer that takes nothing.
func why(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return ErrIdle
	}
	return err
}
