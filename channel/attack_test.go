package channel_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/devicekeys/devicekeys/channel"
)

// wire is a man in the middle: what passes is kept, and may be changed.
type wire struct {
	mu       sync.Mutex
	toServer []byte
	toDevice []byte
}

// between connects two pairs through a wire. change is given each direction's bytes so far and what comes, and gives
// what goes on; false cuts the connection after it.
func between(t testing.TB, change func(toServer bool, before int, b []byte) ([]byte, bool)) (device, service net.Conn, w *wire) {
	t.Helper()
	device, near := pair(t)
	far, service := pair(t)
	w = &wire{}
	pass := func(from, to net.Conn, toServer bool) {
		defer to.Close()
		b := make([]byte, 32<<10)
		for {
			n, err := from.Read(b)
			w.mu.Lock()
			seen := &w.toDevice
			if toServer {
				seen = &w.toServer
			}
			before := len(*seen)
			*seen = append(*seen, b[:n]...)
			w.mu.Unlock()
			out, on := bytes.Clone(b[:n]), true
			if change != nil {
				out, on = change(toServer, before, out)
			}
			if _, e := to.Write(out); e != nil || err != nil || !on {
				from.Close()
				return
			}
		}
	}
	go pass(near, far, true)
	go pass(far, near, false)
	return device, service, w
}

func (w *wire) lengths() (toServer, toDevice int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.toServer), len(w.toDevice)
}

// talk opens a channel, sends one message each way and ends it; it gives both sides' errors.
func talk(t testing.TB, a, b net.Conn) (one, other error) {
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	d := func() error {
		defer a.Close()
		c, err := channel.Client(ctx, a, device(t, channel.SuiteNoise, 1))
		if err != nil {
			return err
		}
		if err := c.Send(ctx, []byte("what is the time?")); err != nil {
			return err
		}
		if _, err := c.Receive(ctx); err != nil {
			return err
		}
		if err := c.CloseWrite(ctx); err != nil {
			return err
		}
		if _, err = c.Receive(ctx); err == io.EOF {
			return nil
		}
		return errors.Join(err, errors.New("after the end"))
	}
	s := func() error {
		defer b.Close()
		m := &maker{}
		c, err := channel.Server(ctx, b, m.config())
		if err != nil {
			return err
		}
		if _, err := c.Receive(ctx); err != nil {
			return err
		}
		if err := c.Send(ctx, []byte("late")); err != nil {
			return err
		}
		if _, err = c.Receive(ctx); err != io.EOF {
			return errors.Join(err, errors.New("no end"))
		}
		return c.CloseWrite(ctx)
	}
	done := make(chan error, 1)
	go func() { done <- s() }()
	one = d()
	return one, <-done
}

// TestEveryByte: each byte of a whole conversation is changed once, and the connection is cut after each once. No side
// ever takes it for the whole conversation.
func TestEveryByte(t *testing.T) {
	t.Parallel()
	a, b, w := between(t, nil)
	if d, s := talk(t, a, b); d != nil || s != nil {
		t.Fatalf("device: %v; service: %v", d, s)
	}
	toServer, toDevice := w.lengths()
	if toServer < 100 || toDevice < 100 {
		t.Fatalf("%d and %d bytes were seen", toServer, toDevice)
	}
	for _, direction := range []struct {
		toServer bool
		n        int
	}{{true, toServer}, {false, toDevice}} {
		for at := range direction.n {
			for _, cut := range []bool{false, true} {
				// The length of the last frame, made longer, is a cut, and so on: both sides may see it, one must.
				a, b, _ := between(t, func(toServer bool, before int, p []byte) ([]byte, bool) {
					i := at - before
					if toServer != direction.toServer || i < 0 || i >= len(p) {
						return p, true
					}
					if cut {
						return p[:i], false
					}
					p[i] ^= 0x40
					return p, true
				})
				late := time.AfterFunc(bound/2, func() { a.Close(); b.Close() })
				go func() { // a frame that is announced longer than it is: nobody waits for the limit
					time.Sleep(300 * time.Millisecond)
					a.Close()
					b.Close()
				}()
				d, s := talk(t, a, b)
				late.Stop()
				if d == nil && s == nil {
					t.Errorf("byte %d to the service %t, cut %t: nobody noticed", at, direction.toServer, cut)
				}
			}
		}
	}
}

