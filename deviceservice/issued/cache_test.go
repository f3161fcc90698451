package issued_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/devicekeys/devicekeys/deviceservice/issued"
	"github.com/devicekeys/devicekeys/deviceservice/issued/issuedtest"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/provisioning/records"
)

var errAway = errors.New("connection refused")

// source is a Source whose answers, and absence, a test sets.
type source struct {
	mu    sync.Mutex
	asked int
	have  map[identity.Identity]issued.Device
	away  bool
	hold  chan struct{} // asked questions wait for it, if it is there
}

func (s *source) Lookup(ctx context.Context, id identity.Identity) (issued.Device, error) {
	s.mu.Lock()
	hold := s.hold
	s.asked++
	s.mu.Unlock()
	if hold != nil {
		<-hold
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away {
		return issued.Device{}, errAway
	}
	d, ok := s.have[id]
	if !ok {
		return issued.Device{}, issued.ErrNotIssued
	}
	return d, nil
}

func (s *source) ByRecord(ctx context.Context, record identity.RecordID) (issued.Device, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	for _, d := range s.have {
		if d.Record == record && !s.away {
			return d, nil
		}
	}
	if s.away {
		return issued.Device{}, errAway
	}
	return issued.Device{}, issued.ErrNotIssued
}

func (s *source) Key(ctx context.Context, record identity.RecordID, g identity.Generation, entry string) ([]byte, error) {
	d, err := s.ByRecord(ctx, record)
	if err == nil && d.Generation != g {
		err = issued.ErrNoKey
	}
	if errors.Is(err, issued.ErrNotIssued) {
		err = issued.ErrNoKey
	}
	return []byte(entry), err
}

func (s *source) set(away bool, all ...issued.Device) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away, s.have = away, map[identity.Identity]issued.Device{}
	for _, d := range all {
		s.have[d.Identity] = d
	}
}

func (s *source) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

// clock is a time that a test moves.
type clock struct{ ns atomic.Int64 }

func (c *clock) now() time.Time        { return time.Unix(1_700_000_000, c.ns.Load()) }
func (c *clock) pass(by time.Duration) { c.ns.Add(int64(by)) }

func newCache(t testing.TB, devices int) (*issued.Cache, *source, *clock) {
	t.Helper()
	s, c := &source{}, &clock{}
	cache, err := issued.NewCache(s, issued.Options{Fresh: 5 * time.Second, MaxAge: 30 * time.Second, Devices: devices, Now: c.now})
	must(t, err)
	return cache, s, c
}

// TestCacheAge: how old an answer may be, with the source there and away.
func TestCacheAge(t *testing.T) {
	t.Parallel()
	cache, s, clock := newCache(t, 10)
	d := issuedtest.Device(t, 1, 1, records.Shipped)
	gone := d
	gone.State, gone.Active = string(records.Quarantined), false
	ask := func(want *issued.Device, sentinel error, asked int) {
		t.Helper()
		before := s.count()
		have, err := cache.Lookup(t.Context(), d.Identity)
		if !errors.Is(err, sentinel) || want != nil && have != *want {
			t.Errorf("Lookup = %+v, %v", have, err)
		}
		if n := s.count() - before; n != asked {
			t.Errorf("the source was asked %d times, want %d", n, asked)
		}
	}
	s.set(false, d)
	ask(&d, nil, 1)
	s.set(false, gone)
	clock.pass(5*time.Second - 1)
	ask(&d, nil, 0)
	clock.pass(1)
	ask(&gone, nil, 1) // seen within Fresh
	s.set(true)
	clock.pass(30*time.Second - 1)
	ask(&gone, nil, 1) // away: still served
	clock.pass(1)
	ask(nil, issued.ErrAway, 1) // and then no more
	ask(nil, errAway, 1)
	if !cache.Away() {
		t.Error("the source is not noticed to be away")
	}
	s.set(false, d)
	ask(&d, nil, 1)
	if cache.Away() {
		t.Error("the source is not noticed to be back")
	}
	clock.pass(-time.Hour) // a clock set back makes nothing young
	s.set(false, gone)
	ask(&gone, nil, 1)
	s.set(true)
	clock.pass(time.Minute)
	ask(nil, issued.ErrAway, 1)
}

