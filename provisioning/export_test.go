package provisioning

import (
	"errors"
	"time"
)

// Breaker is the breaker, for its own test.
type Breaker struct{ b *breaker }

// The breaker's bounds.
const (
	BreakAfter = breakAfter
	FirstProbe = firstProbe
	MaxProbe   = maxProbe
)

// NewBreaker makes a breaker that tells changed of each opening and closing.
func NewBreaker(now func() time.Time, changed func(open bool)) Breaker {
	return Breaker{newBreaker(now, func(open bool, _ error) { changed(open) })}
}

func (b Breaker) Succeeded()                  { b.b.succeeded() }
func (b Breaker) Failed(err error)            { b.b.failed(err) }
func (b Breaker) Stop(err error)              { b.b.stop(err) }
func (b Breaker) Probed(err error)            { b.b.probed(err) }
func (b Breaker) Wait() (time.Duration, bool) { return b.b.wait() }

// Allow gives after what time to come back, 0 where the call may go on, and
// whether the breaker stays open for good.
func (b Breaker) Allow() (retry time.Duration, stuck bool) {
	var open *openError
	if !errors.As(b.b.allow(), &open) {
		return 0, false
	}
	return open.retry, open.stuck
}

// BurnStale burns what is stale now, as house-keeping does every minute.
var BurnStale = (*Assembly).burnStale

// Reconcile ends what a crash left between records and pool, as house-keeping does.
var Reconcile = (*Assembly).reconcile

// ParseKept reads the plaintext of a secret that was kept sealed.
var ParseKept = parseKept
