package station

import (
	"context"
	"sync"
	"time"
)

// registryPatience is how long a line that has nothing else to do waits for the
// registry, counted from the last good sign: longer than its restart or a
// failover of its database. Devices that still wait then are safe, and another
// run finishes them.
const registryPatience = 2 * time.Minute

// queue hands a line's devices to its hands: parked ones when there is a sign
// that the registry is back, else those not begun, and at the end parked ones
// with patience.
type queue struct {
	patience time.Duration
	registry outage

	mu      sync.Mutex // guards what follows
	fresh   []*work    // not begun, in order
	parked  []*work    // before publication; who asked in vain goes to the end
	early   []*work    // before an identity: the board that they replace is still listed
	busy    int        // in hands
	stops   reach      // the farthest-reaching error so far
	reason  error      // that error
	sign    time.Time  // when something last went on
	changed chan struct{}
}

func newQueue(all []*work, patience time.Duration, now time.Time) *queue {
	return &queue{patience: patience, fresh: all, sign: now, changed: make(chan struct{})}
}

// take gives the next device to work on, waiting for one where devices are
// parked or in other hands; nil when there is nothing to wait for, or no longer.
func (q *queue) take(ctx context.Context) *work {
	for ctx.Err() == nil {
		w, changed, wait := q.next(time.Now())
		if w != nil || wait == 0 {
			return w
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-changed:
		case <-timer.C:
		}
		timer.Stop()
	}
	return nil
}

// next gives a device, or what to wait for and for how long: 0 where waiting
// is no use.
func (q *queue) next(now time.Time) (w *work, changed <-chan struct{}, wait time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	begins := q.stops < stopsBegin
	switch {
	case q.stops == stopsStation:
	case len(q.parked) > 0 && q.registry.until(now) <= 0:
		w, q.parked = q.parked[0], q.parked[1:]
	case begins && len(q.early) > 0 && !q.early[0].notBefore.After(now):
		w, q.early = q.early[0], q.early[1:]
	case begins && len(q.fresh) > 0:
		w, q.fresh = q.fresh[0], q.fresh[1:]
		q.sign = now
	}
	if w != nil {
		q.busy++
		return w, nil, 0
	}
	if q.busy > 0 {
		wait = outageMost // whose end wakes this hand; it looks again all the same
	}
	if q.stops == stopsStation {
		return nil, q.changed, wait
	}
	end := q.sign.Add(q.patience).Sub(now)
	consider := func(in time.Duration) {
		if in = max(in, time.Millisecond); q.busy == 0 && in > end {
			return // it would come after the end of patience
		}
		if wait == 0 || in < wait {
			wait = in
		}
	}
	if len(q.parked) > 0 {
		consider(q.registry.until(now))
	}
	if begins && len(q.early) > 0 {
		consider(q.early[0].notBefore.Sub(now))
	}
	return nil, q.changed, wait
}

// done takes a device back from a hand: finished, failed or parked.
func (q *queue) done(now time.Time, w *work, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.busy--
	switch {
	case w.parked == StepPublish:
		q.parked = append(q.parked, w)
	case w.parked == StepBegin:
		q.early = append(q.early, w)
	default:
		q.sign = now
		if r := reachOf(err); r > q.stops {
			q.stops, q.reason = r, err
		}
	}
	q.wake()
}

// published takes an answer to a device's Publish.
func (q *queue) published(now time.Time, err error) {
	q.registry.answered(now, err)
	q.mu.Lock()
	defer q.mu.Unlock()
	if err == nil {
		q.sign = now
	}
	q.wake()
}

// wake wakes the hands that wait; q.mu is held.
func (q *queue) wake() {
	close(q.changed)
	q.changed = make(chan struct{})
}

// stopped tells why devices were not begun; nil where nothing stopped the line.
func (q *queue) stopped() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.stops < stopsBegin {
		return nil
	}
	return q.reason
}

// left gives what nobody took any more.
func (q *queue) left() (fresh, parked []*work) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.fresh, append(q.early, q.parked...)
}
