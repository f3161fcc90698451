package issued_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/devicekeys/devicekeys/deviceservice/issued"
	"github.com/devicekeys/devicekeys/deviceservice/issued/issuedtest"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/provisioning/pool/pooltest"
	"github.com/devicekeys/devicekeys/provisioning/records"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestLookup: in the field is who is in the field; on the line is nobody's business.
func TestLookup(t *testing.T) {
	t.Parallel()
	r := issuedtest.New(t)
	ignore := cmp.Options{cmpopts.IgnoreFields(issued.Device{}, "Published"), cmpopts.EquateComparable(identity.IMEI{})}
	for n, c := range []struct {
		state  records.State
		issued bool
	}{
		{records.Reserved, false},
		{records.Packaged, false},
		{records.Confirmed, false},
		{records.Restored, false},
		{records.Published, true},
		{records.Shipped, true},
		{records.Quarantined, true},
		{records.Scrapped, true},
		{records.Burned, true},
		{records.Superseded, true},
	} {
		want := r.Put(n, 1, c.state)
		byIdentity, err := r.Store.Lookup(t.Context(), want.Identity)
		byRecord, err2 := r.Store.ByRecord(t.Context(), want.Record)
		if !c.issued {
			if !errors.Is(err, issued.ErrNotIssued) || !errors.Is(err2, issued.ErrNotIssued) {
				t.Errorf("%s: %v, %v, want %v", c.state, err, err2, issued.ErrNotIssued)
			}
			continue
		}
		must(t, errors.Join(err, err2))
		if diff := cmp.Diff(want, byIdentity, ignore); diff != "" {
			t.Errorf("%s: -want +have\n%s", c.state, diff)
		}
		if diff := cmp.Diff(want, byRecord, ignore); diff != "" {
			t.Errorf("%s by record: -want +have\n%s", c.state, diff)
		}
		if byIdentity.Active != (c.state == records.Published || c.state == records.Shipped) {
			t.Errorf("%s: active is %v", c.state, byIdentity.Active)
		}
	}
	if _, err := r.Store.Lookup(t.Context(), issuedtest.IMEI(t, 99)); !errors.Is(err, issued.ErrNotIssued) {
		t.Errorf("unknown: %v", err)
	}
}

// TestNewest: of several generations the one in the field, and while the next is on the line still that.
func TestNewest(t *testing.T) {
	t.Parallel()
	r := issuedtest.New(t)
	id := r.Put(1, 1, records.Shipped).Identity
	is := func(g identity.Generation, state records.State) {
		t.Helper()
		d, err := r.Store.Lookup(t.Context(), id)
		must(t, err)
		if d.Generation != g || d.State != string(state) {
			t.Errorf("generation %d, %s; want %d, %s", d.Generation, d.State, g, state)
		}
	}
	is(1, records.Shipped)
	r.Put(1, 2, records.Restored)
	is(1, records.Shipped)
	r.Move(1, 1, records.Superseded)
	r.Move(1, 2, records.Published)
	is(2, records.Published)
	r.Move(1, 2, records.Quarantined)
	is(2, records.Quarantined)
	// A board swap: the identity goes to another chip, whose first generation is the one.
	r.Move(1, 2, records.Scrapped)
	other := issuedtest.Chip(t, 2)
	record := other.RecordID()
	r.Exec(`update identity_use set record_id = $1 where value = $2`, record[:], id.Value())
	r.Exec(`update device set record_id = $1, chip_id = $2 where generation = 1`, record[:], other.Bytes())
	r.Exec(`update device set state = 'shipped' where generation = 1`)
	d, err := r.Store.Lookup(t.Context(), id)
	must(t, err)
	if d.Record != record || !d.Active || d.Generation != 1 {
		t.Errorf("after the swap: %+v", d)
	}
}

