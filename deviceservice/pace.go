package deviceservice

import (
	"context"
	"slices"
	"sync"
	"time"
)

const (
	// paceSamples is how many handshakes are remembered: few enough to follow the load within seconds.
	paceSamples = 64
	// paceFirst is taken for a handshake's time before there was one: that of SoftHSM on a free machine.
	paceFirst = 2 * time.Millisecond
	// paceMost bounds the wait of any peer, which holds memory meanwhile.
	paceMost = 250 * time.Millisecond
)

// pace makes refusals and admissions take the same time: from the hello to the answer, both wait as long as the slowest
// of the last handshakes took at the HSM, a few milliseconds, and wake by the same timer. So a stranger who measures
// finds one distribution, but for the rare handshake that is slower than all of the last ones, and no HSM call is spent
// on strangers, as a decoy key would. It is safe for concurrent use.
type pace struct {
	mu      sync.Mutex
	samples []time.Duration // a ring
	next    int
}

// took notes how long an admission took, without its wait.
func (p *pace) took(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	d = min(d, paceMost)
	if len(p.samples) < paceSamples {
		p.samples = append(p.samples, d)
		return
	}
	p.samples[p.next] = d
	p.next = (p.next + 1) % paceSamples
}

// slowest gives the longest of the last times.
func (p *pace) slowest() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.samples) == 0 {
		return paceFirst
	}
	return slices.Max(p.samples)
}

// wait waits until as much time has passed since began, or ctx ends.
func (p *pace) wait(ctx context.Context, began time.Time) {
	t := time.NewTimer(p.slowest() - time.Since(began))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
