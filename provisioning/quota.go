package provisioning

import (
	"context"
	"sync"
	"time"

	"github.com/devicekeys/devicekeys/provisioning/records"
)

// quotas counts the devices that each station began, in memory: the records
// are read once, when the SPP starts, and every Begin adds to that. Two SPPs on
// the same databases each learn of the other's devices when they start, so a
// station that uses both may exceed its quota in between.
type quotas struct {
	mu     sync.Mutex // guards both
	begun  map[string]map[hour]int64
	loaded bool
}

// hour is a time in hours since 1970: fine enough to tell what was begun under
// one certificate and what under the one before, small enough to keep for
// years.
type hour int64

func hourOf(t time.Time) hour { return hour(t.Unix() / int64(time.Hour/time.Second)) }

// take counts a device that the station is about to begin, if its quota has
// room. back takes that back, where nothing was begun after all.
func (q *quotas) take(s Station, now time.Time) (back func(), err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	var n int64
	since := hourOf(s.NotBefore)
	for h, k := range q.begun[s.Station] {
		if h >= since {
			n += k
		}
	}
	if n >= s.Quota {
		return nil, refuse(CodeQuota, "have a custodian renew the station's certificate", "station %q began %d devices, its certificate allows %d", s.Station, n, s.Quota)
	}
	h := hourOf(now)
	q.add(s.Station, h, 1)
	return func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.add(s.Station, h, -1)
	}, nil
}

// add changes a count; q.mu is held.
func (q *quotas) add(station string, h hour, n int64) {
	if q.begun == nil {
		q.begun = map[string]map[hour]int64{}
	}
	if q.begun[station] == nil {
		q.begun[station] = map[hour]int64{}
	}
	q.begun[station][h] += n
}

// load counts what the records have from before the SPP started. Until it is
// done quotas count from the start on only: a line does not stand still while a
// million rows are read.
func (q *quotas) load(ctx context.Context, store Records, started time.Time) error {
	before := &quotas{}
	err := store.Each(ctx, func(d records.Device) error {
		if d.Created.Before(started) {
			before.add(d.Station, hourOf(d.Created), 1)
		}
		return nil
	})
	// What was read before an error counts: too little is better than nothing.
	q.mu.Lock()
	defer q.mu.Unlock()
	for station, hours := range before.begun {
		for h, n := range hours {
			q.add(station, h, n)
		}
	}
	q.loaded = true
	return err
}
