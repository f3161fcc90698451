package provisioning

import (
	"context"
	"sync"
	"time"
)

// recountEvery is how long a count of what a station began is believed before
// the records are asked again: they know what other SPPs on the same databases
// let it begin, so a station that uses several can exceed its quota by what it
// begins in this time.
const recountEvery = 30 * time.Second

// quotas counts the devices that were begun under each station's certificate:
// read from the records, where they are, and counted on in memory.
type quotas struct {
	mu     sync.Mutex // guards counts
	counts map[quotaKey]*quotaCount
}

// quotaKey is one certificate: a renewed one begins to count anew.
type quotaKey struct {
	station   string
	notBefore time.Time
}

type quotaCount struct {
	mu      sync.Mutex // guards what follows; held while the records are read
	begun   int64      // as of counted, and what was begun here since
	pending int64      // taken and not yet in the records
	counted time.Time
}

// maxQuotas bounds the certificates that are remembered: what is forgotten is
// counted again from the records.
const maxQuotas = 4096

// take makes room for a device that the station is about to begin. The caller
// says with done whether it began. A device that is committed but not done while
// the records are read counts twice until the next time: a station near its
// quota may be refused early, never late.
func (q *quotas) take(ctx context.Context, store Records, s Station, now time.Time) (done func(begun bool), err error) {
	c := q.of(quotaKey{s.Station, s.NotBefore})
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.counted.IsZero() || now.Sub(c.counted) > recountEvery || now.Before(c.counted) {
		n, err := store.Begun(ctx, s.Station, s.NotBefore)
		if err != nil {
			return nil, err
		}
		c.begun, c.counted = n, now
	}
	if c.begun+c.pending >= s.Quota {
		return nil, refuse(CodeQuota, "have a custodian renew the station's certificate", "station %q began %d devices, its certificate allows %d", s.Station, c.begun+c.pending, s.Quota)
	}
	c.pending++
	return func(begun bool) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.pending--
		if begun {
			c.begun++
		}
	}, nil
}

func (q *quotas) of(k quotaKey) *quotaCount {
	q.mu.Lock()
	defer q.mu.Unlock()
	c := q.counts[k]
	if c == nil {
		if q.counts == nil || len(q.counts) >= maxQuotas {
			q.counts = map[quotaKey]*quotaCount{}
		}
		c = &quotaCount{}
		q.counts[k] = c
	}
	return c
}
