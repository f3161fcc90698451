package fault

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// Bounds of waiting. A read has none of its own: a connection may rest as long as
// its ends like, and ends with the Proxy.
const (
	// dialBound bounds a connection to the target. It is on the same machine.
	dialBound = 5 * time.Second
	// writeBound is how long an end may take nothing: above every fault that a test
	// lets last, so that a program that was paused and goes on finds its connections.
	writeBound = 2 * time.Minute
	// finishBound is how long an end that was told the end (FIN) may go on sending.
	finishBound = time.Second
)

// A Proxy listens at a port of the loopback address and forwards each connection to its
// target, until it is told to do otherwise. It begins by forwarding. Its methods are safe
// for concurrent use.
type Proxy struct {
	port   *port
	ctx    context.Context // ends with the Proxy
	cancel context.CancelFunc
	work   sync.WaitGroup // the goroutines

	mu       sync.Mutex // guards what follows
	target   target
	listener net.Listener // nil while connections are refused
	mode     mode
	changed  chan struct{} // closed when mode changes, and replaced
	links    map[*link]bool
	armed    *armed // the loss that has not struck yet
	bursts   [2]int64
	accepted int64
	closed   bool
}

// target is where connections go.
type target struct{ network, address string }

// mode is what happens to bytes.
type mode struct {
	kind  modeKind
	delay time.Duration
}

type modeKind int

const (
	passing modeKind = iota
	delaying
	holding
	refusing
)

// NewProxy starts a proxy in front of a TCP address ("tcp", "127.0.0.1:7443") or a Unix
// socket ("unix", a path). Nobody needs to listen there yet. The caller closes it.
func NewProxy(network, address string) (*Proxy, error) {
	p := &Proxy{target: target{network, address}, changed: make(chan struct{}), links: map[*link]bool{}}
	var err error
	if p.port, err = newPort(); err != nil {
		return nil, fmt.Errorf("proxy to %s: %w", address, err)
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.listen(); err != nil {
		p.cancel()
		return nil, errors.Join(fmt.Errorf("proxy to %s: %w", address, err), p.port.close())
	}
	return p, nil
}

// Addr is where the proxy listens, host:port. It stays the same.
func (p *Proxy) Addr() string { return p.port.address() }

// SetTarget changes where new connections go: a server that was started again may have
// another socket.
func (p *Proxy) SetTarget(network, address string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = target{network, address}
}

// Pass ends every fault: what was held goes on, connections are accepted, a loss that
// has not struck never will.
func (p *Proxy) Pass() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.disarm()
	return p.set(mode{kind: passing})
}

// Delay has every piece of data wait for d before it goes on, both ways.
func (p *Proxy) Delay(d time.Duration) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.set(mode{delaying, d})
}

// BlackHole accepts connections and forwards nothing, as a network does that lost its way:
// no error, no end, no byte. Pass lets what was held go on, as retransmission would.
func (p *Proxy) BlackHole() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.set(mode{kind: holding})
}

// Refuse cuts the connections (RST) and refuses new ones, as a machine does on which the
// program does not run.
func (p *Proxy) Refuse() error {
	p.mu.Lock()
	err := p.set(mode{kind: refusing})
	p.mu.Unlock()
	p.Cut(Reset)
	return err
}

// Cut ends the connections there are and tells how many. New ones are forwarded.
func (p *Proxy) Cut(how How) int {
	p.mu.Lock()
	links := make([]*link, 0, len(p.links))
	for l := range p.links {
		links = append(links, l)
	}
	p.mu.Unlock()
	for _, l := range links {
		l.cut(how)
	}
	return len(links)
}

// set changes the mode; p.mu is held.
func (p *Proxy) set(m mode) error {
	if p.closed {
		return net.ErrClosed
	}
	p.mode = m
	close(p.changed)
	p.changed = make(chan struct{})
	if m.kind == refusing {
		if p.listener == nil {
			return nil
		}
		l := p.listener
		p.listener = nil
		return l.Close()
	}
	if p.listener != nil {
		return nil
	}
	return p.listen()
}

// listen begins to accept; p.mu is held.
func (p *Proxy) listen() error {
	l, err := p.port.listen()
	if err != nil {
		return fmt.Errorf("proxy at %s: %w", p.Addr(), err)
	}
	p.listener = l
	p.work.Go(func() { p.accept(l) })
	return nil
}

// accept takes connections until the listener is closed.
func (p *Proxy) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// Out of descriptors, say: what is there goes on, and a moment later there may be one.
			select {
			case <-p.ctx.Done():
				return
			case <-time.After(10 * time.Millisecond):
			}
			continue
		}
		p.add(c)
	}
}

// add takes a connection into the books and serves it.
func (p *Proxy) add(client net.Conn) {
	l := &link{proxy: p, gone: make(chan struct{}), last: -1}
	l.ends[Forth] = client
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.mode.kind == refusing {
		drop(client)
		return
	}
	p.links[l] = true
	p.accepted++
	p.work.Go(l.serve)
}

// forget takes a link out of the books.
func (p *Proxy) forget(l *link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.links, l)
	if l.answer != nil {
		// Its answer never came, so there was none to lose: the next burst is as good.
		if p.armed == nil {
			p.armed = l.answer
			p.armed.left = 1
		}
		l.answer = nil
	}
}

// now gives the mode and a channel that is closed when it changes.
func (p *Proxy) now() (mode, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mode, p.changed
}

// Accepted is how many connections were accepted so far.
func (p *Proxy) Accepted() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.accepted
}

// Close cuts every connection and ends the proxy. It returns when nothing of it runs
// any more, which includes a hook that runs.
func (p *Proxy) Close() error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		p.work.Wait()
		return nil
	}
	p.disarm()
	var err error
	if p.listener != nil {
		err = p.listener.Close()
		p.listener = nil
	}
	p.closed = true
	p.mu.Unlock()
	p.cancel()
	p.Cut(Reset)
	p.work.Wait()
	return errors.Join(err, p.port.close())
}
