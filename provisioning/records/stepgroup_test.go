package records_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/devicekeys/devicekeys/audit"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/provisioning/records"
	"github.com/devicekeys/devicekeys/provisioning/records/recordstest"
)

// TestTogether: many devices take each step at once, through one store. Each row holds what its
// own call brought, as if each had gone alone, and the steps shared transactions.
func TestTogether(t *testing.T) {
	t.Parallel()
	r := recordstest.New(t)
	const n = 48
	devices := make([]records.Device, n)
	for i := range devices {
		devices[i] = packaged(device(t, i, 1), 1)
		d := &devices[i]
		d.Batch, d.Station, d.Suite, d.KDF, d.Master = int64(100+i), fmt.Sprint("line-", i%3), 1+d.Suite%2, 1+uint8(i%2), uint32(i)
		d.IssuedAt += uint32(i)
		d.Hello, d.Point = fmt.Appendf(nil, "hello of %d", i), bytes.Repeat([]byte{byte(i)}, 65)
		d.Package = fmt.Appendf(nil, "package of %d", i)
		if i%4 == 0 {
			d.X509 = [][]byte{fmt.Appendf(nil, "certificate of %d", i)}
		}
		d.Backup, d.Confirm = fmt.Appendf(nil, "backup of %d", i), bytes.Repeat([]byte{byte(i), 1}, 16)
		d.Proof, d.Entry = bytes.Repeat([]byte{byte(i), 2}, 16), fmt.Appendf(nil, "entry of %d", i)
		copy(d.Challenge[:], fmt.Sprint("challenge of ", i))
		d.Sequence, d.State, d.Uses = int64(i), records.Shipped, 1
	}
	// all takes a step of all devices, and counts the transactions that wrote their rows.
	shared := 0
	all := func(step string, do func(context.Context, records.Device) error) {
		t.Helper()
		var wg sync.WaitGroup
		start := make(chan struct{})
		for _, d := range devices {
			wg.Go(func() {
				<-start
				if err := do(t.Context(), d); err != nil {
					t.Errorf("%s, device %s: %v", step, d.Record.Short(), err)
				}
			})
		}
		close(start)
		wg.Wait()
		var transactions int
		if err := r.AsOwner().QueryRow(`select count(distinct xmin::text) from device`).Scan(&transactions); err != nil {
			t.Fatal(err)
		}
		shared += n - transactions
	}
	all("reserve", func(ctx context.Context, d records.Device) error {
		e := event(d)
		e.Note = "of " + d.Record.Short()
		d.X509 = nil
		return r.Store.Reserve(ctx, d, e)
	})
	all("packaged", r.Store.Packaged)
	all("confirmed", func(ctx context.Context, d records.Device) error {
		challenge, err := r.Store.Confirmed(ctx, d.Record, 1, d.Point, d.Backup, d.Confirm, d.Challenge)
		if challenge != d.Challenge {
			return errors.Join(err, errors.New("another device's challenge"))
		}
		return err
	})
	all("restored", func(ctx context.Context, d records.Device) error {
		return r.Store.Restored(ctx, d.Record, 1, d.Proof, d.Entry, nil)
	})
	all("published", func(ctx context.Context, d records.Device) error {
		return r.Store.Published(ctx, d.Record, 1, d.Sequence)
	})
	all("shipped", func(ctx context.Context, d records.Device) error { return r.Store.Shipped(ctx, d.Record, 1) })
	if shared == 0 {
		t.Error("no two steps shared a transaction: the test proves nothing")
	}
	licences := map[int64]bool{}
	for _, want := range devices {
		have, err := r.Store.Get(t.Context(), want.Record, 1)
		if err != nil {
			t.Fatal(err)
		}
		licences[have.Licence] = true
		want.Secrets, want.Licence = nil, have.Licence // emptied
		want.Created, want.Changed, want.PackagedAt, want.PublishedAt = have.Created, have.Changed, have.PackagedAt, have.PublishedAt
		if diff := cmp.Diff(want, have, cmp.Comparer(func(a, b identity.Identity) bool { return a == b }), cmp.Comparer(func(a, b identity.ChipID) bool { return a.RecordID() == b.RecordID() })); diff != "" {
			t.Errorf("device %s (-want +have):\n%s", want.Record.Short(), diff)
		}
		if have.PackagedAt.IsZero() || have.PublishedAt.Before(have.PackagedAt) {
			t.Errorf("device %s: packaged %s, published %s", want.Record.Short(), have.PackagedAt, have.PublishedAt)
		}
	}
	if len(licences) != n {
		t.Errorf("%d licences for %d devices", len(licences), n)
	}
	// Each row names the entry that was appended for it.
	log := audit.New(r.As("auditor"), identity.Development)
	head, err := log.Verify(t.Context(), audit.Head{}, nil, func(e audit.Entry) error {
		d, err := r.Store.Newest(t.Context(), e.Record)
		if err == nil && (d.Licence != e.Seq || e.Note != "of "+d.Record.Short()) {
			err = fmt.Errorf("entry %d is record %s's, whose licence is %d", e.Seq, d.Record.Short(), d.Licence)
		}
		return err
	})
	if err != nil || head.Seq != n {
		t.Errorf("the log has %d entries, want %d: %v", head.Seq, n, err)
	}
}