func TestKey(t *testing.T) {
	t.Parallel()
	r := issuedtest.New(t)
	d := r.Put(1, 1, records.Shipped)
	r.Key(1, 1, "channel", []byte("wrapped"))
	if b, err := r.Store.Key(t.Context(), d.Record, 1, "channel"); err != nil || !bytes.Equal(b, []byte("wrapped")) {
		t.Errorf("Key = %q, %v", b, err)
	}
	for name, ask := range map[string]func() ([]byte, error){
		"another entry":      func() ([]byte, error) { return r.Store.Key(t.Context(), d.Record, 1, "drm") },
		"another generation": func() ([]byte, error) { return r.Store.Key(t.Context(), d.Record, 2, "channel") },
		"another record": func() ([]byte, error) {
			return r.Store.Key(t.Context(), issuedtest.Chip(t, 2).RecordID(), 1, "channel")
		},
	} {
		if b, err := ask(); !errors.Is(err, issued.ErrNoKey) {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
}

// TestRights: the role reads the view and the wrapped keys, and nothing else of the schema.
func TestRights(t *testing.T) {
	t.Parallel()
	r := issuedtest.New(t)
	db := r.As(issued.DefaultRole)
	var rights string // of a view, which pooltest.Policy can't truncate
	must(t, db.QueryRow(`select string_agg(p, ' ') from unnest(array['select', 'insert', 'update', 'delete', 'truncate']) p
		where has_table_privilege('issued', p)`).Scan(&rights))
	if rights != "select" {
		t.Errorf("service may %s issued", rights)
	}
	pooltest.Policy(t, db, "service", "service_key", "select")
	rows, err := r.AsOwner().Query(`select relname from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r'
		and relname not in ('service_key', 'goose_db_version')`)
	must(t, err)
	defer rows.Close()
	seen := 0
	for rows.Next() {
		var table string
		must(t, rows.Scan(&table))
		pooltest.Policy(t, db, "service", table, "")
		seen++
	}
	must(t, rows.Err())
	if seen < 8 {
		t.Errorf("only %d other tables: this test checks nothing", seen)
	}
	for _, query := range []string{`select issued_grant('service')`, `select audit_append('x')`, `select chip_id from issued`} {
		if _, err := db.Exec(query); err == nil {
			t.Errorf("allowed: %s", query)
		}
	}
	pooltest.Policy(t, r.As("spp"), "spp", "service_key", "select insert")
	pooltest.Policy(t, r.As("auditor"), "auditor", "service_key", "select")
	must(t, issued.RequireSchema(t.Context(), db))
	must(t, r.Store.Check(t.Context()))
}

// TestGrant: a role that came after the schema gets its rights then, and a name is no SQL.
func TestGrant(t *testing.T) {
	t.Parallel()
	r := issuedtest.New(t)
	late := r.As("service_late")
	if err := issued.New(late).Check(t.Context()); err == nil {
		t.Error("the role reads before it is granted that")
	}
	for range 2 {
		must(t, issued.Grant(t.Context(), r.AsOwner(), "service_late"))
	}
	must(t, issued.New(late).Check(t.Context()))
	for _, role := range []string{"nobody_of_this_name", `service; drop table device`, `"`, ""} {
		if err := issued.Grant(t.Context(), r.AsOwner(), role); err == nil {
			t.Errorf("granted to %q", role)
		}
	}
	if err := issued.Grant(t.Context(), r.As("spp"), "service_late"); err == nil || !strings.Contains(err.Error(), "owner") {
		t.Errorf("spp grants: %v", err)
	}
}

// TestPlan: an identity is found by an index, through the view's barrier too.
func TestPlan(t *testing.T) {
	t.Parallel()
	r := issuedtest.New(t)
	tx, err := r.AsSuperuser().BeginTx(t.Context(), nil)
	must(t, err)
	defer tx.Rollback()
	_, err = tx.Exec(`set local enable_seqscan = off`)
	must(t, err)
	for query, index := range map[string]string{
		`select * from issued where identity_type = 1 and identity_value = 'x'`: "device_identity",
		`select * from issued where record_id = '\x00'`:                         "device_pkey",
	} {
		rows, err := tx.Query(`explain ` + query)
		must(t, err)
		var plan strings.Builder
		for rows.Next() {
			var line string
			must(t, rows.Scan(&line))
			plan.WriteString(line + "\n")
		}
		must(t, rows.Close())
		if text := plan.String(); !strings.Contains(text, "Index Cond") || !strings.Contains(text, index) {
			t.Errorf("%s:\n%s", query, text)
		}
	}
}

func TestStoreBounds(t *testing.T) {
	t.Parallel()
	r := issuedtest.New(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("gone"))
	if _, err := r.Store.Lookup(ctx, issuedtest.IMEI(t, 1)); err == nil || errors.Is(err, issued.ErrNotIssued) {
		t.Errorf("a lookup nobody waits for gives %v", err)
	}
}
