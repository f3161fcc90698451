package issued

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/devicekeys/devicekeys/identity"
)

// Defaults of Options.
const (
	DefaultFresh   = 5 * time.Second  // a burst of one device's connections asks once
	DefaultMaxAge  = 30 * time.Second // a failover of the database takes less
	DefaultDevices = 1 << 16          // about 20 MB
)

// Source is what a Cache remembers the answers of: a Store.
type Source interface {
	// Lookup gives what was issued under an identity, or ErrNotIssued.
	Lookup(ctx context.Context, id identity.Identity) (Device, error)
	// ByRecord gives what was issued to a chip, or ErrNotIssued.
	ByRecord(ctx context.Context, record identity.RecordID) (Device, error)
}

// Options of a Cache.
type Options struct {
	Fresh   time.Duration    // an answer younger than this is given without asking; 0: DefaultFresh
	MaxAge  time.Duration    // when the source is away, an answer younger than this is still given; 0: DefaultMaxAge
	Devices int              // answers kept; 0: DefaultDevices
	Now     func() time.Time // nil: time.Now
}

// Cache remembers answers, those of "not issued" too, in a table of their own, so that a flood of invented identities
// pushes no device's answer out. Questions for one device that come at once are asked once. It is safe for concurrent
// use.
type Cache struct {
	source Source
	opts   Options
	flight singleflight.Group

	mu     sync.Mutex
	known  *table // of devices
	absent *table // of what was not issued
	away   bool   // the source's last answer was a failure
}

// question is what was asked: an identity or a record, as text.
type question string

// answer is what the source said, and when it was asked.
type answer struct {
	device Device
	err    error // nil or ErrNotIssued
	asked  time.Time
}

// NewCache gives a cache before a source.
func NewCache(source Source, o Options) (*Cache, error) {
	if o.Fresh == 0 {
		o.Fresh = DefaultFresh
	}
	if o.MaxAge == 0 {
		o.MaxAge = DefaultMaxAge
	}
	if o.Devices == 0 {
		o.Devices = DefaultDevices
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Fresh < 0 || o.MaxAge < o.Fresh || o.Devices < 1 {
		return nil, fmt.Errorf("cache of what was issued: fresh for %s, at most %s old, %d devices: 0 <= fresh <= maximum age, and at least one device", o.Fresh, o.MaxAge, o.Devices)
	}
	return &Cache{source: source, opts: o, known: newTable(o.Devices), absent: newTable(o.Devices)}, nil
}

// Lookup gives what was issued under an identity, at most as old as the options say. It matches ErrNotIssued, or
// ErrAway where the source fails and nothing young enough is remembered.
func (c *Cache) Lookup(ctx context.Context, id identity.Identity) (Device, error) {
	q := question(fmt.Sprintf("%d:%s", id.Type(), id.Value()))
	d, err := c.ask(ctx, q, func(ctx context.Context) (Device, error) { return c.source.Lookup(ctx, id) })
	if err != nil {
		return Device{}, fmt.Errorf("look up an identity, %s: %w", id.Type(), err) // whose, the log need not know
	}
	return d, nil
}

// ByRecord is Lookup by record id.
func (c *Cache) ByRecord(ctx context.Context, record identity.RecordID) (Device, error) {
	q := question(record[:])
	d, err := c.ask(ctx, q, func(ctx context.Context) (Device, error) { return c.source.ByRecord(ctx, record) })
	if err != nil {
		return Device{}, fmt.Errorf("look up record %s: %w", record.Short(), err)
	}
	return d, nil
}

func (c *Cache) ask(ctx context.Context, q question, source func(context.Context) (Device, error)) (Device, error) {
	have, ok := c.remembered(q)
	if ok && c.age(have) < c.opts.Fresh {
		return have.device, have.err
	}
	// The first who asks is not alone in waiting: its end must not be the others'. The source bounds its own time.
	flight := c.flight.DoChan(string(q), func() (any, error) {
		asked := c.opts.Now() // before the question: the answer is at least as old
		d, err := source(context.WithoutCancel(ctx))
		if err != nil && !errors.Is(err, ErrNotIssued) {
			c.setAway(true)
			return nil, err
		}
		a := answer{d, nil, asked}
		if err != nil {
			a = answer{Device{}, ErrNotIssued, asked}
		}
		c.remember(q, a)
		return a, nil
	})
	select {
	case <-ctx.Done():
		return Device{}, fmt.Errorf("%w: %w", ErrAway, context.Cause(ctx))
	case r := <-flight:
		if r.Err == nil {
			a := r.Val.(answer)
			return a.device, a.err
		}
		if ok && c.age(have) < c.opts.MaxAge {
			return have.device, have.err
		}
		return Device{}, fmt.Errorf("%w: %w", ErrAway, r.Err)
	}
}

// age is how old an answer is. A clock that was set back makes it old.
func (c *Cache) age(a answer) time.Duration {
	age := c.opts.Now().Sub(a.asked)
	if age < 0 {
		return c.opts.MaxAge
	}
	return age
}

// Away tells whether the source's last answer was a failure.
func (c *Cache) Away() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.away
}

// Len tells how many devices, and how many identities that were not issued, are remembered.
func (c *Cache) Len() (known, absent int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.known.len(), c.absent.len()
}

func (c *Cache) setAway(away bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.away = away
}

func (c *Cache) remembered(q question) (answer, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a, ok := c.known.get(q); ok {
		return a, true
	}
	return c.absent.get(q)
}

// remember keeps the newer of two answers: one flight may end after a later one began.
func (c *Cache) remember(q question, a answer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.away = false
	to, other := c.known, c.absent
	if a.err != nil {
		to, other = other, to
	}
	for _, t := range []*table{to, other} {
		if have, ok := t.get(q); ok && have.asked.After(a.asked) {
			return
		}
	}
	other.drop(q)
	to.put(q, a)
}
