package provisioning

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/devicekeys/devicekeys/provisioning/profile"
	"github.com/devicekeys/devicekeys/provisioning/records"
	"github.com/devicekeys/devicekeys/registry"
)

const (
	// outboxPoll is how often the outbox is read without a kick: for entries
	// that another process, or this one before a crash, left there.
	outboxPoll = 2 * time.Second

	// firstBackoff and maxBackoff bound the pause after a failure: doubled each
	// time, drawn from half to the whole so that two SPPs don't meet again. The
	// registry may be away for hours; the entries wait in Postgres.
	firstBackoff = 200 * time.Millisecond
	maxBackoff   = 15 * time.Second

	// probeEvery is how soon after a failure stations that ask may have the
	// registry tried again: while devices wait on their fixtures, the longer
	// backoff would be theirs.
	probeEvery = time.Second

	// probeSlack is what a station is told to wait beyond the next attempt, so
	// that it finds its outcome.
	probeSlack = 200 * time.Millisecond
)

// publisher brings registry entries from the outbox to the sequencer, oldest
// first, and wakes who waits for one.
//
// It may stop anywhere: an entry that was submitted is submitted again and gets
// the same answer; one that was noted as published has left the outbox, and if
// the pool still has its identity, house-keeping removes it.
//
// An entry that fails alone never holds up the others: what does not parse, what
// the sequencer refuses, and what failed maxStrikes times is set aside, with the
// reason, for people. The loop ends with its context and for nothing else.
type publisher struct {
	from      registry.Submission // what every submission says: realm and submitter
	keys      *guard
	pool      Pool
	records   Records
	sequencer Sequencer
	metrics   *Metrics
	log       *slog.Logger
	now       func() time.Time
	changed   func(deviceID)  // called before who waits is woken
	wake      chan struct{}   // one place: a kick that comes while one is pending is the same kick
	asked     chan struct{}   // one place: a station wants an early attempt
	strikes   map[pending]int // the loop's own
	trust     entrusted

	follows bool // a line's devices have a second entry, which is due when the first is published

	mu      sync.Mutex // guards what follows
	waiting map[deviceID]*waiters
	away    bool      // the last attempt failed
	failed  time.Time // when; this and due are the runtime's monotonic clock, as the loop's timer is
	due     time.Time // when the next attempt is made
}

// pending names an entry in the outbox.
type pending struct {
	deviceID
	typ uint8 // 0: the device's own, else a notice's
}

func pendingOf(p records.Pending) pending { return pending{deviceID{p.Record, p.Generation}, p.Type} }

type waiters struct {
	done chan struct{} // closed when the device's row has changed, or the registry went away
	n    int
}

func newPublisher(c Config, keys *guard, changed func(deviceID)) *publisher {
	return &publisher{
		from: registry.Submission{Realm: c.Realm, Submitter: c.Name}, keys: keys, pool: c.Pool, records: c.Records, sequencer: c.Sequencer,
		metrics: c.Metrics, log: c.Log, now: c.Now, changed: changed, wake: make(chan struct{}, 1), asked: make(chan struct{}, 1),
		follows: slices.ContainsFunc(c.Profiles, func(p profile.Profile) bool { return p.Publish.Open() }),
		strikes: map[pending]int{}, waiting: map[deviceID]*waiters{}, trust: entrusted{own: map[deviceID]time.Time{}},
	}
}

// kick says that the outbox has something new.
func (p *publisher) kick() { signal(p.wake) }

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// ask tells whether the registry is known to be away, and after what time the
// next attempt is over. It has that attempt made soon, but no two within
// probeEvery, whoever asks.
func (p *publisher) ask() (retry time.Duration, away bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.away {
		return 0, false
	}
	if soon := p.failed.Add(probeEvery); soon.Before(p.due) {
		p.due = soon
		signal(p.asked)
	}
	return max(time.Until(p.due), 0) + probeSlack, true
}

// wait gives a channel that is closed once when the device's entry was
// published or set aside by this process, or the registry found to be away;
// leave ends the interest.
func (p *publisher) wait(id deviceID) (done <-chan struct{}, leave func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := p.waiting[id]
	if w == nil {
		w = &waiters{done: make(chan struct{})}
		p.waiting[id] = w
	}
	w.n++
	return w.done, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if w.n--; w.n == 0 && p.waiting[id] == w {
			delete(p.waiting, id)
		}
	}
}

// tell says that a device's row has changed. Who keeps rows hears of it first.
func (p *publisher) tell(id deviceID) {
	p.changed(id)
	p.mu.Lock()
	defer p.mu.Unlock()
	if w := p.waiting[id]; w != nil {
		close(w.done)
		delete(p.waiting, id)
	}
}

// reached says that the registry answered.
func (p *publisher) reached() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.away = false
}

// missed says that it did not and that there will be a pause; who waits is told.
func (p *publisher) missed(pause time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.away, p.failed = true, time.Now()
	p.due = p.failed.Add(pause)
	for id, w := range p.waiting {
		close(w.done)
		delete(p.waiting, id)
	}
}

// run publishes until ctx ends. The submission under way is then finished, for
// at most finishTime, so that its acknowledgements are not asked for twice.
func (p *publisher) run(ctx context.Context) {
	work, cancel := outlive(ctx)
	defer cancel()
	backoff := firstBackoff
	for ctx.Err() == nil {
		more, err := p.publish(work)
		switch {
		case err != nil:
			pause := backoff/2 + rand.N(backoff/2)
			backoff = min(2*backoff, maxBackoff)
			p.missed(pause)
			p.log.WarnContext(ctx, "publishing failed; the entries wait", "error", err, "again_in", pause)
			p.rest(ctx, nil) // a kick does not shorten a backoff
			continue
		case !more:
			p.mu.Lock()
			p.due = time.Now().Add(outboxPoll)
			p.mu.Unlock()
		}
		p.reached()
		backoff = firstBackoff
		if !more {
			p.rest(ctx, p.wake)
		}
	}
}

// rest waits until the next attempt is due, which a station that asks may bring
// forward, or until it is woken or ctx ends.
func (p *publisher) rest(ctx context.Context, wake <-chan struct{}) {
	for {
		p.mu.Lock()
		left := time.Until(p.due)
		p.mu.Unlock()
		timer := time.NewTimer(left)
		select {
		case <-ctx.Done():
		case <-wake:
		case <-timer.C:
		case <-p.asked:
			timer.Stop()
			continue
		}
		timer.Stop()
		return
	}
}
