package station

import (
	"sync"
	"time"
)

// Pauses between two questions whether the registry is back. Each is drawn
// between half and the whole; where the SPP says after what time to ask, that
// is the least.
const (
	outageFirst = 250 * time.Millisecond
	outageMost  = 5 * time.Second
)

// outage is what a line knows of the registry, from the answers to Publish.
// While it is away, one device at a time asks for all of them.
type outage struct {
	mu     sync.Mutex    // guards what follows
	away   bool          // the last answer was that an entry waits
	asking bool          // somebody asks; only while away
	next   time.Time     // when to ask again; only while away
	pause  time.Duration // the last one drawn from
}

// ask tells whether a device may ask for its publication now. Who got a yes
// says with answered what came of it.
func (o *outage) ask(now time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.away {
		return true
	}
	if o.asking || now.Before(o.next) {
		return false
	}
	o.asking = true
	return true
}

// answered takes the answer to a question.
func (o *outage) answered(now time.Time, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.asking = false
	switch {
	case err == nil:
		o.away, o.pause = false, 0
	case isCode(err, codePublication) || o.away:
		// What is no answer about the registry does not say that it is back.
		o.away = true
		o.pause = max(outageFirst, min(2*o.pause, outageMost))
		o.next = now.Add(max(jitter(o.pause), afterOf(err)))
	}
}

// until tells how long nobody need ask.
func (o *outage) until(now time.Time) time.Duration {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case !o.away:
		return 0
	case o.asking:
		return outageMost // its answer wakes who waits
	}
	return o.next.Sub(now)
}
