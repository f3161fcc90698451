package channel

import (
	"container/list"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/devicekeys/devicekeys/identity"
)

// Limiter bounds how often one source, and one identity, may begin a handshake: each
// costs the service calls of its HSM, and whoever claims an identity has proven nothing.
// It remembers a bounded number of both, and forgets who was silent longest. It is safe
// for concurrent use; nil bounds nothing.
type Limiter struct {
	sources, identities limits
}

// Rate is so many a second on average, and so many at once.
type Rate struct {
	PerSecond float64
	Burst     int
}

// limiterSize bounds each of a limiter's two memories: a few megabytes.
const limiterSize = 1 << 16

// ipv6Prefix is what of an IPv6 address is one source: who has one address of it has all.
const ipv6Prefix = 64

// NewLimiter gives a limiter. A rate of zero bounds nothing.
func NewLimiter(source, identity Rate) *Limiter {
	return &Limiter{sources: newLimits(source), identities: newLimits(identity)}
}

// source takes a handshake of an address into account, or gives a *BusyError.
func (l *Limiter) source(a netip.Addr) error {
	if l == nil {
		return nil
	}
	if a.Is6() {
		if p, err := a.Prefix(ipv6Prefix); err == nil {
			a = p.Addr()
		}
	}
	if after, ok := l.sources.take(a.String(), time.Now()); !ok {
		return fmt.Errorf("too many handshakes from %s: %w", a, &BusyError{after})
	}
	return nil
}

// identity takes a handshake of whoever claims an identity into account.
func (l *Limiter) identity(id identity.Identity) error {
	if l == nil {
		return nil
	}
	if after, ok := l.identities.take(id.URN(), time.Now()); !ok {
		return fmt.Errorf("too many handshakes under one %s: %w", id.Type(), &BusyError{after})
	}
	return nil
}

type limits struct {
	rate Rate

	mu    sync.Mutex
	by    map[string]*list.Element
	order *list.List // of *limited, silent longest first
}

type limited struct {
	name string
	rate *rate.Limiter
}

func newLimits(r Rate) limits {
	return limits{rate: r, by: map[string]*list.Element{}, order: list.New()}
}

// take takes one, or tells after what time there may be one again.
func (l *limits) take(name string, now time.Time) (after time.Duration, ok bool) {
	if l.rate.PerSecond <= 0 {
		return 0, true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.by[name]
	if e == nil {
		if l.order.Len() >= limiterSize {
			oldest := l.order.Front()
			delete(l.by, oldest.Value.(*limited).name)
			l.order.Remove(oldest)
		}
		e = l.order.PushBack(&limited{name, rate.NewLimiter(rate.Limit(l.rate.PerSecond), max(1, l.rate.Burst))})
		l.by[name] = e
	}
	l.order.MoveToBack(e)
	r := e.Value.(*limited).rate.ReserveN(now, 1)
	if d := r.DelayFrom(now); d > 0 {
		r.CancelAt(now)
		return d, false
	}
	return 0, true
}