// TestCacheAbsent: who was not issued is remembered as that, as long as a device and no longer.
func TestCacheAbsent(t *testing.T) {
	t.Parallel()
	cache, s, clock := newCache(t, 10)
	d := issuedtest.Device(t, 1, 1, records.Shipped)
	for range 3 {
		if _, err := cache.Lookup(t.Context(), d.Identity); !errors.Is(err, issued.ErrNotIssued) {
			t.Fatal(err)
		}
	}
	if s.count() != 1 {
		t.Errorf("asked %d times", s.count())
	}
	s.set(false, d)
	clock.pass(5 * time.Second)
	if have, err := cache.Lookup(t.Context(), d.Identity); err != nil || have != d {
		t.Errorf("once issued: %+v, %v", have, err)
	}
	if have, err := cache.ByRecord(t.Context(), d.Record); err != nil || have != d {
		t.Errorf("by record: %+v, %v", have, err)
	}
	if known, absent := cache.Len(); known != 2 || absent != 0 {
		t.Errorf("%d known, %d absent", known, absent)
	}
}

// TestCacheFlood: invented identities push out none that was issued, and the tables stay bounded.
func TestCacheFlood(t *testing.T) {
	t.Parallel()
	cache, s, clock := newCache(t, 50)
	var all []issued.Device
	for n := range 50 {
		all = append(all, issuedtest.Device(t, n, 1, records.Shipped))
	}
	s.set(false, all...)
	for _, d := range all {
		_, err := cache.Lookup(t.Context(), d.Identity)
		must(t, err)
	}
	for n := range 2000 {
		if _, err := cache.Lookup(t.Context(), issuedtest.IMEI(t, 1000+n)); !errors.Is(err, issued.ErrNotIssued) {
			t.Fatal(err)
		}
	}
	if known, absent := cache.Len(); known != 50 || absent != 50 {
		t.Errorf("%d known, %d absent; 50 of each at most", known, absent)
	}
	s.set(true)
	clock.pass(29 * time.Second)
	for _, d := range all {
		if have, err := cache.Lookup(t.Context(), d.Identity); err != nil || have != d {
			t.Fatalf("%+v, %v", have, err)
		}
	}
}

// TestCacheTogether: many who ask for one device at once are one question; who goes away takes nobody along.
func TestCacheTogether(t *testing.T) {
	t.Parallel()
	cache, s, _ := newCache(t, 10)
	d := issuedtest.Device(t, 1, 1, records.Shipped)
	s.set(false, d)
	s.hold = make(chan struct{})
	first, leave := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() {
		_, err := cache.Lookup(first, d.Identity)
		left <- err
	}()
	for s.count() == 0 {
		time.Sleep(time.Millisecond)
	}
	var group sync.WaitGroup
	for range 50 {
		group.Go(func() {
			if have, err := cache.Lookup(t.Context(), d.Identity); err != nil || have != d {
				t.Errorf("%+v, %v", have, err)
			}
		})
	}
	leave()
	if err := <-left; !errors.Is(err, issued.ErrAway) {
		t.Errorf("who left gets %v", err)
	}
	close(s.hold)
	group.Wait()
	if n := s.count(); n != 1 {
		t.Errorf("the source was asked %d times", n)
	}
}

