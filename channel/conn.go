package channel

import (
	"bufio"
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
	reader  *bufio.Reader
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

// readAhead is how much of a connection is read at once where little is asked for.
const readAhead = 16 << 10

// growth is what a message that comes in parts is given room for at first.
const growth = 4 * chunk

// batch is how much is sealed before it is written.
const batch = 4 * (headSize + maxFrame)

// Hello gives what the device said of itself. It is proven: by its key, or its
// certificate, and by who let it in.
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

// rooms keeps what a frame is sealed or read in: a channel that is idle needs none.
var rooms = sync.Pool{New: func() any { b := make([]byte, 0, batch); return &b }}

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
	var plain [1 + chunk]byte
	for first := true; first || len(data) > 0; first = false {
		part := data[:min(chunk, len(data))]
		data = data[len(part):]
		if plain[0] = last; len(data) > 0 {
			plain[0] = recordPart
		}
		n := 1 + copy(plain[1:], part)
		var err error
		if out, err = c.out.seal(out, plain[:n]); err != nil {
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
func (c *Conn) Receive(ctx context.Context) ([]byte, error) {
	c.receiving.Lock()
	defer c.receiving.Unlock()
	if c.received != nil {
		return nil, c.received
	}
	message, err := c.receive(ctx)
	if err != nil {
		if err != io.EOF {
			err = fmt.Errorf("receive on the channel: %w", err)
		}
		c.received = err
		return nil, err
	}
	return message, nil
}

func (c *Conn) receive(ctx context.Context) ([]byte, error) {
	room := rooms.Get().(*[]byte)
	defer rooms.Put(room)
	stop := within(ctx, c.conn.SetReadDeadline)
	defer stop()
	var message []byte
	for {
		wait := c.limits.Idle
		if message != nil {
			wait = c.limits.Frame
		}
		plain, err := c.record(ctx, (*room)[:maxFrame], wait)
		if err != nil {
			return nil, err
		}
		switch plain[0] {
		case recordPart, recordLast:
			if len(message)+len(plain)-1 > c.limits.Message {
				return nil, fmt.Errorf("%w: more than %d bytes come", ErrTooLarge, c.limits.Message)
			}
			if len(plain) == 1 && (plain[0] == recordPart || message != nil) {
				return nil, fmt.Errorf("%w: an empty part of a message", ErrForm)
			}
			if free := cap(message) - len(message); plain[0] == recordPart && free < len(plain) {
				message = slices.Grow(message, max(len(message), growth)) // twice as much each time
			}
			if message = append(message, plain[1:]...); plain[0] == recordLast {
				return message, nil
			}
		case recordEnd:
			if len(plain) != 1 || message != nil {
				return nil, fmt.Errorf("%w: an end with something in it, or within a message", ErrForm)
			}
			return nil, io.EOF
		default:
			return nil, fmt.Errorf("%w: a record of type %d", ErrForm, plain[0])
		}
	}
}

// record reads and opens one frame, which begins within a time: at least the byte of its
// type.
func (c *Conn) record(ctx context.Context, room []byte, wait time.Duration) ([]byte, error) {
	if err := arm(ctx, c.conn.SetReadDeadline, wait); err != nil {
		return nil, err
	}
	if _, err := c.reader.Peek(1); err != nil {
		return nil, c.ended(ctx, err)
	}
	if err := arm(ctx, c.conn.SetReadDeadline, c.limits.Frame); err != nil {
		return nil, err
	}
	body, err := readFrame(c.reader, room, maxFrame)
	if err != nil {
		return nil, c.ended(ctx, err)
	}
	plain, err := c.in.open(body)
	if err != nil {
		return nil, err
	}
	if len(plain) == 0 || len(plain) > 1+chunk {
		return nil, fmt.Errorf("%w: a record of %d bytes", ErrForm, len(plain))
	}
	return plain, nil
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
