package store_test

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/lib/pq"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/registry"
	"github.com/devicekeys/devicekeys/registry/registrytest"
	"github.com/devicekeys/devicekeys/registry/store"
	"github.com/devicekeys/devicekeys/registry/store/storetest"
)

func records(entries ...registry.Entry) []identity.RecordID {
	var out []identity.RecordID
	for _, e := range entries {
		if !slices.Contains(out, e.Record) {
			out = append(out, e.Record)
		}
	}
	return out
}

// add appends entries whatever stands.
func add(entries ...registry.Entry) func([]store.Standing) []store.New {
	return func([]store.Standing) []store.New { return storetest.Rows(entries...) }
}

// What is appended is read back, whichever way one asks.
func TestAppendAndRead(t *testing.T) {
	t.Parallel()
	d := storetest.New(t)
	w, r, ctx := store.NewWriter(d.Open(d.Roles.Sequencer)), d.Reader(), t.Context()
	rom := registrytest.ROM(t)
	first, second := registrytest.Entry(t, 1, 1), registrytest.Entry(t, 2, 1)
	newer, large := registrytest.Entry(t, 1, 2), largeEntry(t, 3)
	scrap, erase := registrytest.End(t, 1, 2, registry.Scrap, rom), registrytest.End(t, 2, 1, registry.Erase, rom)

	head, err := w.Append(ctx, 0, records(first, second), func(standing []store.Standing) []store.New {
		if len(standing) != 0 {
			t.Errorf("an empty registry has %v", standing)
		}
		return storetest.Rows(first, second)
	})
	if err != nil || head != 2 {
		t.Fatalf("head %d, %v", head, err)
	}
	head, err = w.Append(ctx, head, records(first), func(standing []store.Standing) []store.New {
		want := []store.Standing{{Record: first.Record, Generation: 1, Type: registry.Register, Sequence: 0,
			SealedHash: sha256.Sum256(first.Sealed), LeafHash: first.LeafHash()}}
		if diff := cmp.Diff(want, standing); diff != "" {
			t.Errorf("what stands:\n%s", diff)
		}
		return storetest.Rows(newer, large)
	})
	if err != nil || head != 4 {
		t.Fatalf("head %d, %v", head, err)
	}
	if head, err = w.Append(ctx, head, nil, add(scrap, erase)); err != nil || head != 6 {
		t.Fatalf("head %d, %v", head, err)
	}
	if same, err := w.Append(ctx, head, records(first), add()); err != nil || same != head {
		t.Fatalf("a batch of nothing: head %d, %v", same, err)
	}

	all := []registry.Entry{first, second, newer, large, scrap, erase}
	stored := func(i int) registry.Stored {
		return registry.Stored{Entry: all[i], Sequence: int64(i), LeafHash: all[i].LeafHash()}
	}
	got, err := r.Newest(ctx, append(records(all...), registrytest.Chip(t, 9).RecordID()))
	if err != nil {
		t.Fatal(err)
	}
	want := map[identity.RecordID]registry.Stored{first.Record: stored(4), second.Record: stored(5), large.Record: stored(3)}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("newest of several:\n%s", diff)
	}
	for id, s := range want {
		got, err := r.Newest(ctx, []identity.RecordID{id})
		if diff := cmp.Diff(map[identity.RecordID]registry.Stored{id: s}, got); diff != "" || err != nil {
			t.Errorf("newest of one: %v\n%s", err, diff)
		}
	}
	for g, i := range map[identity.Generation]int{1: 0, 2: 2} {
		got, err := r.At(ctx, first.Record, g)
		if diff := cmp.Diff(stored(i), got); diff != "" || err != nil {
			t.Errorf("generation %d: %v\n%s", g, err, diff)
		}
	}
	if _, err := r.At(ctx, second.Record, 1); !errors.Is(err, registry.ErrErased) {
		t.Errorf("an erased generation: %v", err)
	}
	if _, err := r.At(ctx, first.Record, 3); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("a generation that isn't there: %v", err)
	}
	rows, err := r.Range(ctx, 1, 3)
	if err != nil || len(rows) != 3 {
		t.Fatalf("range: %d rows, %v", len(rows), err)
	}
	for i, row := range rows {
		if diff := cmp.Diff(stored(i+1), row.Stored); diff != "" || row.Erased {
			t.Errorf("row %d: erased %v\n%s", i+1, row.Erased, diff)
		}
	}
	if n, err := r.Size(ctx); err != nil || n != 6 {
		t.Errorf("size %d, %v", n, err)
	}
	if realm, err := w.Realm(ctx); err != nil || realm != identity.Development {
		t.Errorf("realm %s, %v", realm, err)
	}
}