// TestCacheBlackHole: while the source swallows questions, what is remembered is given at once, who is unknown is told so
// at once, one question at a time is on its way, and its answer tells that the source is back.
func TestCacheBlackHole(t *testing.T) {
	t.Parallel()
	cache, s, clock := newCache(t, 10)
	var all []issued.Device
	for n := range 5 {
		all = append(all, issuedtest.Device(t, n, 1, records.Shipped))
	}
	s.set(false, all...)
	for _, d := range all[:3] {
		_, err := cache.Lookup(t.Context(), d.Identity)
		must(t, err)
		_, err = cache.Key(t.Context(), d.Record, 1, "channel")
		must(t, err)
	}
	s.set(true)
	clock.pass(10 * time.Second)
	_, err := cache.Lookup(t.Context(), all[0].Identity) // the first one learns it
	must(t, err)
	hold := make(chan struct{})
	s.mu.Lock()
	s.hold = hold
	s.mu.Unlock()
	before := s.count()
	for range 20 { // none of these would come back
		for _, d := range all[:3] {
			if have, err := cache.Lookup(t.Context(), d.Identity); err != nil || have != d {
				t.Fatalf("%+v, %v", have, err)
			}
			if blob, err := cache.Key(t.Context(), d.Record, 1, "channel"); err != nil || string(blob) != "channel" {
				t.Fatalf("%q, %v", blob, err)
			}
		}
		for _, d := range all[3:] {
			await(t, func() bool { return s.count() == before+1 })
			if _, err := cache.Lookup(t.Context(), d.Identity); !errors.Is(err, issued.ErrAway) {
				t.Fatal(err)
			}
			if _, err := cache.Key(t.Context(), d.Record, 1, "channel"); !errors.Is(err, issued.ErrAway) {
				t.Fatal(err)
			}
		}
	}
	if n := s.count() - before; n != 1 {
		t.Errorf("%d questions were on their way", n)
	}
	s.set(false, all...)
	close(hold)
	await(t, func() bool { return !cache.Away() })
	if have, err := cache.Lookup(t.Context(), all[4].Identity); err != nil || have != all[4] {
		t.Errorf("once it is back: %+v, %v", have, err)
	}
	clock.pass(30 * time.Second)
	s.set(true)
	if _, err := cache.Key(t.Context(), all[0].Record, 1, "channel"); !errors.Is(err, issued.ErrAway) {
		t.Errorf("a wrapped key that is too old: %v", err)
	}
}

// TestCacheOneFails: a question that fails beside others that are answered keeps nobody else from the source.
func TestCacheOneFails(t *testing.T) {
	t.Parallel()
	cache, s, _ := newCache(t, 10)
	one, other := issuedtest.Device(t, 1, 1, records.Shipped), issuedtest.Device(t, 2, 1, records.Shipped)
	s.set(false, one, other)
	_, err := cache.Lookup(t.Context(), one.Identity)
	must(t, err)
	s.set(true)
	if _, err := cache.Lookup(t.Context(), other.Identity); !errors.Is(err, errAway) || !cache.Away() {
		t.Fatal(err)
	}
	s.set(false, one, other)
	hold := make(chan struct{})
	s.mu.Lock()
	s.hold = hold
	s.mu.Unlock()
	answers := make(chan error, 2)
	before := s.count()
	for _, d := range []issued.Device{other, issuedtest.Device(t, 3, 1, records.Shipped)} {
		go func() {
			_, err := cache.Lookup(t.Context(), d.Identity)
			answers <- err
		}()
	}
	await(t, func() bool { return s.count() == before+2 })
	close(hold)
	for range 2 {
		if err := <-answers; err != nil && !errors.Is(err, issued.ErrNotIssued) {
			t.Error(err)
		}
	}
}

// TestCacheNoKey: that there is no wrapped key is remembered like one that there is.
func TestCacheNoKey(t *testing.T) {
	t.Parallel()
	cache, s, clock := newCache(t, 10)
	d := issuedtest.Device(t, 1, 1, records.Shipped)
	s.set(false, d)
	for range 2 {
		if _, err := cache.Key(t.Context(), d.Record, 2, "channel"); !errors.Is(err, issued.ErrNoKey) {
			t.Error(err)
		}
	}
	if s.count() != 1 {
		t.Errorf("asked %d times", s.count())
	}
	d.Generation = 2
	s.set(false, d)
	clock.pass(5 * time.Second)
	if blob, err := cache.Key(t.Context(), d.Record, 2, "channel"); err != nil || string(blob) != "channel" {
		t.Errorf("once there is one: %q, %v", blob, err)
	}
}

