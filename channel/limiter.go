package channel

import (
	"container/list"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/devicekeys/devicekeys/identity"
)

// Limiter bounds how often one source, and one identity, may begin a handshake: each
// costs the service calls of its HSM, and whoever claims an identity has proven nothing.
// Where a certificate has proven something (SuiteCertificate), its key is bounded in the
// identity's place, so nobody uses up the rate of a device whose key they lack. It
// remembers a bounded number of each, and forgets who was silent longest. It is safe
// for concurrent use; nil bounds nothing.
type Limiter struct {
	sources, sites, identities, tls limits
}

// Rate is so many a second on average, and so many at once.
type Rate struct {
	PerSecond float64
	Burst     int
}

// limiterSize bounds each of a limiter's two memories: a few megabytes.
const limiterSize = 1 << 16

// SiteSources is how many times the rate of one source an IPv6 /48, of 65,536 such, may have.
const SiteSources = 8

// NewLimiter gives a limiter. A rate of zero bounds nothing. An IPv6 source is a /64; all
// of a /48 together have SiteSources times its rate.
func NewLimiter(source, identity Rate) *Limiter {
	site := Rate{PerSecond: SiteSources * source.PerSecond, Burst: SiteSources * source.Burst}
	return &Limiter{sources: newLimits(source), sites: newLimits(site), identities: newLimits(identity)}
}

// BoundTLS bounds the handshakes of TLS over all sources: each costs a signature before
// anything is known of the peer. Above it, TLS connections are closed; SuiteNoise goes on.
// A rate of zero bounds nothing. It is called before the limiter is used.
func (l *Limiter) BoundTLS(r Rate) { l.tls = newLimits(r) }

// source takes a handshake of an address into account, or gives a *BusyError.
func (l *Limiter) source(a netip.Addr) error {
	if l == nil {
		return nil
	}
	now := time.Now()
	near, far := Networks(a)
	if after, ok := l.sources.take(near.String(), now); !ok {
		return fmt.Errorf("too many handshakes from %s: %w", near, &BusyError{after})
	}
	if !far.IsValid() {
		return nil
	}
	if after, ok := l.sites.take(far.String(), now); !ok {
		return fmt.Errorf("too many handshakes from %s: %w", far, &BusyError{after})
	}
	return nil
}

// handshake takes a handshake of TLS into account, or gives a *BusyError.
func (l *Limiter) handshake() error {
	if l == nil {
		return nil
	}
	if after, ok := l.tls.take("", time.Now()); !ok {
		return fmt.Errorf("too many handshakes of TLS: %w", &BusyError{after})
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

// certificate takes a handshake with the key of a certificate into account, which TLS has
// proven.
func (l *Limiter) certificate(c *x509.Certificate) error {
	if l == nil {
		return nil
	}
	key := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	if after, ok := l.identities.take(string(key[:]), time.Now()); !ok { // 32 bytes: no URN
		return fmt.Errorf("too many handshakes with one certificate: %w", &BusyError{after})
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
