package deviceservice

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/devicekeys/devicekeys/channel"
)

const (
	// paceSamples is how many handshakes are remembered: few enough to follow the load within seconds.
	paceSamples = 64
	// paceAge is how long a handshake is remembered: one that stood at a stuck HSM doesn't make everybody wait for hours.
	paceAge = time.Minute
	// paceLeast is how many are remembered however old they are: a service with little to do still knows its HSM.
	paceLeast = 8
	// paceFirst is taken for a handshake's time before there was one: that of SoftHSM on a free machine.
	paceFirst = 2 * time.Millisecond
	// paceStep is what the time that all wait is rounded up to, once an eighth is on top: the next handshake is hardly
	// ever slower than that, and what it takes within a step doesn't show.
	paceStep = time.Millisecond
	// paceMost bounds the wait of any peer, which holds memory meanwhile: the longest wait for a turn at the HSM, and its
	// work after that.
	paceMost = keyWait + time.Second
)

// pace makes refusals and admissions take the same time: from the hello to the answer, both wait as long as the slowest
// of the last handshakes took at records and HSM, the key's destruction included, and a margin, a few milliseconds, and
// wake by the same timer. So a stranger who measures finds one distribution, but for the rare handshake that is slower
// than all of the last ones, and no HSM call is spent on strangers, as a decoy key would. Waiting for a turn at the HSM
// counts: where those who were issued queue, strangers wait as long. It is safe for concurrent use.
type pace struct {
	mu      sync.Mutex
	samples []sample // a ring
	next    int      // where the next one goes, and the oldest stands once the ring is full
}

type sample struct {
	took time.Duration
	at   time.Time
}

// took notes how long a device took that came as far as the HSM, without its wait.
func (p *pace) took(d time.Duration, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.samples) < paceSamples {
		p.samples = append(p.samples, sample{d, now})
		return
	}
	p.samples[p.next] = sample{d, now}
	p.next = (p.next + 1) % paceSamples
}

// target gives how long all take: above the longest of the last times, at most paceMost.
func (p *pace) target(now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	slowest := paceFirst
	if len(p.samples) > 0 {
		slowest = 0
	}
	for i := range p.samples { // newest first
		s := p.samples[(p.next-1-i+2*len(p.samples))%len(p.samples)]
		if i >= paceLeast && now.Sub(s.at) > paceAge {
			break
		}
		slowest = max(slowest, s.took)
	}
	return min((slowest+slowest/8).Truncate(paceStep)+paceStep, paceMost)
}

// wait waits until as much time has passed since began, or ctx ends.
func (p *pace) wait(ctx context.Context, began time.Time) {
	now := time.Now()
	t := time.NewTimer(p.target(now) - now.Sub(began))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// paces has a pace for each kind of handshake that differs in what it costs, by what the hello says: nothing that a
// stranger doesn't know. The keys are fixed, so it needs no lock.
type paces map[paceOf]*pace

type paceOf struct {
	suite channel.Suite
	way   Way
}

func newPaces() paces {
	all := paces{}
	for _, suite := range []channel.Suite{channel.SuiteNoise, channel.SuiteTLS, channel.SuiteCertificate} {
		for _, way := range []Way{Derived, Fetched, Certificate} {
			all[paceOf{suite, way}] = &pace{}
		}
	}
	return all
}

// atHSM are the reasons of those that were issued and came as far as the HSM, or the registry.
var atHSM = []Reason{ReasonBusy, ReasonHSM, ReasonNoKey}

// pace is the channel's Pace. What a refusal takes says nothing of the HSM, unless it came so far.
func (s *Service) pace(ctx context.Context, h channel.Hello, began time.Time, err error) {
	p := s.paces[paceOf{h.Suite, wayOf(h)}]
	if now := time.Now(); err == nil || slices.Contains(atHSM, reasonOf(err)) {
		p.took(now.Sub(began), now)
	}
	p.wait(ctx, began)
}
