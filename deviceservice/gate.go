package deviceservice

import (
	"net/netip"
	"sync"

	"github.com/devicekeys/devicekeys/channel"
)

// gate counts connections: those whose device has not proven itself yet, over all sources
// and of each, and open channels apart from them, so that no number of silent connections
// keeps a device out that is let in already, nor one source another. It is safe for
// concurrent use.
type gate struct {
	most, mostOfSource, mostChannels int

	mu       sync.Mutex
	unproven int
	sources  map[netip.Prefix]int // unproven ones, by both networks of their sources; no zeros
	channels int
}

// cause says why a connection is turned away. It is a metric's label.
type cause string

const (
	causeChannels   cause = "channels"   // as many channels are open as may be
	causeHandshakes cause = "handshakes" // as many connections have not proven themselves
	causeSource     cause = "source"     // as many of this source have not
)

func newGate(most, mostOfSource, mostChannels int) *gate {
	return &gate{most: most, mostOfSource: mostOfSource, mostChannels: mostChannels, sources: map[netip.Prefix]int{}}
}

// enter takes a connection in that has proven nothing, or says why not.
func (g *gate) enter(from netip.Addr) (turned cause) {
	near, far := channel.Networks(from)
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.channels >= g.mostChannels:
		return causeChannels
	case g.sources[near] >= g.mostOfSource, far.IsValid() && g.sources[far] >= channel.SiteSources*g.mostOfSource:
		return causeSource
	case g.unproven >= g.most:
		return causeHandshakes
	}
	g.unproven++
	g.sources[near]++
	if far.IsValid() {
		g.sources[far]++
	}
	return ""
}

// leave takes one out again that was taken in.
func (g *gate) leave(from netip.Addr) {
	near, far := channel.Networks(from)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.unproven--
	g.forget(near)
	if far.IsValid() {
		g.forget(far)
	}
}

// forget takes one connection of a network out. Needs g.mu.
func (g *gate) forget(n netip.Prefix) {
	if g.sources[n]--; g.sources[n] <= 0 {
		delete(g.sources, n)
	}
}

// open counts a channel, unless as many are open as may be: then it gives false.
func (g *gate) open() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.channels >= g.mostChannels {
		return false
	}
	g.channels++
	return true
}

func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.channels--
}