// TestTogetherWithOthers: among many that take a step at once are some that must be refused, and one whose row
// somebody else has locked. They alone fail, or wait; the others are served.
func TestTogetherWithOthers(t *testing.T) {
	t.Parallel()
	r := recordstest.New(t)
	const n = 32
	var devices []records.Device
	for i := range n {
		d := device(t, i, 1)
		bring(t, r.Store, d, records.Published)
		devices = append(devices, d)
	}
	if _, err := r.AsOwner().Exec(`update device set state = 'scrapped' where record_id = $1`, devices[5].Record[:]); err != nil {
		t.Fatal(err)
	}
	tx, err := r.AsOwner().Begin()
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	if _, err := tx.Exec(`select from device where record_id = $1 for update`, devices[9].Record[:]); err != nil {
		t.Fatal(err)
	}
	var others, held sync.WaitGroup
	for i, d := range devices {
		wg := &others
		if i == 9 {
			wg = &held
		}
		wg.Go(func() {
			err := r.Store.Shipped(t.Context(), d.Record, 1)
			switch refused := errors.Is(err, records.ErrConflict); {
			case i == 5 && !refused:
				t.Errorf("a scrapped device was shipped: %v", err)
			case i != 5 && err != nil:
				t.Errorf("device %d: %v", i, err)
			}
		})
	}
	others.Wait() // though device 9 still waits
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	held.Wait()
	for i, d := range devices {
		have, err := r.Store.Get(t.Context(), d.Record, 1)
		if err != nil || i != 5 && have.State != records.Shipped {
			t.Errorf("device %d is %s, %v", i, have.State, err)
		}
	}
}

// TestReserveTogether: chips that already have a row, that are contested, and identities that were used are
// refused among others that are not.
func TestReserveTogether(t *testing.T) {
	t.Parallel()
	r := recordstest.New(t)
	const n = 32
	bring(t, r.Store, device(t, 100, 1), records.Shipped)
	bring(t, r.Store, device(t, 101, 1), records.Reserved)
	if err := r.Store.Burned(t.Context(), device(t, 101, 1).Identity, 7, "for the test"); err != nil {
		t.Fatal(err)
	}
	devices := make([]records.Device, n)
	want := map[int]error{}
	for i := range devices {
		d := device(t, i, 1)
		switch i {
		case 3: // an identity that another device has
			d.Identity = device(t, 100, 1).Identity
			want[i] = records.ErrIdentityUsed
		case 7: // one that was burned
			d.Identity = device(t, 101, 1).Identity
			want[i] = records.ErrIdentityUsed
		case 11: // a chip that has an identity
			d = device(t, 100, 1)
			d.Identity = device(t, i, 1).Identity
			want[i] = records.ErrExists
		case 15: // its next generation is the second
			d = device(t, 101, 1)
			d.Generation, d.Identity = 2, device(t, i, 1).Identity
		case 19: // a generation that is not next
			d.Generation = 2
			want[i] = records.ErrConflict
		}
		devices[i] = d
	}
	var wg sync.WaitGroup
	for i, d := range devices {
		wg.Go(func() {
			if err := r.Store.Reserve(t.Context(), d, event(d)); !errors.Is(err, want[i]) {
				t.Errorf("device %d: %v, want %v", i, err, want[i])
			}
		})
	}
	wg.Wait()
	var rows, entries int
	if err := r.AsOwner().QueryRow(`select (select count(*) from device), (select count(*) from audit_entry)`).Scan(&rows, &entries); err != nil {
		t.Fatal(err)
	}
	if wantRows := 2 + n - len(want); rows != wantRows || entries != wantRows {
		t.Errorf("%d rows and %d entries, want %d", rows, entries, wantRows)
	}
}

// TestRevokedTogether: what was revoked before the question is asked is in its answer, whoever asks beside.
func TestRevokedTogether(t *testing.T) {
	t.Parallel()
	r := recordstest.New(t)
	var wg sync.WaitGroup
	for i := range 24 {
		wg.Go(func() {
			station := fmt.Sprint("line-", i)
			for round := range 3 {
				if _, err := r.Store.Revoked(t.Context(), fmt.Sprint("never-", i)); !errors.Is(err, records.ErrNotFound) {
					t.Errorf("a station that nobody revoked: %v", err)
				}
				made, err := r.Store.Revoke(t.Context(), station, ann)
				if err != nil {
					t.Error(err)
					return
				}
				have, err := r.Store.Revoked(t.Context(), station)
				if err != nil || have.Station != station || !have.At.Equal(made.At) {
					t.Errorf("%s, round %d: %+v, %v, want that of %s", station, round, have, err, made.At)
				}
			}
		})
	}
	wg.Wait()
}