// largeEntry is nearly as long as an entry may be: it is moved out of its row.
func largeEntry(t *testing.T, n int) registry.Entry {
	e, err := registry.Seal(strings.NewReader("twelve bytes"), registrytest.Chip(t, n),
		registry.Entry{Realm: identity.Development, Type: registry.Register, Generation: 1}, registrytest.Record(t, n, 1, 64_000))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// Of two writers one goes on; the other learns that it must stop.
func TestTwoWriters(t *testing.T) {
	t.Parallel()
	d := storetest.New(t)
	one, two := store.NewWriter(d.Open(d.Roles.Sequencer)), store.NewWriter(d.Open(d.Roles.Sequencer))
	ctx := t.Context()
	inside, release := make(chan bool), make(chan bool)
	done := make(chan error, 1)
	go func() {
		_, err := one.Append(ctx, 0, nil, func([]store.Standing) []store.New {
			close(inside)
			<-release
			return storetest.Rows(registrytest.Entry(t, 1, 1))
		})
		done <- err
	}()
	<-inside // the first holds the head's lock
	second := make(chan error, 1)
	go func() {
		_, err := two.Append(ctx, 0, nil, add(registrytest.Entry(t, 2, 1)))
		second <- err
	}()
	select {
	case err := <-second:
		t.Fatalf("the second writer did not wait: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(release)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := <-second; !errors.Is(err, store.ErrHeadMoved) {
		t.Fatalf("the second writer: %v", err)
	}
	if n, err := d.Reader().Size(ctx); err != nil || n != 1 {
		t.Fatalf("size %d, %v", n, err)
	}
}

// An entry can't stand twice even if its writer errs, and the batch leaves nothing.
func TestOnce(t *testing.T) {
	t.Parallel()
	d := storetest.New(t)
	w := store.NewWriter(d.Open(d.Roles.Sequencer))
	e := registrytest.Entry(t, 1, 1)
	if _, err := w.Append(t.Context(), 0, nil, add(e, registrytest.Entry(t, 2, 1), e)); err == nil {
		t.Fatal("one entry was appended twice")
	}
	if n, err := w.Head(t.Context()); err != nil || n != 0 {
		t.Errorf("head %d, %v", n, err)
	}
}

func TestSettle(t *testing.T) {
	t.Parallel()
	d := storetest.New(t)
	w, ctx := store.NewWriter(d.Open(d.Roles.Sequencer)), t.Context()
	a, b, c := registrytest.Entry(t, 1, 1), registrytest.Entry(t, 2, 1), registrytest.Entry(t, 3, 1)
	d.Append(a, b)
	leaves := func(entries ...registry.Entry) (out [][32]byte) {
		for _, e := range entries {
			out = append(out, e.LeafHash())
		}
		return out
	}
	for _, row := range []struct {
		name   string
		head   int64
		leaves [][32]byte
		want   int64
		err    error
	}{
		{"it happened", 0, leaves(a, b), 2, nil},
		{"it happened, the last part", 1, leaves(b), 2, nil},
		{"it did not happen", 2, leaves(c), 2, nil},
		{"someone else's entries stand there", 0, leaves(a, c), 0, store.ErrHeadMoved},
		{"more stands than was written", 0, leaves(a), 0, store.ErrHeadMoved},
		{"the head is behind", 3, leaves(c), 0, store.ErrHeadMoved},
	} {
		got, err := w.Settle(ctx, row.head, row.leaves)
		if got != row.want || !errors.Is(err, row.err) {
			t.Errorf("%s: head %d, %v", row.name, got, err)
		}
	}
}

// Each role may do its work and nothing else; the owner is kept from accidents.
func TestPrivileges(t *testing.T) {
	t.Parallel()
	d := storetest.New(t)
	d.Append(registrytest.Entry(t, 1, 1))
	insert := `insert into entry (seq, realm, type, record_id, generation, sealed, sealed_hash, leaf_hash)
		values (1, 1, 1, decode(repeat('11', 32), 'hex'), 1, 'x', decode(repeat('22', 32), 'hex'), decode(repeat('33', 32), 'hex'))`
	statements := []struct{ name, text string }{
		{"select", `select * from entry, head`},
		{"insert", insert},
		{"move the head", `update head set size = size + 1`},
		{"shrink the head", `update head set size = size - 1`},
		{"rename the head", `update head set id = 1`},
		{"update", `update entry set sealed = null`},
		{"update nothing", `update entry set sealed = null where false`},
		{"delete", `delete from entry`},
		{"truncate", `truncate entry`},
		{"delete the head", `delete from head`},
		{"another head", `insert into head values (2, 0)`},
		{"truncate the head", `truncate head`},
		{"drop", `drop table entry`},
		{"disable triggers", `alter table entry disable trigger all`},
		{"replace a trigger", `create or replace function refuse_change() returns trigger language plpgsql as 'begin return null; end'`},
		{"create", `create table mine (x int)`},
		{"run a program", `copy entry to program 'true'`},
	}
	allowed := map[string][]string{
		d.Roles.Sequencer: {"select", "insert", "move the head"},
		d.Roles.Reader:    {"select"},
		d.Roles.Auditor:   {"select"},
		// What the owner can do on purpose is not tried; what he might do by accident is.
		d.Owner(): {"select", "insert", "move the head", "drop", "disable triggers", "replace a trigger", "create"},
	}
	for role, may := range allowed {
		db := d.Open(role)
		for _, s := range statements {
			tx, err := db.BeginTx(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			_, err = tx.ExecContext(t.Context(), s.text)
			switch e := pq.As(err); {
			case slices.Contains(may, s.name):
				if err != nil {
					t.Errorf("%s can't %s: %v", role, s.name, err)
				}
			case e == nil || e.Code != "42501":
				t.Errorf("%s: %s: %v, want a lack of privilege", role, s.name, err)
			}
			if err := tx.Rollback(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// Migrating and granting again changes nothing, and takes away what was too much.
func TestMigrateAgain(t *testing.T) {
	t.Parallel()
	d := storetest.New(t)
	owner := d.Open(d.Owner())
	if _, err := owner.ExecContext(t.Context(), `grant all on entry to `+d.Roles.Reader); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Migrate(t.Context(), owner, d.Roles); err != nil {
		t.Fatal(err)
	}
	_, err := d.Open(d.Roles.Reader).ExecContext(t.Context(), `insert into entry default values`)
	if e := pq.As(err); e == nil || e.Code != "42501" {
		t.Errorf("the reader inserts: %v", err)
	}
	if err := store.RequireSchema(t.Context(), d.Open(d.Roles.Reader)); err != nil {
		t.Error(err)
	}
	if _, err := store.Migrate(t.Context(), d.Open(d.Roles.Sequencer), d.Roles); err == nil {
		t.Error("the sequencer's role set rights")
	}
	if err := store.Grant(t.Context(), owner, store.Roles{Reader: "nobody_of_this_name"}); err == nil || !strings.Contains(err.Error(), "create the role first") {
		t.Errorf("an unknown role: %v", err)
	}
	if err := store.Grant(t.Context(), owner, store.Roles{Sequencer: "x", Reader: "x"}); err == nil {
		t.Error("one role for writing and reading was taken")
	}
}

// Rows that someone changed past the triggers are errors, not answers.
func TestDamage(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]string{
		"the sealed record": `update entry set sealed = overlay(sealed placing '\x00' from 50 for 1) where seq = 1`,
		"the generation":    `update entry set generation = 7 where seq = 1`,
		"the record id":     `update entry set record_id = (select record_id from entry where seq = 0), generation = 9 where seq = 1`,
		"the leaf hash":     `update entry set leaf_hash = sealed_hash where seq = 1`,
		"erased quietly":    `update entry set sealed = null where seq = 1`,
		"deleted":           `delete from entry where seq = 1`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := storetest.New(t)
			a, b, c := registrytest.Entry(t, 1, 1), registrytest.Entry(t, 2, 1), registrytest.Entry(t, 3, 1)
			d.Append(a, b, c)
			r, owner := d.Reader(), d.Open(d.Owner())
			if _, err := owner.ExecContext(t.Context(), `alter table entry disable trigger all; `+change); err != nil {
				t.Fatal(err)
			}
			_, errRange := r.Range(t.Context(), 0, 10)
			_, errNewest := r.Newest(t.Context(), records(a, b, c))
			switch name {
			case "deleted": // a lookup alone can't tell
				errNewest = errRange
			case "erased quietly": // an auditor sees it in the row
				errRange = errNewest
			}
			if !errors.Is(errRange, store.ErrDamaged) || !errors.Is(errNewest, store.ErrDamaged) {
				t.Errorf("range: %v; newest: %v", errRange, errNewest)
			}
			if found, err := r.Newest(t.Context(), records(c)); err != nil || len(found) != 1 {
				t.Errorf("an entry that was left alone: %v", err)
			}
		})
	}
}

// An erased row still proves its leaf.
func TestErasedRow(t *testing.T) {
	t.Parallel()
	d := storetest.New(t)
	e := registrytest.Entry(t, 1, 1)
	d.Append(e, registrytest.End(t, 1, 1, registry.Erase, registrytest.ROM(t)))
	if _, err := d.Open(d.Owner()).ExecContext(t.Context(), `alter table entry disable trigger all; update entry set sealed = null where seq = 0`); err != nil {
		t.Fatal(err)
	}
	rows, err := d.Reader().Range(t.Context(), 0, 2)
	if err != nil || len(rows) != 2 || !rows[0].Erased || rows[0].LeafHash != e.LeafHash() || rows[1].Erased {
		t.Fatalf("rows %+v, %v", rows, err)
	}
	found, err := d.Reader().Newest(t.Context(), records(e))
	if err != nil || found[e.Record].Entry.Type != registry.Erase {
		t.Errorf("newest: %s, %v", found[e.Record].Entry.Type, err)
	}
	if _, err := d.Reader().At(t.Context(), e.Record, 1); !errors.Is(err, registry.ErrErased) {
		t.Errorf("generation 1: %v", err)
	}
}

// An erased certificates row still proves its leaf, and nothing of it is served.
func TestErasedCertificates(t *testing.T) {
	t.Parallel()
	d := storetest.New(t)
	e := registrytest.Public(t, 1, 1, "urn:x:1")
	d.Append(registrytest.Entry(t, 1, 1), e)
	empty := func() {
		if _, err := d.Open(d.Owner()).ExecContext(t.Context(), `alter table entry disable trigger all;
			update entry set sealed = null where type = 5; alter table entry enable trigger all`); err != nil {
			t.Fatal(err)
		}
	}
	empty()
	r := d.Reader()
	if _, err := r.Certificates(t.Context(), e.Record); !errors.Is(err, store.ErrDamaged) {
		t.Errorf("certificates that were erased quietly: %v", err)
	}
	if _, err := r.Directory(t.Context(), "urn:x:1"); !errors.Is(err, store.ErrDamaged) {
		t.Errorf("the identity of those: %v", err)
	}
	d.Append(registrytest.End(t, 1, 1, registry.Erase, registrytest.ROM(t)))
	if _, err := r.Certificates(t.Context(), e.Record); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("erased certificates: %v", err)
	}
	if _, err := r.Directory(t.Context(), "urn:x:1"); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("the identity of those: %v", err)
	}
	rows, err := r.Range(t.Context(), 1, 1)
	if err != nil || len(rows) != 1 || !rows[0].Erased || rows[0].LeafHash != e.LeafHash() {
		t.Errorf("rows %+v, %v", rows, err)
	}
}

// Which certificates entry is found, by record and by identity, after each history.
func TestPublishedEntry(t *testing.T) {
	t.Parallel()
	const urn = "urn:x:1"
	rom := registrytest.ROM(t)
	device := func(n int, g identity.Generation) registry.Entry { return registrytest.Entry(t, n, g) }
	public := func(n int, g identity.Generation) registry.Entry { return registrytest.Public(t, n, g, urn) }
	end := func(n int, g identity.Generation, kind registry.EntryType) registry.Entry {
		return registrytest.End(t, n, g, kind, rom)
	}
	for _, row := range []struct {
		name     string
		history  []registry.Entry
		chip     int
		byRecord int // place in the history, -1: none
		byURN    int
	}{
		{"published", []registry.Entry{device(1, 1), public(1, 1)}, 1, 1, 1},
		{"the newest generation has none", []registry.Entry{device(1, 1), public(1, 1), device(1, 2)}, 1, -1, -1},
		{"a new generation", []registry.Entry{device(1, 1), public(1, 1), device(1, 2), public(1, 2)}, 1, 3, 3},
		{"the old generation's comes late", []registry.Entry{device(1, 1), device(1, 2), public(1, 2), public(1, 1)}, 1, 2, 2},
		{"scrapped", []registry.Entry{device(1, 1), public(1, 1), end(1, 1, registry.Scrap)}, 1, -1, -1},
		{"erased", []registry.Entry{device(1, 1), public(1, 1), end(1, 1, registry.Erase)}, 1, -1, -1},
		{"erased before it came", []registry.Entry{device(1, 1), end(1, 1, registry.Erase), public(1, 1)}, 1, -1, -1},
		{"an old generation erased", []registry.Entry{device(1, 1), public(1, 1), device(1, 2), public(1, 2), end(1, 1, registry.Erase)}, 1, 3, 3},
		{"board swap", []registry.Entry{device(1, 1), public(1, 1), end(1, 1, registry.Scrap), device(2, 1), public(2, 1)}, 2, 4, 4},
		{"board swap, the scrapped one's comes late", []registry.Entry{device(1, 1), end(1, 1, registry.Scrap), device(2, 1), public(2, 1), public(1, 1)}, 2, 3, 3},
		{"board swap, the scrapped one itself", []registry.Entry{device(1, 1), end(1, 1, registry.Scrap), device(2, 1), public(2, 1), public(1, 1)}, 1, -1, 3},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			d := storetest.New(t)
			d.Append(row.history...)
			r := d.Reader()
			is := func(how string, got registry.Stored, err error, want int) {
				t.Helper()
				if want < 0 && !errors.Is(err, registry.ErrNotFound) || want >= 0 && (err != nil || got.Sequence != int64(want) || !got.Entry.Equal(row.history[want])) {
					t.Errorf("%s: %s entry %d of generation %d, %v; want entry %d", how, got.Entry.Type, got.Sequence, got.Entry.Generation, err, want)
				}
			}
			got, err := r.Certificates(t.Context(), registrytest.Chip(t, row.chip).RecordID())
			is("by record", got, err, row.byRecord)
			got, err = r.Directory(t.Context(), urn)
			is("by identity", got, err, row.byURN)
		})
	}
}

