package fault

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// Direction is a way through a proxy.
type Direction int

// The two ways.
const (
	Forth Direction = iota // from the one who connected: requests
	Back                   // to the one who connected: answers
)

func (d Direction) String() string {
	if d == Forth {
		return "forth"
	}
	return "back"
}

// How a connection ends.
type How int

// The two ways of ending.
const (
	Reset  How = iota // RST: at once, what was under way is lost
	Finish            // FIN: as a program does that ends in order
)

// link is one connection through a proxy.
type link struct {
	proxy *Proxy
	ends  [2]net.Conn   // who connected, and the target; [Back] is set before bytes move
	gone  chan struct{} // closed when the link is cut
	once  sync.Once     // cuts once

	mu sync.Mutex // guards ends[Back] while it is being connected

	// Guarded by proxy.mu.
	last   Direction // of the burst under way; -1 before the first
	answer *armed    // the burst under way is one whose answer is to be lost
	struck bool      // a loss strikes: no byte moves any more
}

// serve forwards until both ways have ended.
func (l *link) serve() {
	defer l.proxy.forget(l)
	if !l.connect() {
		l.cut(Reset)
		return
	}
	var ways sync.WaitGroup
	for _, d := range []Direction{Forth, Back} {
		ways.Go(func() { l.pump(d) })
	}
	ways.Wait()
	for _, c := range l.ends {
		c.Close() // cut already, or both ways have said all they had
	}
}

// connect dials the target, once the mode lets bytes through.
func (l *link) connect() bool {
	if !l.gate() {
		return false
	}
	l.proxy.mu.Lock()
	t := l.proxy.target
	l.proxy.mu.Unlock()
	c, err := (&net.Dialer{Timeout: dialBound}).DialContext(l.proxy.ctx, t.network, t.address)
	if err != nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.gone:
		drop(c)
		return false
	default:
	}
	l.ends[Back] = c
	return true
}

// pump forwards one way until that ends.
func (l *link) pump(d Direction) {
	from, to := l.ends[d], l.ends[1-d]
	b := make([]byte, 32<<10)
	for {
		n, err := from.Read(b)
		if n > 0 && !l.forward(d, b[:n], to) {
			// Cut. What the end still says is read, so that a FIN doesn't become a RST; the cut has
			// set the bound.
			_, _ = io.Copy(io.Discard, from)
			return
		}
		switch {
		case errors.Is(err, io.EOF):
			closeWrite(to)
			return
		case err != nil:
			l.cut(Reset)
			return
		}
	}
}

// forward lets a piece of data go on, or tells that the link is cut.
func (l *link) forward(d Direction, b []byte, to net.Conn) bool {
	hit, struck := l.proxy.count(l, d)
	if hit != nil {
		hit.strike(l)
		return false
	}
	if struck {
		<-l.gone // within the time of the hook
		return false
	}
	if !l.gate() {
		return false
	}
	if err := to.SetWriteDeadline(time.Now().Add(writeBound)); err != nil {
		return false
	}
	if _, err := to.Write(b); err != nil {
		l.cut(Reset)
		return false
	}
	return true
}

// gate waits as the mode says; false means that the link was cut meanwhile.
func (l *link) gate() bool {
	for {
		m, changed := l.proxy.now()
		var wait <-chan time.Time
		switch m.kind {
		case passing:
			select {
			case <-l.gone:
				return false
			default:
				return true
			}
		case delaying:
			timer := time.NewTimer(m.delay)
			defer timer.Stop()
			wait = timer.C
			changed = nil // a delay that has begun is served to its end
		}
		select {
		case <-l.gone:
			return false
		case <-wait:
			return true
		case <-changed:
		}
	}
}

// cut ends the link, once.
func (l *link) cut(how How) {
	l.once.Do(func() {
		close(l.gone)
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, c := range l.ends {
			switch {
			case c == nil:
			case how == Finish:
				closeWrite(c)
				// The pump reads what comes to the end of this; what it writes fails.
				c.SetReadDeadline(time.Now().Add(finishBound))
			default:
				drop(c)
			}
		}
	})
}

// drop closes with RST, where the network has it.
func drop(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	c.Close()
}

// closeWrite tells the end of one way.
func closeWrite(c net.Conn) {
	if h, ok := c.(interface{ CloseWrite() error }); ok {
		h.CloseWrite() // it may be gone
	}
}
