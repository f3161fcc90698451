// Package client is the device's side of the device service: it opens a channel and asks for services over it. It needs
// no HSM and no store: the device's key is a function (channel.MAC) or a crypto.Signer.
package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/devicekeys/devicekeys/channel"
	"github.com/devicekeys/devicekeys/deviceservice/call"
)

// ErrBroken says that the channel is of no more use: open another one.
var ErrBroken = errors.New("the channel is broken")

// BusyError says that the service can't answer now.
type BusyError struct{ After time.Duration } // ask again then

func (e *BusyError) Error() string {
	return fmt.Sprintf("the device service is busy, ask again in %s", e.After)
}

// Is lets it match call.Busy.
func (e *BusyError) Is(target error) bool { return target == call.Busy }

// Client asks for services over one channel. It is safe for concurrent use; requests go one after another.
type Client struct {
	conn *channel.Conn

	mu     sync.Mutex
	last   uint64
	broken error
}

// Dial connects and opens a channel. Every wait ends with ctx.
func Dial(ctx context.Context, addr string, config channel.DeviceConfig) (*Client, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("connect to the device service: %w", err)
	}
	c, err := Open(ctx, conn, config)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return c, nil
}

// Open opens a channel on a connection, which is the client's from then on. On an error it is the caller's.
func Open(ctx context.Context, conn net.Conn, config channel.DeviceConfig) (*Client, error) {
	c, err := channel.Client(ctx, conn, config)
	if err != nil {
		return nil, fmt.Errorf("open channel with the device service: %w", err)
	}
	return &Client{conn: c}, nil
}

// Channel gives the channel, for what is bound to it.
func (c *Client) Channel() *channel.Conn { return c.conn }

// Call asks for a service and gives the answer's body. An error matches the call.Status that the service answered with,
// or ErrBroken: then it is not known whether the request was served.
func (c *Client) Call(ctx context.Context, method string, body []byte) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.broken != nil {
		return nil, fmt.Errorf("ask for %q: %w: %w", method, ErrBroken, c.broken)
	}
	b, err := call.Request{ID: c.last + 1, Method: method, Body: body}.Encode()
	if err != nil {
		return nil, fmt.Errorf("ask for %q: %w", method, err)
	}
	c.last++
	a, err := c.exchange(ctx, b)
	if err != nil {
		c.broken = err
		return nil, fmt.Errorf("ask for %q: %w: %w", method, ErrBroken, err)
	}
	switch a.Status {
	case call.OK:
		return a.Body, nil
	case call.Busy:
		after, err := call.ParseRetry(a.Body)
		if err != nil {
			return nil, fmt.Errorf("ask for %q: %w: %w", method, call.Busy, err)
		}
		return nil, fmt.Errorf("ask for %q: %w", method, &BusyError{after})
	}
	return nil, fmt.Errorf("ask for %q: %w", method, a.Status)
}

func (c *Client) exchange(ctx context.Context, request []byte) (call.Answer, error) {
	if err := c.conn.Send(ctx, request); err != nil {
		return call.Answer{}, err
	}
	b, err := c.conn.Receive(ctx)
	if err != nil {
		return call.Answer{}, err
	}
	a, err := call.ParseAnswer(b)
	if err == nil && a.ID != c.last {
		err = fmt.Errorf("the answer is to request %d, not to %d", a.ID, c.last)
	}
	return a, err
}

// Time gives the service's time.
func (c *Client) Time(ctx context.Context) (time.Time, error) {
	b, err := c.Call(ctx, call.MethodTime, nil)
	if err != nil {
		return time.Time{}, err
	}
	return call.ParseTime(b)
}

// Status gives what the service knows of the device.
func (c *Client) Status(ctx context.Context) (call.DeviceStatus, error) {
	b, err := c.Call(ctx, call.MethodStatus, nil)
	if err != nil {
		return call.DeviceStatus{}, err
	}
	return call.ParseStatus(b)
}

// Echo sends bytes and gives them back.
func (c *Client) Echo(ctx context.Context, body []byte) ([]byte, error) {
	return c.Call(ctx, call.MethodEcho, body)
}

// endTime bounds the proper end of a channel.
const endTime = 2 * time.Second

// Close ends the channel properly.
func (c *Client) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), endTime)
	defer cancel()
	c.mu.Lock()
	defer c.mu.Unlock()
	end := error(nil)
	if c.broken == nil {
		end = c.conn.CloseWrite(ctx)
		c.broken = net.ErrClosed
	}
	return errors.Join(end, c.conn.Close())
}
