package issued

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/devicekeys/devicekeys/identity"
)

// Defaults of Options.
const (
	DefaultFresh   = 5 * time.Second  // a burst of one device's connections asks once
	DefaultMaxAge  = 30 * time.Second // a failover of the database takes less
	DefaultDevices = 1 << 16          // about 20 MB, and as much for wrapped keys where there are any
)

// Source is what a Cache remembers the answers of: a Store.
type Source interface {
	// Lookup gives what was issued under an identity, or ErrNotIssued.
	Lookup(ctx context.Context, id identity.Identity) (Device, error)
	// ByRecord gives what was issued to a chip, or ErrNotIssued.
	ByRecord(ctx context.Context, record identity.RecordID) (Device, error)
	// Key gives an entry's wrapped key of one generation of a device, or ErrNoKey.
	Key(ctx context.Context, record identity.RecordID, g identity.Generation, entry string) ([]byte, error)
}

// Options of a Cache.
type Options struct {
	Fresh   time.Duration    // an answer younger than this is given without asking; 0: DefaultFresh
	MaxAge  time.Duration    // when the source is away, an answer younger than this is still given; 0: DefaultMaxAge
	Devices int              // answers kept, of each kind; 0: DefaultDevices
	Now     func() time.Time // nil: time.Now
}

// Cache remembers answers, those of "not issued" too, in a table of their own, so that a flood of invented identities
// pushes no device's answer out. Questions for one device that come at once are asked once. While the source is away one
// question at a time is put to it; who asks meanwhile gets what is young enough at once, or ErrAway. It is safe for
// concurrent use.
type Cache struct {
	source Source
	opts   Options
	flight singleflight.Group

	mu     sync.Mutex
	known  *table    // of devices
	absent *table    // of what was not issued
	keys   *table    // of wrapped keys, and of those that there are not
	away   bool      // the source's last answer was a failure
	told   time.Time // when its last answer that was none came
	probes bool      // while it is away: a question is on its way
}

// question is what was asked: an identity, a record or a wrapped key, as text.
type question string

// keyQuestion begins a question for a wrapped key, and no other.
const keyQuestion = "key:"

// ofKey tells whether a wrapped key was asked for. While the source is away, nobody waits for one that isn't remembered:
// only who was issued is asked it for, and the wait would tell.
func (q question) ofKey() bool { return strings.HasPrefix(string(q), keyQuestion) }

// answer is what the source said, and when it was asked.
type answer struct {
	device Device
	blob   []byte
	err    error // nil, ErrNotIssued or ErrNoKey
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
	return &Cache{source: source, opts: o, known: newTable(o.Devices), absent: newTable(o.Devices), keys: newTable(o.Devices)}, nil
}

// Lookup gives what was issued under an identity, at most as old as the options say. It matches ErrNotIssued, or
// ErrAway where the source fails and nothing young enough is remembered.
func (c *Cache) Lookup(ctx context.Context, id identity.Identity) (Device, error) {
	q := question(fmt.Sprintf("%d:%s", id.Type(), id.Value()))
	a, err := c.ask(ctx, q, func(ctx context.Context) (a answer, err error) {
		a.device, err = c.source.Lookup(ctx, id)
		return a, err
	})
	if err != nil {
		return Device{}, fmt.Errorf("look up an identity, %s: %w", id.Type(), err) // whose, the log need not know
	}
	return a.device, nil
}

// ByRecord is Lookup by record id.
func (c *Cache) ByRecord(ctx context.Context, record identity.RecordID) (Device, error) {
	a, err := c.ask(ctx, question("record:"+string(record[:])), func(ctx context.Context) (a answer, err error) {
		a.device, err = c.source.ByRecord(ctx, record)
		return a, err
	})
	if err != nil {
		return Device{}, fmt.Errorf("look up record %s: %w", record.Short(), err)
	}
	return a.device, nil
}

