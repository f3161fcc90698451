package pool_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/devicekeys/devicekeys/database"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/provisioning/pool"
	"github.com/devicekeys/devicekeys/provisioning/pool/pooltest"
	"github.com/google/go-cmp/cmp"
)

const tac = identity.TAC("00440245")

func imei(t testing.TB, tac identity.TAC, serial int) identity.Identity {
	t.Helper()
	id, err := tac.IMEI(serial)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// imeis gives n identities from a serial number on.
func imeis(t testing.TB, first, n int) []identity.Identity {
	t.Helper()
	ids := make([]identity.Identity, n)
	for i := range ids {
		ids[i] = imei(t, tac, first+i)
	}
	return ids
}

// record gives the record id of a chip by its number.
func record(n int) identity.RecordID {
	var r identity.RecordID
	copy(r[:], fmt.Sprintf("record %d", n))
	return r
}

func mustImport(t testing.TB, s *pool.Store, name, line string, ids []identity.Identity) pool.Batch {
	t.Helper()
	b, err := s.Import(t.Context(), name, line, identity.TypeIMEI, ids)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func mustReserve(t testing.TB, s *pool.Store, line string, n int, g identity.Generation) pool.Reservation {
	t.Helper()
	r, err := s.Reserve(t.Context(), line, nil, nil, record(n), g)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// counts are a batch's numbers: imported, free, reserved, used, burned.
type counts [5]int64

func countsOf(b pool.Batch) counts {
	return counts{b.Imported, b.Free, b.Reserved, b.Used, b.Burned}
}

// checkPool holds every batch against the rows and its own sum: invariant 2.
func checkPool(t testing.TB, s *pool.Store) []pool.Batch {
	t.Helper()
	tallies, err := s.Tallies(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var all []pool.Batch
	for _, y := range tallies {
		b := y.Batch
		if b.Imported != b.Free+b.Reserved+b.Used+b.Burned || b.Free != y.Free || b.Reserved != y.Reserved || b.Burned != y.Burned {
			t.Errorf("batch %q says %v, its rows say %d free, %d reserved, %d burned", b.Name, countsOf(b), y.Free, y.Reserved, y.Burned)
		}
		all = append(all, b)
	}
	return all
}

func TestLifeOfAnIdentity(t *testing.T) {
	t.Parallel()
	s := pooltest.New(t).Store
	b := mustImport(t, s, "march", "phone", imeis(t, 0, 3))
	if got := countsOf(b); got != (counts{3, 3, 0, 0, 0}) {
		t.Errorf("imported: %v", got)
	}

	r := mustReserve(t, s, "phone", 1, 1)
	if want := (pool.Reservation{Identity: imei(t, tac, 0), Batch: b.ID, New: true}); r != want {
		t.Errorf("Reserve = %v, want %v", r, want)
	}
	if again := mustReserve(t, s, "phone", 1, 1); again.Identity != r.Identity || again.Batch != r.Batch || again.New {
		t.Errorf("Reserve again = %v, want %v and not new", again, r)
	}
	if next := mustReserve(t, s, "phone", 1, 2); next.Identity == r.Identity {
		t.Error("another generation got the same identity")
	}

	for range 2 {
		if err := s.Use(t.Context(), r.Identity); err != nil {
			t.Fatal(err)
		}
		if got := countsOf(checkPool(t, s)[0]); got != (counts{3, 1, 1, 1, 0}) {
			t.Errorf("after Use: %v", got)
		}
	}
	if err := s.Use(t.Context(), imei(t, tac, 2)); !errors.Is(err, pool.ErrNotReserved) {
		t.Errorf("Use of a free identity: %v", err)
	}
	for range 2 {
		if err := errors.Join(s.Burn(t.Context(), imei(t, tac, 1), "lost"), s.Burn(t.Context(), imei(t, tac, 2), "doubtful")); err != nil {
			t.Fatal(err)
		}
		if got := countsOf(checkPool(t, s)[0]); got != (counts{3, 0, 0, 1, 2}) {
			t.Errorf("after Burn: %v", got)
		}
	}
	if err := s.Burn(t.Context(), imei(t, tac, 2), ""); err == nil {
		t.Error("Burn without a reason was allowed")
	}
	if _, err := s.Reserve(t.Context(), "phone", nil, nil, record(9), 1); !errors.Is(err, pool.ErrEmpty) {
		t.Errorf("Reserve from an empty pool: %v", err)
	}
	stock, err := s.Stock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if want := []pool.Stock{{Line: "phone", Type: identity.TypeIMEI, Imported: 3, Used: 1, Burned: 2}}; !cmp.Equal(stock, want) {
		t.Error(cmp.Diff(want, stock))
	}
}

func TestReserveWithinRanges(t *testing.T) {
	t.Parallel()
	s := pooltest.New(t).Store
	other := identity.TAC("00440246")
	mustImport(t, s, "a", "phone", []identity.Identity{imei(t, tac, 5), imei(t, other, 7), imei(t, other, 8)})
	mustImport(t, s, "b", "tablet", []identity.Identity{imei(t, other, 9)})
	first := pool.Range{From: "00440245000000", To: "00440245999999"}
	second := pool.Range{From: "00440246000000", To: "00440246999999"}
	nowhere := pool.Range{From: "99000000000000", To: "99999999999999"}
	for i, c := range []struct {
		line   string
		within []pool.Range
		want   identity.Identity
		err    error
	}{
		{line: "phone", within: []pool.Range{nowhere}, err: pool.ErrOutOfRange},
		{line: "phone", within: []pool.Range{second}, want: imei(t, other, 7)},
		{line: "phone", within: []pool.Range{nowhere, second, first}, want: imei(t, other, 8)},
		{line: "phone", within: []pool.Range{second, first}, want: imei(t, tac, 5)},
		{line: "phone", within: []pool.Range{second, first}, err: pool.ErrEmpty},
		{line: "tablet", within: []pool.Range{first}, err: pool.ErrOutOfRange},
		{line: "tablet", want: imei(t, other, 9)},
		{line: "nothing", err: pool.ErrEmpty},
	} {
		r, err := s.Reserve(t.Context(), c.line, c.within, nil, record(i+1), 1)
		if !errors.Is(err, c.err) || r.Identity != c.want {
			t.Errorf("%d: Reserve(%s, %v) = %v, %v, want %v, %v", i, c.line, c.within, r, err, c.want, c.err)
		}
	}
	checkPool(t, s)
}

func TestImportRefusesDuplicates(t *testing.T) {
	t.Parallel()
	s := pooltest.New(t).Store
	mustImport(t, s, "first", "phone", imeis(t, 0, 10))
	mustImport(t, s, "second", "phone", imeis(t, 10, 10))

	_, err := s.Import(t.Context(), "third", "phone", identity.TypeIMEI, append(imeis(t, 100, 5), imei(t, tac, 3), imei(t, tac, 13)))
	var dup *pool.DuplicateError
	if !errors.As(err, &dup) {
		t.Fatalf("Import of duplicates: %v", err)
	}
	if want := []pool.Duplicate{{Identity: imei(t, tac, 3), Batch: "first"}, {Identity: imei(t, tac, 13), Batch: "second"}}; !slices.Equal(dup.Duplicates, want) {
		t.Errorf("duplicates %v, want %v", dup.Duplicates, want)
	}
	if err := s.Burn(t.Context(), imei(t, tac, 4), "lost"); err != nil {
		t.Fatal(err)
	}
	_, err = s.Import(t.Context(), "third", "phone", identity.TypeIMEI, append(imeis(t, 100, 5), imei(t, tac, 4)))
	if !errors.As(err, &dup) {
		t.Fatalf("Import of a burned one: %v", err)
	}
	if want := []pool.Duplicate{{Identity: imei(t, tac, 4), Batch: "first", Burned: true}}; !slices.Equal(dup.Duplicates, want) {
		t.Errorf("duplicates %v, want %v", dup.Duplicates, want)
	}
	if got := len(checkPool(t, s)); got != 2 {
		t.Errorf("%d batches stand, want 2: the refused one left something", got)
	}
	for name, c := range map[string]struct {
		batch, line string
		kind        identity.Type
		ids         []identity.Identity
		err         error // nil: any
	}{
		"name taken":     {"first", "phone", identity.TypeIMEI, imeis(t, 50, 1), pool.ErrNameTaken},
		"twice within":   {"x", "phone", identity.TypeIMEI, append(imeis(t, 50, 1), imeis(t, 50, 1)...), nil},
		"another type":   {"x", "phone", identity.TypeEUI64, imeis(t, 50, 1), nil},
		"no identities":  {"x", "phone", identity.TypeIMEI, nil, nil},
		"no name":        {"", "phone", identity.TypeIMEI, imeis(t, 50, 1), nil},
		"no line":        {"x", "", identity.TypeIMEI, imeis(t, 50, 1), nil},
		"name too long":  {string(make([]byte, 200)), "phone", identity.TypeIMEI, imeis(t, 50, 1), nil},
		"too many by 1M": {"x", "phone", identity.TypeIMEI, make([]identity.Identity, pool.MaxImport+1), nil},
	} {
		if _, err := s.Import(t.Context(), c.batch, c.line, c.kind, c.ids); err == nil || c.err != nil && !errors.Is(err, c.err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	found, err := s.Find(t.Context(), imeis(t, 8, 5))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"00440245000008": "first", "00440245000009": "first", "00440245000010": "second", "00440245000011": "second", "00440245000012": "second"}
	if !cmp.Equal(found, want) {
		t.Error(cmp.Diff(want, found))
	}
}

// TestConcurrentReserve: many goroutines on two stores (two SPPs) reserve, each
// device asked for several times at once; no identity is given twice and all
// are given.
func TestConcurrentReserve(t *testing.T) {
	t.Parallel()
	d := pooltest.New(t)
	second, err := database.Open(t.Context(), d.Config("spp"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { second.Close() })
	stores := []*pool.Store{d.Store, pool.New(second)}
	const devices, askers = 150, 3
	mustImport(t, d.Store, "a", "phone", imeis(t, 0, devices/2))
	mustImport(t, d.Store, "b", "phone", imeis(t, devices/2, devices/2))

	var mu sync.Mutex
	got := map[int]identity.Identity{}
	fresh := 0
	var wg sync.WaitGroup
	work := make(chan int)
	for worker := range 16 {
		wg.Go(func() {
			for n := range work {
				r, err := stores[worker%2].Reserve(t.Context(), "phone", nil, nil, record(n), 1)
				if err != nil {
					t.Error(err)
					continue
				}
				mu.Lock()
				if have, ok := got[n]; ok && have != r.Identity {
					t.Errorf("device %d got %s and %s", n, have, r.Identity)
				}
				got[n] = r.Identity
				if r.New {
					fresh++
				}
				mu.Unlock()
			}
		})
	}
	for n := range devices {
		for range askers {
			work <- n + 1
		}
	}
	close(work)
	wg.Wait()
	owner := map[identity.Identity]int{}
	for n, id := range got {
		if m, twice := owner[id]; twice {
			t.Errorf("%s was given to devices %d and %d", id, m, n)
		}
		owner[id] = n
	}
	if len(owner) != devices || fresh != devices {
		t.Errorf("%d identities given, %d as new, want %d", len(owner), fresh, devices)
	}
	checkPool(t, d.Store)
	if _, err := stores[1].Reserve(t.Context(), "phone", nil, nil, record(devices+1), 1); !errors.Is(err, pool.ErrEmpty) {
		t.Errorf("one too many: %v", err)
	}
}

// TestReserveWaitsForTheLast: where the last free row is locked by somebody who
// then gives it back, or takes it, Reserve waits and tells what came of it.
func TestReserveWaitsForTheLast(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		query string
		want  error
	}{
		"given back": {`select from waiting for update`, nil},
		"taken":      {`delete from waiting`, pool.ErrEmpty},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := pooltest.New(t)
			mustImport(t, d.Store, "a", "phone", imeis(t, 0, 1))
			tx, err := d.AsOwner().Begin()
			if err != nil {
				t.Fatal(err)
			}
			defer tx.Rollback()
			if _, err := tx.Exec(c.query); err != nil {
				t.Fatal(err)
			}
			answer := make(chan error, 1)
			go func() {
				_, err := d.Store.Reserve(t.Context(), "phone", nil, nil, record(1), 1)
				answer <- err
			}()
			select {
			case err := <-answer:
				t.Fatalf("Reserve did not wait for the lock: %v", err)
			case <-time.After(100 * time.Millisecond):
			}
			if err := tx.Commit(); err != nil {
				t.Fatal(err)
			}
			if err := <-answer; !errors.Is(err, c.want) {
				t.Errorf("Reserve = %v, want %v", err, c.want)
			}
		})
	}
}

// TestReserveEndsWithItsContext: a caller that gave up is not kept waiting.
func TestReserveEndsWithItsContext(t *testing.T) {
	t.Parallel()
	d := pooltest.New(t)
	mustImport(t, d.Store, "a", "phone", imeis(t, 0, 1))
	tx, err := d.AsOwner().Begin()
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	if _, err := tx.Exec(`select from batch for update`); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := d.Store.Reserve(ctx, "phone", nil, nil, record(1), 1); err == nil {
		t.Error("Reserve returned without the batch's lock")
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	mustReserve(t, d.Store, "phone", 1, 1)
	checkPool(t, d.Store)
}

// TestConnectionKilled: every connection is cut again and again while devices
// reserve, are used and burned; each caller repeats until it has an answer. At the
// end all is counted and nobody shares an identity.
func TestConnectionKilled(t *testing.T) {
	t.Parallel()
	d := pooltest.New(t)
	const devices = 300
	mustImport(t, d.Store, "a", "phone", imeis(t, 0, devices))
	super := d.AsSuperuser()
	stop := make(chan struct{})
	var killer, wg sync.WaitGroup
	var steps atomic.Int64 // that were taken: between two kills there is one at least, however slow the machine is
	killed := 0
	killer.Go(func() {
		for seen := int64(0); ; {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
			if steps.Load() == seen {
				continue
			}
			seen = steps.Load()
			var n int
			err := super.QueryRow(`select count(pg_terminate_backend(pid)) from pg_stat_activity where usename = 'spp' and datname = $1`, d.Name).Scan(&n)
			if err != nil {
				t.Errorf("kill: %v", err)
				return
			}
			killed += n
		}
	})
	var mu sync.Mutex
	owner := map[identity.Identity]int{}
	work := make(chan int)
	again := func(t testing.TB, act func() error) {
		again(t, act)
		steps.Add(1)
	}
	for range 4 {
		wg.Go(func() {
			for n := range work {
				var r pool.Reservation
				again(t, func() (err error) {
					r, err = d.Store.Reserve(t.Context(), "phone", nil, nil, record(n), 1)
					return err
				})
				mu.Lock()
				if m, twice := owner[r.Identity]; twice {
					t.Errorf("%s was given to devices %d and %d", r.Identity, m, n)
				}
				owner[r.Identity] = n
				mu.Unlock()
				again(t, func() error {
					if n%3 == 0 {
						return d.Store.Burn(t.Context(), r.Identity, "test")
					}
					return d.Store.Use(t.Context(), r.Identity)
				})
			}
		})
	}
	for n := range devices {
		work <- n + 1
	}
	close(work)
	wg.Wait()
	close(stop)
	killer.Wait()
	if killed == 0 {
		t.Error("no connection was killed: the test proves nothing")
	}
	if got := countsOf(checkPool(t, d.Store)[0]); got != (counts{devices, 0, 0, devices - devices/3, devices / 3}) {
		t.Errorf("counts %v after %d killed connections", got, killed)
	}
}

// again repeats what failed for a reason that passes.
func again(t testing.TB, act func() error) {
	t.Helper()
	for range 2000 {
		err := act()
		if err == nil {
			return
		}
		if !database.Transient(err) {
			t.Errorf("not transient: %v", err)
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Error("it never came to an end")
}

func TestReservations(t *testing.T) {
	t.Parallel()
	s := pooltest.New(t).Store
	b := mustImport(t, s, "a", "phone", imeis(t, 0, 5))
	mustReserve(t, s, "phone", 1, 1)
	mustReserve(t, s, "phone", 2, 3)
	all, err := s.Reservations(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	for i := range all {
		if all[i].At.IsZero() {
			t.Errorf("reservation %d has no time", i)
		}
		all[i].At = time.Time{}
	}
	want := []pool.Reserved{
		{Identity: imei(t, tac, 0), Batch: b.ID, Line: "phone", Record: record(1), Generation: 1},
		{Identity: imei(t, tac, 1), Batch: b.ID, Line: "phone", Record: record(2), Generation: 3},
	}
	if !slices.Equal(all, want) {
		t.Errorf("Reservations = %v, want %v", all, want)
	}
	if now, err := s.Now(t.Context()); err != nil || time.Since(now).Abs() > time.Minute {
		t.Errorf("Now = %s, %v", now, err)
	}
	if old, err := s.Reservations(t.Context(), time.Hour); err != nil || len(old) != 0 {
		t.Errorf("Reservations older than an hour = %v, %v", old, err)
	}
	free := 0
	err = s.Each(t.Context(), func(w pool.Waiting) error {
		if w.Free {
			free++
		}
		return nil
	})
	if err != nil || free != 3 {
		t.Errorf("Each: %d free, %v", free, err)
	}
}

// TestSumIsEnforced: a count that breaks the sum is refused by the database,
// even to its owner.
func TestSumIsEnforced(t *testing.T) {
	t.Parallel()
	d := pooltest.New(t)
	mustImport(t, d.Store, "a", "phone", imeis(t, 0, 5))
	for _, q := range []string{
		`update batch set used = used + 1`,
		`update batch set free = free - 6, used = used + 6`,
		`update batch set imported = 6`,
	} {
		if _, err := d.AsOwner().Exec(q); err == nil {
			t.Errorf("allowed: %s", q)
		}
	}
}

// TestPrivileges is the policy: who may do what to which table.
func TestPrivileges(t *testing.T) {
	t.Parallel()
	d := pooltest.New(t)
	mustImport(t, d.Store, "a", "phone", imeis(t, 0, 2))
	const all, read, none = "select insert update delete", "select", ""
	for _, c := range []struct{ role, table, allowed string }{
		{"spp", "batch", all}, {"spp", "waiting", all}, {"spp", "burned", all},
		{"auditor", "batch", read}, {"auditor", "waiting", read}, {"auditor", "burned", read},
		{"stranger", "batch", none}, {"stranger", "waiting", none}, {"stranger", "burned", none},
	} {
		pooltest.Policy(t, d.As(c.role), c.role, c.table, c.allowed)
	}
	var create bool
	for _, role := range []string{"spp", "auditor"} {
		if err := d.As(role).QueryRow(`select has_schema_privilege(current_user, 'public', 'create')`).Scan(&create); err != nil || create {
			t.Errorf("%s may make tables: %v, %v", role, create, err)
		}
	}
}
