package provisioning

import (
	"context"
	"fmt"
	"sync"
	"time"
)

const (
	// breakAfter is how many failures in a row open the breaker: one session
	// that died, or a token that was re-opened, makes fewer.
	breakAfter = 5

	// firstProbe and maxProbe bound the pause before the HSM is looked at again:
	// doubled each time. A lost session is back in a fraction of a second; an
	// HSM that restarts takes a minute, and then ten seconds more do not count.
	firstProbe = 250 * time.Millisecond
	maxProbe   = 10 * time.Second

	// probeTimeout bounds one look: reading a key takes milliseconds.
	probeTimeout = 5 * time.Second
)

// breaker keeps callers away from an HSM that fails: after breakAfter failures
// in a row it is open, and who asks is told at once when to come back. A probe
// in the background closes it.
//
// It knows nothing of keys: guard tells it what counts as a failure of the
// HSM's own. A refused PIN opens it for the life of the process, since each
// further login could lock the token; then nothing is probed.
//
// It is safe for concurrent use. Times are the injected clock's, but for the
// probe's timer, which is the runtime's and monotonic: a clock that jumps makes
// a wrong promise of at most maxProbe, and no pause.
type breaker struct {
	now     func() time.Time
	changed func(open bool, err error) // is told of each opening and closing; called with mu held, so it only logs and counts
	wake    chan struct{}              // one place: the breaker has opened

	mu       sync.Mutex // guards what follows
	failures int        // in a row
	opened   bool
	stuck    bool          // open for good
	cause    error         // of the last failure, while open
	pause    time.Duration // before the next probe; grows until a real call succeeds
	due      time.Time     // of the next probe, while open
}

func newBreaker(now func() time.Time, changed func(open bool, err error)) *breaker {
	return &breaker{now: now, changed: changed, wake: make(chan struct{}, 1), pause: firstProbe}
}

// openError is what an open breaker answers: nothing was asked of the HSM.
type openError struct {
	retry time.Duration // after which it may be closed
	stuck bool          // it will not be: see cause
	cause error         // of the last failure
}

func (e *openError) Error() string {
	if e.stuck {
		return fmt.Sprintf("the HSM is not asked any more: %v", e.cause)
	}
	return fmt.Sprintf("the HSM is not asked for %s more: %v", e.retry.Round(time.Millisecond), e.cause)
}

func (e *openError) Unwrap() error { return e.cause }

// allow says whether the HSM may be asked: nil, or an *openError.
func (b *breaker) allow() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.stuck:
		return &openError{retry: maxProbe, stuck: true, cause: b.cause}
	case b.opened:
		// A clock that jumped back makes the wait look long.
		return &openError{retry: min(max(b.due.Sub(b.now()), firstProbe/4), maxProbe), cause: b.cause}
	}
	return nil
}

// succeeded says that the HSM did what it was asked for. It does not close an
// open breaker: the call may have begun long before.
func (b *breaker) succeeded() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.opened {
		b.failures, b.pause = 0, firstProbe
	}
}

// failed says that the HSM failed, by no fault of its caller.
func (b *breaker) failed(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failures++; b.opened || b.failures < breakAfter {
		return
	}
	b.open(err)
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// stop opens the breaker for good.
func (b *breaker) stop(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.stuck {
		b.stuck = true
		b.open(err)
	}
}

// open sets the next probe's time. b.mu is held.
func (b *breaker) open(err error) {
	b.opened, b.cause = true, err
	b.due = b.now().Add(b.pause)
	b.changed(true, err)
}

// wait gives the pause before the next probe, or false where none is due: the
// breaker is closed, or stays open for good. The pause after that is longer.
func (b *breaker) wait() (time.Duration, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.opened || b.stuck {
		return 0, false
	}
	p := b.pause
	b.due, b.pause = b.now().Add(p), min(2*b.pause, maxProbe)
	return p, true
}

// probed says how a probe ended. Where it succeeded the breaker is closed;
// breakAfter failures open it again, for longer unless a call succeeded before.
func (b *breaker) probed(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case !b.opened || b.stuck:
	case err != nil:
		b.cause = err
	default:
		b.opened, b.failures, b.cause = false, 0, nil
		b.changed(false, nil)
	}
}

// run probes while the breaker is open, until ctx ends.
func (b *breaker) run(ctx context.Context, check func(context.Context) error) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-b.wake:
		}
		for {
			pause, open := b.wait()
			if !open {
				break
			}
			timer := time.NewTimer(pause)
			select {
			case <-ctx.Done():
				timer.Stop()
				return
			case <-timer.C:
			}
			bound, cancel := context.WithTimeout(ctx, probeTimeout)
			err := check(bound)
			cancel()
			if ctx.Err() != nil {
				return
			}
			b.probed(err)
		}
	}
}