// TestReplay: what a device sent once opens no second channel.
func TestReplay(t *testing.T) {
	t.Parallel()
	a, b, w := between(t, nil)
	if d, s := talk(t, a, b); d != nil || s != nil {
		t.Fatalf("device: %v; service: %v", d, s)
	}
	w.mu.Lock()
	toServer, toDevice := bytes.Clone(w.toServer), bytes.Clone(w.toDevice)
	w.mu.Unlock()
	replay := func(to net.Conn, what []byte) {
		_, _ = to.Write(what)
		_, _ = io.Copy(io.Discard, to)
	}
	x, y := pair(t)
	go replay(x, toServer)
	m := &maker{}
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	if _, err := channel.Server(ctx, y, m.config()); !errors.Is(err, channel.ErrRefused) {
		t.Errorf("the service took a recording: %v", err)
	}
	if m.open.Load() != 0 {
		t.Error("a key was not given back")
	}
	// And a device takes no recorded service.
	x, y = pair(t)
	go replay(y, toDevice)
	if _, err := channel.Client(ctx, x, device(t, channel.SuiteNoise, 1)); !errors.Is(err, channel.ErrRefused) {
		t.Errorf("the device took a recording: %v", err)
	}
}

// TestReflection: a device that is sent back what it sends opens no channel with itself.
func TestReflection(t *testing.T) {
	t.Parallel()
	x, y := pair(t)
	go func() {
		b := make([]byte, 4096)
		n, _ := y.Read(b)
		h := 2 + int(b[0])<<8 + int(b[1]) // the hello's frame stays out
		_, _ = y.Write(b[h:n])
		_, _ = io.Copy(y, y)
	}()
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	if _, err := channel.Client(ctx, x, device(t, channel.SuiteNoise, 1)); !errors.Is(err, channel.ErrReflected) {
		t.Errorf("%v", err)
	}
}

// TestSlow: a peer that takes its time is left, in a handshake, in a frame and between messages.
func TestSlow(t *testing.T) {
	t.Parallel()
	limits := channel.Limits{Handshake: 200 * time.Millisecond, Idle: 200 * time.Millisecond, Frame: 200 * time.Millisecond}
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	m := &maker{}
	s := m.config()
	s.Limits = limits
	drip := func(c net.Conn) {
		for range 100 {
			if _, err := c.Write([]byte{0}); err != nil {
				return
			}
			time.Sleep(30 * time.Millisecond)
		}
	}
	for name, peer := range map[string]func(net.Conn){
		"silent":  func(net.Conn) {},
		"drips":   func(c net.Conn) { _, _ = c.Write([]byte{0, 200}); drip(c) },
		"TLS":     func(c net.Conn) { _, _ = c.Write([]byte{0x16, 3, 1}) },
		"garbage": func(c net.Conn) { _, _ = c.Write(bytes.Repeat([]byte{0xff}, 1000)) },
	} {
		a, b := pair(t)
		go peer(a)
		if _, err := channel.Server(ctx, b, s); err == nil {
			t.Errorf("%s: a channel", name)
		}
		a, b = pair(t)
		d := device(t, channel.SuiteNoise, 1)
		d.Limits = limits
		go peer(b)
		if _, err := channel.Client(ctx, a, d); err == nil {
			t.Errorf("%s: a channel for the device", name)
		}
	}
	d := device(t, channel.SuiteNoise, 1)
	s.Limits.Handshake = bound // the machine may be slow; the peer isn't
	x, y := opened(t, d, s)
	if _, err := y.Receive(ctx); !errors.Is(err, channel.ErrIdle) {
		t.Errorf("silence: %v", err)
	}
	_ = x
	// Within a frame.
	a, b := pair(t)
	one, other := meet(t, a, b, d, s)
	must(t, errors.Join(one.err, other.err))
	go func() { _, _ = a.Write([]byte{0, 100}); drip(a) }()
	if _, err := other.conn.Receive(ctx); !errors.Is(err, channel.ErrIdle) {
		t.Errorf("a slow frame: %v", err)
	}
	// One that doesn't take what it is sent.
	a, b = pair(t)
	one, other = meet(t, a, b, d, s)
	must(t, errors.Join(one.err, other.err))
	var err error
	for i := 0; err == nil && i < 100; i++ {
		err = other.conn.Send(ctx, make([]byte, 1<<20))
	}
	if !errors.Is(err, channel.ErrIdle) {
		t.Errorf("a peer that takes nothing: %v", err)
	}
}