// Key gives an entry's wrapped key of one generation of a device, at most as old as the options say: ciphertext, which
// opens in the service's HSM alone. It matches ErrNoKey, or ErrAway as Lookup does.
func (c *Cache) Key(ctx context.Context, record identity.RecordID, g identity.Generation, entry string) ([]byte, error) {
	q := question(fmt.Sprintf("%s%x:%d:%s", keyQuestion, record[:], g, entry))
	a, err := c.ask(ctx, q, func(ctx context.Context) (a answer, err error) {
		a.blob, err = c.source.Key(ctx, record, g, entry)
		return a, err
	})
	if err != nil {
		return nil, fmt.Errorf("read wrapped key %q of record %s, generation %d: %w", entry, record.Short(), g, err)
	}
	return a.blob, nil
}

func (c *Cache) ask(ctx context.Context, q question, source func(context.Context) (answer, error)) (answer, error) {
	have, ok := c.remembered(q)
	age := c.age(have)
	if ok && age < c.opts.Fresh {
		return have, have.err
	}
	young := ok && age < c.opts.MaxAge
	away, probe := c.probe()
	if away && !probe { // one question is on its way: the source's time-out is not for everybody
		if young {
			return have, have.err
		}
		return answer{}, fmt.Errorf("%w: it was away a moment ago", ErrAway)
	}
	// The first who asks is not alone in waiting: its end must not be the others'. The source bounds its own time.
	flight := c.flight.DoChan(string(q), func() (any, error) { return c.put(context.WithoutCancel(ctx), q, source) })
	if probe {
		flight = c.probing(flight)
	}
	if away && (young || q.ofKey()) { // asked behind it
		if young {
			return have, have.err
		}
		return answer{}, fmt.Errorf("%w: it was away a moment ago", ErrAway)
	}
	select {
	case <-ctx.Done():
		return answer{}, fmt.Errorf("%w: %w", ErrAway, context.Cause(ctx))
	case r := <-flight:
		if r.Err == nil {
			a := r.Val.(answer)
			return a, a.err
		}
		if ok && c.age(have) < c.opts.MaxAge {
			return have, have.err
		}
		return answer{}, fmt.Errorf("%w: %w", ErrAway, r.Err)
	}
}

// put puts a question to the source, and remembers what it says.
func (c *Cache) put(ctx context.Context, q question, source func(context.Context) (answer, error)) (answer, error) {
	asked := c.opts.Now() // before the question: the answer is at least as old
	a, err := source(ctx)
	switch {
	case errors.Is(err, ErrNotIssued):
		a = answer{err: ErrNotIssued}
	case errors.Is(err, ErrNoKey):
		a = answer{err: ErrNoKey}
	case err != nil:
		c.setAway(true)
		return answer{}, err
	}
	a.asked = asked
	c.remember(q, a)
	return a, nil
}

// probe tells whether the source is away, and if so, whether the caller's question is the one that is put to it.
func (c *Cache) probe() (away, mine bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	// One that fails beside others that are answered is that one's misfortune: a burst that waits for connections.
	away = c.away && c.opts.Now().Sub(c.told) >= awayAfter
	if mine = away && !c.probes; mine {
		c.probes = true
	}
	return away, mine
}

// awayAfter is for how long a source that fails has answered nothing before questions are kept from it.
const awayAfter = time.Second

// probing lets the next question through once this one has come back, whoever still waits for it.
func (c *Cache) probing(flight <-chan singleflight.Result) <-chan singleflight.Result {
	out := make(chan singleflight.Result, 1)
	go func() {
		r := <-flight
		c.mu.Lock()
		c.probes = false
		c.mu.Unlock()
		out <- r
	}()
	return out
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
	if q.ofKey() {
		return c.keys.get(q)
	}
	if a, ok := c.known.get(q); ok {
		return a, true
	}
	return c.absent.get(q)
}

// remember keeps the newer of two answers: one flight may end after a later one began.
func (c *Cache) remember(q question, a answer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.away, c.told = false, c.opts.Now()
	to, other := c.known, c.absent
	if a.err != nil {
		to, other = other, to
	}
	if q.ofKey() {
		to, other = c.keys, c.keys
	}
	for _, t := range []*table{to, other} {
		if have, ok := t.get(q); ok && have.asked.After(a.asked) {
			return
		}
	}
	if other != to {
		other.drop(q)
	}
	to.put(q, a)
}
