package fault_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/devicekeys/devicekeys/fault"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// bound is how long a test waits for what must come.
const bound = 20 * time.Second

// moment is how long a test waits for what must not come.
const moment = 50 * time.Millisecond

// echo is a server that answers each line with itself, and counts them.
type echo struct {
	net.Listener
	lines atomic.Int64
}

func newEcho(t *testing.T, network, address string) *echo {
	t.Helper()
	l, err := net.Listen(network, address)
	must(t, err)
	e := &echo{Listener: l}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				in := bufio.NewReader(c)
				for {
					line, err := in.ReadString('\n')
					if err != nil {
						return
					}
					e.lines.Add(1)
					if _, err := io.WriteString(c, line); err != nil {
						return
					}
				}
			}()
		}
	}()
	return e
}

func newProxy(t *testing.T, l net.Listener) *fault.Proxy {
	t.Helper()
	p, err := fault.NewProxy(l.Addr().Network(), l.Addr().String())
	must(t, err)
	t.Cleanup(func() { must(t, p.Close()) })
	return p
}

// client is a connection that asks and is answered.
type client struct {
	*net.TCPConn
	in *bufio.Reader
}

func dial(t *testing.T, p *fault.Proxy) *client {
	t.Helper()
	c, err := net.DialTimeout("tcp", p.Addr(), bound)
	must(t, err)
	t.Cleanup(func() { c.Close() })
	must(t, c.SetDeadline(time.Now().Add(bound)))
	return &client{c.(*net.TCPConn), bufio.NewReader(c)}
}

func (c *client) ask(text string) error {
	if _, err := io.WriteString(c, text+"\n"); err != nil {
		return err
	}
	got, err := c.in.ReadString('\n')
	if err == nil && got != text+"\n" {
		err = fmt.Errorf("asked %q, answered %q", text, got)
	}
	return err
}

func TestForward(t *testing.T) {
	t.Parallel()
	for network, address := range map[string]string{"tcp": "127.0.0.1:0", "unix": filepath.Join(t.TempDir(), "socket")} {
		l, err := net.Listen(network, address)
		must(t, err)
		defer l.Close()
		p := newProxy(t, l)
		sent, back := make([]byte, 1<<20), make([]byte, 3<<20)
		random := rand.NewChaCha8([32]byte{1})
		random.Read(sent)
		random.Read(back)
		got := make(chan []byte, 1)
		go func() {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			b, _ := io.ReadAll(c) // to the client's end of writing: ends halves are forwarded
			c.Write(back)
			got <- b
		}()
		c := dial(t, p)
		_, err = c.Write(sent)
		must(t, errors.Join(err, c.CloseWrite()))
		answer, err := io.ReadAll(c)
		must(t, err)
		if !bytes.Equal(answer, back) || !bytes.Equal(<-got, sent) {
			t.Errorf("%s: bytes were changed on the way", network)
		}
		if p.Bursts(fault.Forth) != 1 || p.Bursts(fault.Back) != 1 || p.Accepted() != 1 {
			t.Errorf("%s: %d and %d bursts on %d connections", network, p.Bursts(fault.Forth), p.Bursts(fault.Back), p.Accepted())
		}
	}
}

func TestCut(t *testing.T) {
	t.Parallel()
	p := newProxy(t, newEcho(t, "tcp", "127.0.0.1:0"))
	for how, want := range map[fault.How]error{fault.Reset: syscall.ECONNRESET, fault.Finish: io.EOF} {
		c := dial(t, p)
		must(t, c.ask("hello"))
		p.Cut(how)
		if _, err := c.in.ReadByte(); !errors.Is(err, want) {
			t.Errorf("cut %d: %v, want %v", how, err, want)
		}
		must(t, dial(t, p).ask("new connections are forwarded"))
	}
}

func TestRefuse(t *testing.T) {
	t.Parallel()
	p := newProxy(t, newEcho(t, "tcp", "127.0.0.1:0"))
	address := p.Addr()
	for range 3 {
		c := dial(t, p)
		must(t, c.ask("hello"))
		must(t, p.Refuse())
		must(t, p.Refuse()) // again: nothing happens
		if err := c.ask("cut"); err == nil {
			t.Error("the connection goes on")
		}
		if _, err := net.DialTimeout("tcp", address, bound); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%v, want refused", err)
		}
		must(t, p.Pass())
	}
	if p.Addr() != address {
		t.Errorf("the address was %s and is %s", address, p.Addr())
	}
	must(t, dial(t, p).ask("hello"))
}

func TestBlackHole(t *testing.T) {
	t.Parallel()
	e := newEcho(t, "tcp", "127.0.0.1:0")
	p := newProxy(t, e)
	old := dial(t, p)
	must(t, old.ask("1"))
	must(t, p.BlackHole())
	fresh := dial(t, p) // accepted all the same
	for _, c := range []*client{old, fresh} {
		_, err := io.WriteString(c, "held\n")
		must(t, err)
		must(t, c.SetReadDeadline(time.Now().Add(moment)))
		var timeout net.Error
		if _, err := c.in.ReadByte(); !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("%v, want no answer", err)
		}
	}
	if n := e.lines.Load(); n != 1 {
		t.Errorf("%d lines arrived", n)
	}
	must(t, p.Pass())
	for _, c := range []*client{old, fresh} {
		must(t, c.SetReadDeadline(time.Now().Add(bound)))
		if got, err := c.in.ReadString('\n'); got != "held\n" {
			t.Errorf("%q, %v: what was held must go on", got, err)
		}
	}
}

