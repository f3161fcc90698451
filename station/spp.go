package station

import (
	"fmt"
	"strings"
	"sync"
	"time"

	provisioningrpc "github.com/devicekeys/devicekeys/provisioning/rpc"
)

// spp is one SPP, as its answers show it.
type spp struct {
	base string
	rpc  provisioningrpc.AssemblyServiceClient

	// What follows is guarded by spps.mu.
	rest    time.Time     // no call before: it was away, or asked for the time
	pause   time.Duration // between attempts; 0 while it is well
	failed  time.Time     // when it was last found away
	look    time.Time     // when it may be looked at again, once it was left
	looking bool
	trouble answer // the last one; zero while it is well
}

// spps are the SPPs of one client, in order of preference.
type spps struct {
	all []*spp // fixed

	mu      sync.Mutex // guards current and each one's health
	current int
}

// pick gives the SPP for the next attempt and how long to wait for it: the
// current one, or the first in order that does not rest, or, where all do, the
// one that may be asked first. wait is what the caller has to wait in any case.
func (s *spps) pick(now time.Time, wait time.Duration) (*spp, time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := s.all[s.current]
	if next.rest.After(now) {
		for _, other := range s.all {
			if other.rest.Before(next.rest) {
				next = other
			}
			if !other.rest.After(now) {
				break
			}
		}
	}
	if rest := next.rest.Sub(now); rest > wait {
		// A little more, so that the hands of one station do not return in step.
		wait = rest + jitter(next.pause)/4
	}
	return next, wait
}

// failed notes that an attempt found an SPP away: it rests, longer each time,
// and at least as long as it asked for. fresh says that it was well before.
func (s *spps) failed(f *spp, begun time.Time, a answer, b bounds) (fresh bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	fresh = f.trouble.err == nil
	// Several hands find the same trouble at once: that is one.
	if fresh || begun.After(f.failed) {
		f.pause = max(b.first, min(2*f.pause, b.most))
		f.rest = now.Add(jitter(f.pause))
		f.failed = now
	}
	if asked := now.Add(a.after); asked.After(f.rest) {
		f.rest = asked
	}
	f.trouble, f.looking = a, false
	f.look = now.Add(max(jitter(b.probe), a.after))
	return fresh
}

// answered notes that an SPP gave an answer: calls stay with it. changed says
// that they went to another one before; look is one that is preferred and due
// to be looked at.
func (s *spps) answered(w *spp, now time.Time, b bounds) (changed bool, look *spp) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.well()
	for i, other := range s.all {
		if other != w {
			continue
		}
		// An answer that was long under way is no reason to leave a current one
		// that is well.
		if s.all[s.current].trouble.err != nil {
			changed = s.current != i
			s.current = i
		}
	}
	for _, other := range s.all[:s.current] {
		if !other.looking && !other.look.After(now) {
			other.looking = true
			return changed, other
		}
	}
	return changed, nil
}

// back makes an SPP that answered a look the current one, if it is preferred.
func (s *spps) back(w *spp) (changed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.well()
	for i, other := range s.all[:s.current] {
		if other == w {
			s.current = i
			return true
		}
	}
	return false
}

func (w *spp) well() {
	w.rest, w.pause, w.looking, w.trouble = time.Time{}, 0, false, answer{}
}

// distrusted tells whether each SPP and this station refused each other's
// certificate: then waiting changes nothing.
func (s *spps) distrusted(troubles map[*spp]answer) bool {
	for _, w := range s.all {
		if !troubles[w].distrusted {
			return false
		}
	}
	return true
}

// givenUp is the error of a call that was tried for all its time: what each
// SPP last answered to it or, where this call did not ask it, to another one.
func (s *spps) givenUp(troubles map[*spp]answer, patience time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := &undecided{kind: ErrUnreachable, next: "see that the SPP runs at the configured url and that the network is up, then run the station again"}
	var said []string
	for _, w := range s.all {
		a := troubles[w]
		if a.err == nil {
			a = w.trouble
		}
		if a.err == nil {
			continue // nobody had to ask it
		}
		text := a.err.Error()
		if r, ok := a.err.(*RefusedError); ok && a.said {
			e.kind, e.next = ErrAway, r.Hint
		}
		if len(s.all) > 1 {
			text = w.base + ": " + text
		}
		said = append(said, text)
	}
	e.detail = fmt.Sprintf("for %s: %s", patience, strings.Join(said, "; "))
	return e
}