// TestSlowMessage: who has begun a message goes on with it, however long the silence between two may be.
func TestSlowMessage(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	a, b := pair(t)
	c := channel.Plain(b, channel.Limits{Idle: time.Hour, Frame: 100 * time.Millisecond})
	_, err := a.Write(frames([]byte{1, 'a'}))
	must(t, err)
	if _, err := c.Receive(ctx); !errors.Is(err, channel.ErrIdle) {
		t.Errorf("%v", err)
	}
}

// TestContextEnds: a context that ends as a message is through leaves the channel as it was.
func TestContextEnds(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	anew := func() *channel.Conn {
		a, b := opened(t, device(t, channel.SuiteNoise, 1), (&maker{}).config())
		go func() {
			for {
				if _, err := b.Receive(ctx); err != nil {
					return
				}
			}
		}()
		return a
	}
	a := anew()
	for range 300 {
		short, stop := context.WithCancel(ctx)
		go stop()
		if err := a.Send(short, []byte("with a context that ends")); errors.Is(err, context.Canceled) {
			a = anew() // it ended before the message was through
		} else if err != nil {
			t.Fatal(err)
		}
		if err := a.Send(ctx, []byte("with one that doesn't")); err != nil {
			t.Fatal(err)
		}
	}
}

// TestLowOrder: an ephemeral key of low order, with which every agreement gives zero, opens nothing.
func TestLowOrder(t *testing.T) {
	t.Parallel()
	x, y := pair(t)
	raw, err := hello(t, channel.SuiteNoise, 1).Encode()
	must(t, err)
	first, err := channel.FirstMessage(raw, make([]byte, 32))
	must(t, err)
	_, err = x.Write(frames(append([]byte{1}, raw...), append([]byte{2}, first...)))
	must(t, err)
	m := &maker{}
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	if _, err := channel.Server(ctx, y, m.config()); err == nil || errors.Is(err, channel.ErrForm) {
		t.Errorf("%v", err)
	}
	if m.open.Load() != 0 || m.asked.Load() != 1 {
		t.Errorf("%d keys were asked for, %d not given back", m.asked.Load(), m.open.Load())
	}
}

// TestLimits: a message longer than this side takes ends the direction, and so does a context.
func TestLimits(t *testing.T) {
	t.Parallel()
	m := &maker{}
	s := m.config()
	s.Limits.Message = 100
	ctx := t.Context()
	a, b := opened(t, device(t, channel.SuiteNoise, 1), s)
	must(t, a.Send(ctx, make([]byte, 101)))
	if _, err := b.Receive(ctx); !errors.Is(err, channel.ErrTooLarge) {
		t.Errorf("%v", err)
	}
	if _, err := b.Receive(ctx); !errors.Is(err, channel.ErrTooLarge) {
		t.Errorf("once more: %v", err)
	}
	stopped, stop := context.WithCancel(ctx)
	time.AfterFunc(20*time.Millisecond, stop)
	if _, err := a.Receive(stopped); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	for _, l := range []channel.Limits{{Message: -1}, {Message: channel.MaxMessage + 1}, {Idle: -1}} {
		d := device(t, channel.SuiteNoise, 1)
		d.Limits = l
		if _, err := channel.Client(ctx, nil, d); err == nil {
			t.Errorf("%+v were taken", l)
		}
	}
}