func TestDelay(t *testing.T) {
	t.Parallel()
	p := newProxy(t, newEcho(t, "tcp", "127.0.0.1:0"))
	c := dial(t, p)
	must(t, c.ask("1"))
	must(t, p.Delay(moment))
	start := time.Now()
	must(t, c.ask("2"))
	if took := time.Since(start); took < 2*moment {
		t.Errorf("both ways took %s, each must take at least %s", took, moment)
	}
}

func TestLose(t *testing.T) {
	t.Parallel()
	e := newEcho(t, "tcp", "127.0.0.1:0")
	p := newProxy(t, e)
	for _, c := range []struct {
		direction fault.Direction
		nth       int
		kept      bool
		how       fault.How
		arrived   int // lines that reach the server, of those asked up to the loss
	}{
		{fault.Forth, 1, false, fault.Reset, 0},
		{fault.Forth, 1, true, fault.Reset, 1},
		{fault.Forth, 3, false, fault.Finish, 2},
		{fault.Forth, 3, true, fault.Finish, 3},
		{fault.Back, 1, false, fault.Reset, 1},
		{fault.Back, 3, false, fault.Finish, 3},
		{fault.Back, 2, true, fault.Reset, 2}, // the answer arrives, the next question doesn't
	} {
		name := fmt.Sprintf("%+v", c)
		before := e.lines.Load()
		conn := dial(t, p)
		at := int64(-1)
		struck, err := p.Lose(fault.Loss{Direction: c.direction, Nth: c.nth, Kept: c.kept, How: c.how, Hook: func() { at = e.lines.Load() - before }})
		must(t, err)
		answered := 0
		for i := range 10 {
			// One line more than the server has, at most: so what was lost is what the hook saw.
			if err = conn.ask(strings.Repeat("x", 1+i*1000)); err != nil {
				break
			}
			answered++
		}
		wanted := c.nth - 1
		if c.direction == fault.Back && c.kept {
			wanted++
		}
		if answered != wanted || err == nil {
			t.Errorf("%s: %d answers, want %d; %v", name, answered, wanted, err)
		}
		select {
		case <-struck:
		case <-time.After(bound):
			t.Fatalf("%s: did not strike", name)
		}
		if at != int64(c.arrived) || e.lines.Load()-before != at {
			t.Errorf("%s: at the hook %d lines had arrived, then %d; want %d", name, at, e.lines.Load()-before, c.arrived)
		}
		must(t, dial(t, p).ask("others go on"))
	}
}

// A loss is over all connections, and forgotten at Pass.
func TestLoseElsewhere(t *testing.T) {
	t.Parallel()
	e := newEcho(t, "tcp", "127.0.0.1:0")
	p := newProxy(t, e)
	a, b := dial(t, p), dial(t, p)
	struck, err := p.Lose(fault.Loss{Nth: 3})
	must(t, err)
	must(t, a.ask("1"))
	must(t, b.ask("2"))
	if err := a.ask("3"); err == nil {
		t.Error("the third burst was answered")
	}
	<-struck
	must(t, b.ask("4"))

	if struck, err = p.Lose(fault.Loss{Nth: 1}); err != nil {
		t.Fatal(err)
	}
	must(t, p.Pass())
	must(t, b.ask("5"))
	select {
	case <-struck:
		t.Error("a loss struck after Pass")
	default:
	}

	// A burst without an answer is none whose answer can be lost.
	struck, err = p.Lose(fault.Loss{Nth: 1, Kept: true})
	must(t, err)
	c := dial(t, p)
	_, err = io.WriteString(c, "no end of line")
	must(t, errors.Join(err, c.CloseWrite()))
	if _, err := c.in.ReadByte(); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	for until := time.Now().Add(bound); ; {
		before := e.lines.Load()
		if err := b.ask("6"); err != nil {
			if e.lines.Load() != before+1 {
				t.Error("the effect was lost")
			}
			break
		}
		if time.Now().After(until) {
			t.Fatal("the loss waits for ever")
		}
	}
	<-struck
}

// Close ends connections in every mode, and whatever waits.
func TestClose(t *testing.T) {
	t.Parallel()
	for name, break_ := range map[string]func(*fault.Proxy) error{
		"pass":       (*fault.Proxy).Pass,
		"delay":      func(p *fault.Proxy) error { return p.Delay(time.Hour) },
		"black hole": (*fault.Proxy).BlackHole,
		"refuse":     (*fault.Proxy).Refuse,
		"finish":     func(p *fault.Proxy) error { p.Cut(fault.Finish); return nil },
	} {
		p := newProxy(t, newEcho(t, "tcp", "127.0.0.1:0"))
		c := dial(t, p)
		must(t, c.ask("1"))
		must(t, break_(p))
		io.WriteString(c, "2\n") // may fail
		ended := make(chan error, 1)
		go func() { ended <- p.Close() }()
		select {
		case err := <-ended:
			must(t, err)
		case <-time.After(bound):
			t.Fatalf("%s: Close does not end", name)
		}
		if _, err := io.Copy(io.Discard, c); err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := net.DialTimeout("tcp", p.Addr(), bound); err == nil {
			t.Errorf("%s: it still accepts", name)
		}
		if err := p.Pass(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := p.Lose(fault.Loss{}); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: %v", name, err)
		}
		must(t, p.Close())
	}
}

// A target that is away is a connection that ends at once; another one is taken from then on.
func TestSetTarget(t *testing.T) {
	t.Parallel()
	e := newEcho(t, "tcp", "127.0.0.1:0")
	p, err := fault.NewProxy("unix", filepath.Join(t.TempDir(), "nobody"))
	must(t, err)
	defer p.Close()
	if c, err := net.DialTimeout("tcp", p.Addr(), bound); err == nil { // else it was cut as soon as it was there
		defer c.Close()
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("nobody answers, and something came")
		}
	}
	p.SetTarget("tcp", e.Addr().String())
	must(t, dial(t, p).ask("2"))
}
