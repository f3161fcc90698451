package records_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/provisioning/records"
	"github.com/devicekeys/devicekeys/provisioning/records/recordstest"
)

// rounds is how often each race is run; the outcomes differ by chance.
const rounds = 25

// race runs acts at once, in any order, and gives their errors by name.
func race(acts map[string]func() error) map[string]error {
	var mu sync.Mutex
	var wg sync.WaitGroup
	start := make(chan struct{})
	errs := map[string]error{}
	for name, act := range acts {
		wg.Go(func() {
			<-start
			err := act()
			mu.Lock()
			defer mu.Unlock()
			errs[name] = err
		})
	}
	close(start)
	wg.Wait()
	return errs
}

// others fails the test where an error is none of those that a race may end with.
func others(t testing.TB, errs map[string]error, allowed ...error) {
	t.Helper()
	for name, err := range errs {
		ok := err == nil
		for _, a := range allowed {
			ok = ok || errors.Is(err, a)
		}
		if !ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestRaces: two SPPs, or an SPP and an operator, act on one record at once. Each
// pair ends in one of the states that the one after the other would give.
func TestRaces(t *testing.T) {
	t.Parallel()
	r := recordstest.New(t)
	one, two := r.Store, records.New(r.As("spp"))
	reserve := func(s *records.Store, d records.Device) func() error {
		return func() error { return s.Reserve(t.Context(), d, event(d)) }
	}
	states := func(record identity.RecordID) (all []records.State) {
		for g := identity.Generation(1); ; g++ {
			d, err := one.Get(t.Context(), record, g)
			if err != nil {
				return all
			}
			all = append(all, d.State)
		}
	}
	seen := map[string]map[string]int{}
	outcome := func(name string, allowed ...string) func(...any) {
		if seen[name] == nil {
			seen[name] = map[string]int{}
		}
		return func(got ...any) {
			t.Helper()
			text := fmt.Sprint(got...)
			seen[name][text]++
			for _, a := range allowed {
				if a == text {
					return
				}
			}
			t.Errorf("%s: %s", name, text)
		}
	}
	for i := range rounds {
		n := i * 10
		ctx := t.Context()

		// A next generation begins while the record is quarantined or scrapped.
		d := bring(t, one, device(t, n, 1), records.Shipped)
		next := device(t, n, 2)
		errs := race(map[string]func() error{
			"begin": reserve(one, next), "quarantine": func() error { return two.Quarantine(ctx, d.Record, ann) }})
		others(t, errs, records.ErrOutOfUse)
		outcome("begin and quarantine", "[quarantined]", "[quarantined quarantined]")(states(d.Record))
		must(t, two.Release(ctx, d.Record, ann))
		errs = race(map[string]func() error{
			"begin": reserve(one, next), "scrap": func() error { return two.Scrap(ctx, d.Record, 1, []byte("scrap entry"), ann) }})
		others(t, errs, records.ErrOutOfUse)
		outcome("begin and scrap", "[scrapped]", "[scrapped scrapped]")(states(d.Record))

		// An entry is acknowledged while its device is quarantined.
		d = bring(t, one, device(t, n+1, 1), records.Shipped)
		bring(t, one, device(t, n+1, 2), records.Restored)
		errs = race(map[string]func() error{
			"acknowledgement": func() error { return one.Published(ctx, d.Record, 2, int64(n)) },
			"quarantine":      func() error { return two.Quarantine(ctx, d.Record, ann) }})
		others(t, errs)
		outcome("acknowledgement and quarantine", "[superseded quarantined]")(states(d.Record))

		// It is acknowledged while what was set aside is given up, or put back.
		d = bring(t, one, device(t, n+2, 1), records.Shipped)
		bring(t, one, device(t, n+2, 2), records.Restored)
		must(t, one.SetAside(ctx, d.Record, 2, 0, "refused"))
		errs = race(map[string]func() error{
			"acknowledgement": func() error { return one.Published(ctx, d.Record, 2, int64(n+1)) },
			"abandon":         func() error { return two.Abandon(ctx, d.Record, 2, ann) },
			"put back":        func() error { return two.PutBack(ctx, d.Record, 2, 0, ann) }})
		others(t, errs, records.ErrConflict)
		outcome("acknowledgement and abandonment", "[superseded published]", "[shipped burned]")(states(d.Record))

		// A first generation begins while its identity is burned as unclaimed.
		first := device(t, n+3, 1)
		burned := false
		errs = race(map[string]func() error{
			"begin":          reserve(one, first),
			"burn unclaimed": func() (err error) { burned, err = two.BurnUnclaimed(ctx, first.Identity, 7, "nobody came"); return err }})
		others(t, errs, records.ErrIdentityUsed)
		outcome("begin and unclaimed", "[] true burned", "[reserved] false bound")(states(first.Record), " ", burned, " ", useOf(t, one, first.Identity).State)

		// The same with a burn of the device.
		first = device(t, n+4, 1)
		errs = race(map[string]func() error{
			"begin": reserve(one, first), "burn": func() error { return two.Burned(ctx, first.Identity, 7, "lost") }})
		others(t, errs, records.ErrIdentityUsed)
		outcome("begin and burn", "[] burned", "[burned] burned")(states(first.Record), " ", useOf(t, one, first.Identity).State)

		// A device goes on while it is given up as stale.
		d = bring(t, one, device(t, n+5, 1), records.Confirmed)
		errs = race(map[string]func() error{
			"restored": func() error {
				return one.Restored(ctx, d.Record, 1, make([]byte, 32), []byte("entry"), nil)
			},
			"burn": func() error { return two.Burned(ctx, d.Identity, 7, "stale") }})
		others(t, errs, records.ErrConflict)
		outcome("restored and burn", "[restored] bound", "[burned] burned")(states(d.Record), " ", useOf(t, one, d.Identity).State)

		// A chip begins with an identity from the pool while another one is planned
		// for it; and two plans for one identity.
		old := bring(t, one, device(t, n+6, 1), records.Reserved)
		must(t, one.Scrap(ctx, old.Record, 1, nil, ann))
		fresh, third := device(t, n+7, 1), chip(t, n+8).RecordID()
		plan := func(to identity.RecordID) func() error {
			return func() error {
				_, err := two.Plan(ctx, old.Record, to, ann)
				return err
			}
		}
		errs = race(map[string]func() error{"begin": reserve(one, fresh), "plan": plan(fresh.Record), "another plan": plan(third)})
		others(t, errs, records.ErrChipActive, records.ErrConflict)
		_, planned := one.Planned(ctx, fresh.Record)
		outcome("begin and plan", "[reserved] false", "[] true")(states(fresh.Record), " ", planned == nil)
		_, planned3 := one.Planned(ctx, third)
		outcome("one plan", "1")(count(planned == nil, planned3 == nil))

		// The planned chip begins twice at once, and the plan is taken back.
		to := fresh.Record
		takes := withIdentity(fresh, old.Identity)
		if planned != nil {
			to, takes = third, withIdentity(device(t, n+8, 1), old.Identity)
		}
		errs = race(map[string]func() error{
			"begin": reserve(one, takes), "begin again": reserve(two, takes), "take back": func() error { return two.Unplan(ctx, to, ann) }})
		others(t, errs, records.ErrIdentityUsed, records.ErrNotFound, records.ErrConflict)
		outcome("take and take back", "[reserved] bound", "[] released")(states(to), " ", useOf(t, one, old.Identity).State)
		if !errors.Is(errs["take back"], records.ErrNotFound) == (len(states(to)) == 1) {
			t.Errorf("taken back: %v, states %v", errs["take back"], states(to))
		}
	}
	// Contest against Begin, on listed chips.
	_, _, err := one.ImportChips(t.Context(), delivery(t, "lot", 10_000, rounds), point(t))
	must(t, err)
	for i := range rounds {
		d := device(t, 10_000+i, 1)
		errs := race(map[string]func() error{
			"begin": reserve(one, d), "contest": func() error { return two.Contest(t.Context(), d.Record, "two lists", nil) }})
		others(t, errs, records.ErrOutOfUse)
		outcome("begin and contest", "[]", "[quarantined]")(states(d.Record))
	}
	l := &life{t: t, super: r.AsSuperuser()}
	l.invariants(t, t.Context())
	t.Log(seen) // how often each way
}

func count(all ...bool) (n int) {
	for _, b := range all {
		if b {
			n++
		}
	}
	return n
}

// TestManyOperators: several operators and two SPPs do everything to few records
// at once; nobody waits for another for ever, nothing fails but as it may, and
// the invariants hold.
func TestManyOperators(t *testing.T) {
	t.Parallel()
	r := recordstest.New(t)
	const chips = 3
	_, _, err := r.Store.ImportChips(t.Context(), delivery(t, "lot", 0, chips), point(t))
	must(t, err)
	var wg sync.WaitGroup
	for worker := range 6 {
		random := rand.New(rand.NewPCG(1, uint64(worker)))
		wg.Go(func() {
			s, ctx := r.Store, t.Context()
			for i := range 90 {
				n := random.IntN(chips)
				record, g := chip(t, n).RecordID(), identity.Generation(1)
				if d, err := s.Newest(ctx, record); err == nil {
					g = d.Generation
				}
				d := withIdentity(device(t, n, g), imei(t, random.IntN(40)))
				next := withIdentity(device(t, n, g+1), d.Identity)
				if last, err := s.Newest(ctx, record); err == nil && random.IntN(2) == 0 {
					next.Identity = last.Identity
				}
				acts := []func() error{
					func() error { return s.Reserve(ctx, d, event(d)) },
					func() error { return s.Reserve(ctx, next, event(next)) },
					func() error { return s.Packaged(ctx, packaged(d, 1)) },
					func() error {
						_, err := s.Confirmed(ctx, record, g, packaged(d, 1).Point, []byte("backup"), make([]byte, 32), [32]byte{1})
						return err
					},
					func() error {
						return s.Restored(ctx, record, g, make([]byte, 32), []byte("entry"), nil)
					},
					func() error { return s.Published(ctx, record, g, int64(n)*1000+int64(g)) },
					func() error { return s.Shipped(ctx, record, g) },
					func() error { return s.SetAside(ctx, record, g, 0, "refused") },
					func() error { return s.Quarantine(ctx, record, ann) },
					func() error { return s.Release(ctx, record, ann) },
					func() error { return s.Return(ctx, record, ann) },
					func() error { return s.Contest(ctx, record, "two lists", nil) },
					func() error { return s.Abandon(ctx, record, g, ann) },
					func() error { return s.Burned(ctx, d.Identity, 7, "test") },
				}
				if i > 70 {
					acts = append(acts, func() error {
						err := s.Scrap(ctx, record, g, nil, ann)
						if err != nil && !errors.Is(err, records.ErrConflict) {
							err = s.Scrap(ctx, record, g, []byte("scrap entry"), ann)
						}
						return err
					}, func() error {
						_, err := s.Plan(ctx, record, chip(t, (n+1)%chips).RecordID(), ann)
						return err
					})
				}
				k := random.IntN(len(acts))
				others(t, map[string]error{fmt.Sprint("act ", k): acts[k]()}, records.ErrConflict, records.ErrNotFound, records.ErrExists,
					records.ErrIdentityUsed, records.ErrChipActive)
			}
		})
	}
	wg.Wait()
	l := &life{t: t, super: r.AsSuperuser()}
	l.invariants(t, t.Context())
}
