package deviceservice

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/devicekeys/devicekeys/identity"
)

// Bounds of a CertificateCache. Like the records' answers, one is used again for a
// few seconds, and while the registry is away a little longer.
const (
	certificatesFresh  = 5 * time.Second
	certificatesMaxAge = 30 * time.Second
	certificatesKept   = 1 << 14 // records; some 40 MB
	certificatesWait   = 5 * time.Second
)

// CertificateCache remembers what the registry lists, so that its rate limit and its
// failures don't become the service's: an answer is as old as certificatesMaxAge at
// most, and what can't be asked by then is refused. Questions for one record that come
// at once are asked once. It is safe for concurrent use.
type CertificateCache struct {
	source Certificates
	now    func() time.Time
	flight singleflight.Group

	mu    sync.Mutex
	known map[identity.RecordID]listed
}

// listed is what the registry said of a record, and when it was asked.
type listed struct {
	generation identity.Generation
	all        [][]byte
	asked      time.Time
}

// NewCertificateCache makes a cache before a source.
func NewCertificateCache(source Certificates) *CertificateCache {
	return &CertificateCache{source: source, now: time.Now, known: map[identity.RecordID]listed{}}
}

// Certificates implements Certificates.
func (c *CertificateCache) Certificates(ctx context.Context, record identity.RecordID) (identity.Generation, [][]byte, error) {
	had, age, ok := c.get(record)
	if ok && age < certificatesFresh {
		return had.generation, had.all, nil
	}
	result := c.flight.DoChan(string(record[:]), func() (any, error) {
		// Others wait for this answer, so it outlives the request that asked first.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), certificatesWait)
		defer cancel()
		l := listed{asked: c.now()}
		var err error
		if l.generation, l.all, err = c.source.Certificates(ctx, record); err == nil {
			c.put(record, l)
		}
		return l, err
	})
	select {
	case r := <-result:
		if r.Err == nil {
			l := r.Val.(listed)
			return l.generation, l.all, nil
		}
		if ok && age < certificatesMaxAge {
			return had.generation, had.all, nil
		}
		return 0, nil, r.Err
	case <-ctx.Done():
		return 0, nil, ctx.Err()
	}
}

func (c *CertificateCache) get(record identity.RecordID) (l listed, age time.Duration, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l, ok = c.known[record]
	age = c.now().Sub(l.asked)
	return l, age, ok && age >= 0
}

// put keeps an answer; where there is no room, one that happens to come first goes.
func (c *CertificateCache) put(record identity.RecordID, l listed) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, known := c.known[record]; !known && len(c.known) >= certificatesKept {
		for some := range c.known {
			delete(c.known, some)
			break
		}
	}
	c.known[record] = l
}