// await waits until something is so.
func await(t testing.TB, is func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("waited for too long")
		}
	}
}

// TestCacheProperty: whatever happens in whatever order, no answer is older than promised.
func TestCacheProperty(t *testing.T) {
	t.Parallel()
	var ids []identity.Identity
	for n := range 4 {
		ids = append(ids, issuedtest.IMEI(t, n))
	}
	rapid.Check(t, func(t *rapid.T) {
		const fresh, most = 5 * time.Second, 30 * time.Second
		s, c := &source{}, &clock{}
		cache, err := issued.NewCache(s, issued.Options{Fresh: fresh, MaxAge: most, Devices: 3, Now: c.now})
		if err != nil {
			t.Fatal(err)
		}
		// since[id][generation] is when the source last said so, while it was there.
		version := map[identity.Identity]identity.Generation{}
		ended := map[identity.Identity]map[identity.Generation]time.Time{}
		for _, id := range ids {
			version[id], ended[id] = 1, map[identity.Generation]time.Time{}
		}
		away, awaySince := false, time.Time{}
		apply := func() {
			var all []issued.Device
			for id, g := range version {
				all = append(all, issued.Device{Identity: id, Generation: g})
			}
			s.set(away, all...)
		}
		apply()
		t.Repeat(map[string]func(*rapid.T){
			"pass": func(t *rapid.T) { c.pass(time.Duration(rapid.IntRange(1, 12).Draw(t, "seconds")) * time.Second) },
			"supersede": func(t *rapid.T) {
				id := rapid.SampledFrom(ids).Draw(t, "identity")
				ended[id][version[id]] = c.now()
				version[id]++
				apply()
			},
			"turn": func(t *rapid.T) {
				away = !away
				awaySince = c.now()
				apply()
			},
			"ask": func(t *rapid.T) {
				id := rapid.SampledFrom(ids).Draw(t, "identity")
				wasAway := cache.Away()
				d, err := cache.Lookup(context.Background(), id)
				if err != nil {
					if !away && !wasAway || !errors.Is(err, issued.ErrAway) {
						t.Fatalf("away is %v since %s: %v", away, awaySince, err)
					}
					return
				}
				if d.Generation == version[id] {
					return
				}
				limit := fresh
				if away || wasAway { // it isn't known to be back before a question has come back
					limit = most
				}
				if age := c.now().Sub(ended[id][d.Generation]); age >= limit {
					t.Fatalf("generation %d was superseded %s ago and is still served, away: %v", d.Generation, age, away)
				}
			},
		})
	})
}

func TestCacheOptions(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]issued.Options{
		"fresh longer than the maximum age": {Fresh: time.Minute, MaxAge: time.Second},
		"negative":                          {Fresh: -1},
		"no devices":                        {Devices: -1},
	} {
		if _, err := issued.NewCache(&source{}, o); err == nil {
			t.Errorf("allowed: %s", name)
		}
	}
}

// TestCacheOnDatabase: the cache over the real database, which then is gone.
func TestCacheOnDatabase(t *testing.T) {
	t.Parallel()
	r, c := issuedtest.New(t), &clock{}
	db := r.As(issued.DefaultRole)
	cache, err := issued.NewCache(issued.New(db), issued.Options{Now: c.now})
	must(t, err)
	d := r.Put(1, 1, records.Shipped)
	for _, away := range []bool{false, true} {
		if away {
			must(t, db.Close())
			c.pass(issued.DefaultMaxAge - 1)
		}
		have, err := cache.Lookup(t.Context(), d.Identity)
		must(t, err)
		if !have.Active || have.Record != d.Record {
			t.Errorf("away %v: %+v", away, have)
		}
	}
	c.pass(1)
	if have, err := cache.Lookup(t.Context(), d.Identity); !errors.Is(err, issued.ErrAway) {
		t.Errorf("too old: %+v, %v", have, err)
	}
}
