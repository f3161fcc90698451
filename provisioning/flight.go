package provisioning

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/provisioning/records"
)

const (
	// flightIdle is how long a device counts as in flight after its last call: a
	// step of its own, writing and erasing its flash, takes a few seconds. One
	// that takes longer was put away, or its fixture stands.
	flightIdle = 10 * time.Second

	// flightLook is how often a stop looks whether a device is still in flight.
	flightLook = 20 * time.Millisecond

	// maxFlights bounds the devices that are remembered; what is above is served
	// all the same, only a stop does not wait for it.
	maxFlights = 16384
)

// flights are the devices that this process took a step with and that have more
// to come: what a stop waits for.
type flights struct {
	now   func() time.Time
	gauge prometheus.Gauge

	mu   sync.Mutex                      // guards seen
	seen map[identity.RecordID]time.Time // its last call
}

// inFlight counts a device as in flight, if it has steps to come.
func (a *Assembly) inFlight(d records.Device) {
	if d.State.OnLine() || d.State == records.Published {
		a.flights.touch(d.Record)
	}
}

func newFlights(now func() time.Time, gauge prometheus.Gauge) *flights {
	return &flights{now: now, gauge: gauge, seen: map[identity.RecordID]time.Time{}}
}

// touch says that a device took a step and has more to come.
func (f *flights) touch(r identity.RecordID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, known := f.seen[r]; !known && len(f.seen) >= maxFlights {
		if f.prune(); len(f.seen) >= maxFlights {
			return
		}
	}
	f.seen[r] = f.now()
	f.gauge.Set(float64(len(f.seen)))
}

// land says that nothing more is to come soon: the device ships, or waits for
// the registry.
func (f *flights) land(r identity.RecordID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.seen, r)
	f.gauge.Set(float64(len(f.seen)))
}

func (f *flights) has(r identity.RecordID) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, ok := f.seen[r]
	return ok
}

// count tells how many devices are in flight.
func (f *flights) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.prune()
	return len(f.seen)
}

// prune forgets devices that were put away. f.mu is held. A clock that jumped
// forward forgets all: then a stop does not wait, and nothing is lost by that.
func (f *flights) prune() {
	now := f.now()
	for r, at := range f.seen {
		if now.Sub(at) > flightIdle {
			delete(f.seen, r)
		}
	}
	f.gauge.Set(float64(len(f.seen)))
}

// wait returns once no device is in flight or ctx ends, and tells how many are
// left.
func (f *flights) wait(ctx context.Context) int {
	tick := time.NewTicker(flightLook)
	defer tick.Stop()
	for {
		n := f.count()
		if n == 0 {
			return 0
		}
		select {
		case <-ctx.Done():
			return n
		case <-tick.C:
		}
	}
}
