package database_test

import (
	"bytes"
	"context"
	"database/sql/driver"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/devicekeys/devicekeys/database"
	"github.com/devicekeys/devicekeys/deploy/postgres"
)

// A lookup gives rows as the server has them, of every length, to many at once.
func TestLookup(t *testing.T) {
	t.Parallel()
	d := postgres.ForTest(t).TestDatabase(t, "lookup")
	db := open(t, d, "reader")
	ctx := within(t)
	l, err := database.NewLookup(ctx, db, `select o::bigint, o::int, o::smallint, case when o <> 2 then $1::bytea end from generate_series(1, $2::int) o`)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for n := range 20 {
		all.Go(func() {
			long := bytes.Repeat([]byte{byte(n)}, 300*n+1) // some go through lib/pq's own buffer, some don't
			var got, want [][]driver.Value
			for o := range int64(n) {
				want = append(want, []driver.Value{o + 1, o + 1, o + 1, long})
				if o == 1 {
					want[o][3] = nil
				}
			}
			err := l.Rows(ctx, func(values []driver.Value) error {
				row := append([]driver.Value(nil), values...)
				if b, ok := row[3].([]byte); ok {
					row[3] = bytes.Clone(b)
				}
				got = append(got, row)
				return nil
			}, long, int64(n))
			if diff := cmp.Diff(want, got); diff != "" || err != nil {
				t.Errorf("%d rows: %v\n%s", n, err, diff)
			}
		})
	}
	all.Wait()
	if n := one[int](t, db, `select count(*) from pg_prepared_statements`); n > 1 {
		t.Errorf("the query is prepared %d times on one connection", n)
	}
}

// A row's own error ends the lookup, a wrong query is refused, and the connection goes on.
func TestLookupErrors(t *testing.T) {
	t.Parallel()
	d := postgres.ForTest(t).TestDatabase(t, "lookup")
	db := open(t, d, "reader")
	db.SetMaxOpenConns(1)
	ctx := within(t)
	backend := one[int](t, db, `select pg_backend_pid()`)
	if _, err := database.NewLookup(ctx, db, `select from nowhere`); err == nil {
		t.Error("a query of a table that isn't there was taken")
	}
	l, err := database.NewLookup(ctx, db, `select 10 / (3 - o) from generate_series(1, $1::int) o`)
	if err != nil {
		t.Fatal(err)
	}
	enough, rows := errors.New("enough"), 0
	for range 3 {
		if err := l.Rows(ctx, func([]driver.Value) error { rows++; return enough }, int64(2)); !errors.Is(err, enough) {
			t.Errorf("stopped by its own error: %v", err)
		}
	}
	if err := l.Rows(ctx, func([]driver.Value) error { return nil }, int64(3)); err == nil || database.Transient(err) {
		t.Errorf("divided by zero: %v", err)
	}
	if err := l.Rows(ctx, func([]driver.Value) error { rows++; return nil }, int64(2)); err != nil || rows != 3+2 {
		t.Errorf("after all that: %d rows, %v", rows, err)
	}
	if now := one[int](t, db, `select pg_backend_pid()`); now != backend {
		t.Error("an error cost the connection")
	}
}

// The end of a context ends the wait, for the server and for a free connection, and nothing that
// was interrupted is used again.
func TestLookupEnds(t *testing.T) {
	t.Parallel()
	d := postgres.ForTest(t).TestDatabase(t, "lookup")
	db := open(t, d, "reader")
	db.SetMaxOpenConns(1)
	ctx := within(t)
	sleep, err := database.NewLookup(ctx, db, `select 1 from pg_sleep($1::float8)`)
	if err != nil {
		t.Fatal(err)
	}
	nothing := func([]driver.Value) error { return nil }
	short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	begin := time.Now()
	if err := sleep.Rows(short, nothing, 20.0); !errors.Is(err, context.DeadlineExceeded) || database.Transient(err) {
		t.Errorf("a deadline: %v", err)
	}
	if err := sleep.Rows(short, nothing, 0.0); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("after the deadline: %v", err)
	}
	given, cancel := context.WithCancel(ctx)
	held := make(chan error, 1)
	go func() { held <- sleep.Rows(given, nothing, 20.0) }()
	for db.Stats().InUse == 0 {
		time.Sleep(time.Millisecond)
	}
	waiting, cancelWaiting := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancelWaiting()
	if err := sleep.Rows(waiting, nothing, 0.0); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waiting for a connection: %v", err)
	}
	cancel()
	if err := <-held; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if took := time.Since(begin); took > 15*time.Second {
		t.Errorf("it took %s", took)
	}
	// Cancelled between the last row and the end: what was read counts, the connection doesn't.
	late, cancel := context.WithCancel(ctx)
	if err := sleep.Rows(late, func([]driver.Value) error { cancel(); return nil }, 0.0); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled late: %v", err)
	}
	for range 3 {
		if err := sleep.Rows(ctx, nothing, 0.0); err != nil {
			t.Errorf("after it: %v", err)
		}
	}
}

// A connection that the server closed while it was idle is not noticed; one that it closes under way is
// an error that passes.
func TestLookupLost(t *testing.T) {
	t.Parallel()
	d := postgres.ForTest(t).TestDatabase(t, "lookup")
	db := open(t, d, "reader")
	db.SetMaxOpenConns(1)
	other := open(t, d, "reader")
	ctx := within(t)
	l, err := database.NewLookup(ctx, db, `select pg_backend_pid() from pg_sleep($1::float8)`)
	if err != nil {
		t.Fatal(err)
	}
	var backend int64
	ask := func(seconds float64) error {
		return l.Rows(ctx, func(v []driver.Value) error { backend = v[0].(int64); return nil }, seconds)
	}
	if err := ask(0); err != nil {
		t.Fatal(err)
	}
	before := backend
	exec(t, other, `select pg_terminate_backend($1, 10000)`, before)
	if err := ask(0); err != nil || backend == before {
		t.Errorf("closed while idle: %v", err)
	}
	lost := make(chan error, 1)
	go func() { lost <- l.Rows(ctx, func([]driver.Value) error { return nil }, 20.0) }()
	for one[int](t, other, `select count(*) from pg_stat_activity where pid = $1 and state = 'active'`, backend) == 0 {
		time.Sleep(time.Millisecond)
	}
	exec(t, other, `select pg_terminate_backend($1, 10000)`, backend)
	if err := <-lost; !database.Transient(err) {
		t.Errorf("closed under way: %v", err)
	}
	if err := ask(0); err != nil {
		t.Errorf("after it: %v", err)
	}
}
