package fault

import "net"

// Loss says which burst is lost, and how.
type Loss struct {
	Direction Direction
	// Nth counts the bursts of that direction from 1, from the call of [Proxy.Lose] on,
	// over all connections, in the order in which they begin.
	Nth int
	// Kept: the burst is forwarded, all of it, and the first byte of its answer is not.
	// Else the burst itself is not forwarded.
	Kept bool
	// How both ends learn of it.
	How How
	// Hook, where set, runs at that point: the effect is lost or kept, neither end knows
	// yet, and this link moves no byte until it returns. It may kill either end. It
	// must not call the Proxy's Close.
	Hook func()
}

// armed is a loss that waits for its burst.
type armed struct {
	Loss
	left   int // bursts until it is the one
	struck chan struct{}
}

// strike carries the loss out on a link.
func (a *armed) strike(l *link) {
	if a.Hook != nil {
		a.Hook()
	}
	l.cut(a.How)
	close(a.struck)
}

// Lose arms a loss. Struck is closed once it has struck, hook and cut included. A
// Proxy has one at a time: another Lose, or [Proxy.Pass], takes the place of one that has
// not struck. A kept burst that gets no answer before its connection ends by itself had
// none to lose; the next burst takes its place.
func (p *Proxy) Lose(l Loss) (struck <-chan struct{}, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, net.ErrClosed
	}
	p.disarm()
	p.armed = &armed{Loss: l, left: max(l.Nth, 1), struck: make(chan struct{})}
	return p.armed.struck, nil
}

// disarm forgets a loss that has not struck; p.mu is held.
func (p *Proxy) disarm() {
	p.armed = nil
	for l := range p.links {
		l.answer = nil
	}
}

// Bursts is how many bursts have begun in a direction so far, over all connections.
func (p *Proxy) Bursts(d Direction) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.bursts[d]
}

// count takes note that data has come. It gives the loss that strikes now, if one does,
// and tells whether one has struck on this link.
func (p *Proxy) count(l *link, d Direction) (hit *armed, struck bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l.struck || l.last == d {
		return nil, l.struck // a burst that goes on
	}
	l.last = d
	p.bursts[d]++
	hit, l.answer = l.answer, nil
	if a := p.armed; hit == nil && a != nil && a.Direction == d {
		if a.left--; a.left == 0 {
			p.armed = nil
			if a.Kept {
				l.answer = a
			} else {
				hit = a
			}
		}
	}
	l.struck = hit != nil
	return hit, l.struck
}