// Rows of the usual size stay whole, and nobody tries to compress them.
func TestStorage(t *testing.T) {
	t.Parallel()
	d := storetest.New(t)
	var entries []registry.Entry
	for n := range 50 {
		entries = append(entries, registrytest.Entry(t, n, 1))
	}
	d.Append(entries...)
	var toast int64
	var storage string
	err := d.Open(d.Owner()).QueryRowContext(t.Context(), `select pg_relation_size(reltoastrelid),
		(select attstorage from pg_attribute where attrelid = c.oid and attname = 'sealed')
		from pg_class c where oid = 'entry'::regclass`).Scan(&toast, &storage)
	if err != nil || toast != 0 || storage != "e" {
		t.Errorf("%d bytes outside the rows, storage %q, %v", toast, storage, err)
	}
}

// A context that ends leaves nothing behind and the writer usable.
func TestCancelledAppend(t *testing.T) {
	t.Parallel()
	d := storetest.New(t)
	w := store.NewWriter(d.Open(d.Roles.Sequencer))
	ctx, cancel := context.WithCancel(t.Context())
	_, err := w.Append(ctx, 0, nil, func([]store.Standing) []store.New {
		cancel()
		return storetest.Rows(registrytest.Entry(t, 1, 1))
	})
	if !errors.Is(err, context.Canceled) && !errors.Is(err, sql.ErrTxDone) {
		t.Fatalf("cancelled: %v", err)
	}
	if head, err := w.Append(t.Context(), 0, nil, add(registrytest.Entry(t, 1, 1))); err != nil || head != 1 {
		t.Errorf("after it: head %d, %v", head, err)
	}
}
