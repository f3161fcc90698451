package records_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/devicekeys/devicekeys/audit"
	"github.com/devicekeys/devicekeys/database"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning/pool/pooltest"
	"github.com/devicekeys/devicekeys/provisioning/records"
	"github.com/devicekeys/devicekeys/provisioning/records/recordstest"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func chip(t testing.TB, n int) identity.ChipID {
	t.Helper()
	h := sha256.Sum256(binary.BigEndian.AppendUint64([]byte("chip"), uint64(n)))
	c, err := identity.ParseChipID(h[:16])
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func imei(t testing.TB, serial int) identity.Identity {
	t.Helper()
	id, err := identity.TAC("00440245").IMEI(serial)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// device gives what Reserve is called with for a chip and an identity of the
// same number.
func device(t testing.TB, n int, g identity.Generation) records.Device {
	t.Helper()
	sealed := keypackage.Sealed{Ciphertext: bytes.Repeat([]byte{byte(n)}, 40)}
	return records.Device{
		Record: chip(t, n).RecordID(), ChipID: chip(t, n), Generation: g, Identity: imei(t, n), Batch: 7,
		Realm: identity.Development, Line: "phone", Station: "line-1", Suite: keypackage.SuiteAttested,
		IssuedAt: 1_700_000_000, KDF: 1, Master: 3,
		Secrets: []records.SealedSecret{{Entry: "sim-lock", Sealed: sealed.Encode()}},
	}
}

func event(d records.Device) audit.Event {
	return audit.Event{Kind: audit.Assemble, Key: "dev-purpose-channel-1", Record: d.Record, Generation: d.Generation, Actor: "line-1"}
}

// packaged adds what Packaged is called with; take tells transfers apart.
func packaged(d records.Device, take int) records.Device {
	text := func(what string) []byte {
		return fmt.Appendf(nil, "%s of %s, generation %d", what, d.Record.Short(), d.Generation)
	}
	d.Hello = fmt.Appendf(nil, "hello %d", take)
	d.Point = bytes.Repeat([]byte{byte(take)}, 65)
	d.Manifest, d.Claims, d.Certificate = text("manifest"), text("claims"), text("certificate")
	d.Package = fmt.Appendf(nil, "package %d", take)
	return d
}

// ann is the operator of the tests.
var ann = records.Order{Operator: "ann", Reason: "as the test says"}

// bring takes a device to a state.
func bring(t testing.TB, s *records.Store, d records.Device, to records.State) records.Device {
	t.Helper()
	steps := []struct {
		state records.State
		take  func() error
	}{
		{records.Reserved, func() error { return s.Reserve(t.Context(), d, event(d)) }},
		{records.Packaged, func() error { return s.Packaged(t.Context(), packaged(d, 1)) }},
		{records.Confirmed, func() error {
			_, err := s.Confirmed(t.Context(), d.Record, d.Generation, packaged(d, 1).Point, []byte("backup"), make([]byte, 32), [32]byte{1})
			return err
		}},
		{records.Restored, func() error {
			return s.Restored(t.Context(), d.Record, d.Generation, make([]byte, 32), []byte("entry"), nil)
		}},
		{records.Published, func() error {
			return s.Published(t.Context(), d.Record, d.Generation, int64(binary.BigEndian.Uint32(d.Record[:]))+int64(d.Generation)<<32)
		}},
		{records.Shipped, func() error { return s.Shipped(t.Context(), d.Record, d.Generation) }},
	}
	for _, step := range steps {
		if err := step.take(); err != nil {
			t.Fatalf("to %s: %v", step.state, err)
		}
		if step.state == to {
			break
		}
	}
	have, err := s.Get(t.Context(), d.Record, d.Generation)
	if err != nil || have.State != to {
		t.Fatalf("state %q, %v, want %q", have.State, err, to)
	}
	return have
}

// entries counts the audit log's entries.
func entries(t testing.TB, d *recordstest.Records) int64 {
	t.Helper()
	h, err := audit.New(d.As("auditor"), identity.Development).Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return h.Seq
}

// TestAssembly takes a device through all its steps, each one twice: the second
// time changes nothing and is answered alike.
func TestAssembly(t *testing.T) {
	t.Parallel()
	r := recordstest.New(t)
	s := r.Store
	d := device(t, 1, 1)
	want := d
	twice := func(step func() error) records.Device {
		t.Helper()
		var got [2]records.Device
		for i := range got {
			if err := step(); err != nil {
				t.Fatal(err)
			}
			var err error
			if got[i], err = s.Newest(t.Context(), d.Record); err != nil {
				t.Fatal(err)
			}
		}
		if !cmp.Equal(got[0], got[1], compare...) {
			t.Error("the second time changed", cmp.Diff(got[0], got[1], compare...))
		}
		return got[0]
	}
	check := func(got records.Device) {
		t.Helper()
		times := cmpopts.IgnoreFields(records.Device{}, "Created", "Changed", "PackagedAt", "PublishedAt")
		if !cmp.Equal(want, got, append(compare, times)...) {
			t.Error(cmp.Diff(want, got, append(compare, times)...))
		}
		if got.Created.IsZero() || got.Changed.Before(got.Created) || got.PackagedAt.IsZero() != (got.State == records.Reserved) ||
			got.PublishedAt.IsZero() == got.State.InField() {
			t.Errorf("%s: created %s, changed %s, packaged %s, published %s", got.State, got.Created, got.Changed, got.PackagedAt, got.PublishedAt)
		}
	}

	want.State, want.Licence, want.Uses = records.Reserved, 1, 1
	check(twice(func() error { return s.Reserve(t.Context(), d, event(d)) }))

	p := packaged(d, 1)
	want = p
	want.State, want.Licence, want.Uses = records.Packaged, 1, 1
	check(twice(func() error { return s.Packaged(t.Context(), p) }))

	p = packaged(d, 2) // another hello
	want.Hello, want.Point, want.Package = p.Hello, p.Point, p.Package
	check(twice(func() error { return s.Packaged(t.Context(), p) }))

	take := byte(0)
	want.State, want.Backup, want.Confirm, want.Challenge = records.Confirmed, []byte("backup"), bytes.Repeat([]byte{4}, 32), [32]byte{1}
	check(twice(func() error {
		take++ // another challenge: the first one stays
		got, err := s.Confirmed(t.Context(), d.Record, 1, p.Point, []byte("backup"), want.Confirm, [32]byte{take})
		if got != want.Challenge {
			t.Errorf("challenge %x", got)
		}
		return err
	}))

	entry := "entry"
	want.State, want.Proof, want.Entry = records.Restored, bytes.Repeat([]byte{5}, 32), []byte("entry")
	check(twice(func() error {
		err := s.Restored(t.Context(), d.Record, 1, want.Proof, []byte(entry), nil)
		entry = "sealed again, with another nonce" // the first one stays
		return err
	}))
	box, err := s.Outbox(t.Context(), 10)
	if err != nil || len(box) != 1 {
		t.Fatalf("outbox of %d, %v", len(box), err)
	}
	if got := box[0]; got.Record != d.Record || got.Generation != 1 || got.Type != 0 || got.Identity != d.Identity || string(got.Entry) != "entry" || got.Since.IsZero() {
		t.Errorf("in the outbox: %+v", got)
	}

	want.State, want.Sequence, want.Secrets = records.Published, 0, nil
	check(twice(func() error { return s.Published(t.Context(), d.Record, 1, 0) }))
	if box, err := s.Outbox(t.Context(), 10); err != nil || len(box) != 0 {
		t.Errorf("outbox of %d, %v", len(box), err)
	}

	want.State = records.Shipped
	check(twice(func() error { return s.Shipped(t.Context(), d.Record, 1) }))
	if err := s.Published(t.Context(), d.Record, 1, 0); err != nil {
		t.Errorf("published again once shipped: %v", err)
	}
	if n := entries(t, r); n != 1 {
		t.Errorf("%d audit entries for one device, want 1", n)
	}
}

var compare = cmp.Options{cmp.Comparer(func(a, b identity.ChipID) bool { return a == b }), cmp.Comparer(func(a, b identity.Identity) bool { return a == b })}

// TestConflicts: what differs from the record, or comes out of turn, is refused
// and changes nothing.
func TestConflicts(t *testing.T) {
	t.Parallel()
	s := recordstest.New(t).Store
	other := [32]byte{9}
	step := map[string]func(context.Context, records.Device) error{
		"packaged, other claims": func(ctx context.Context, d records.Device) error {
			d = packaged(d, 2)
			d.Claims = []byte("other claims")
			return s.Packaged(ctx, d)
		},
		"packaged, same hello": func(ctx context.Context, d records.Device) error {
			d = packaged(d, 1)
			d.Package = []byte("other package")
			return s.Packaged(ctx, d)
		},
		"packaged, other hello": func(ctx context.Context, d records.Device) error { return s.Packaged(ctx, packaged(d, 2)) },
		"confirmed, other backup": func(ctx context.Context, d records.Device) error {
			_, err := s.Confirmed(ctx, d.Record, d.Generation, d.Point, []byte("other"), other[:], other)
			return err
		},
		"restored, other proof": func(ctx context.Context, d records.Device) error {
			return s.Restored(ctx, d.Record, d.Generation, other[:], []byte("entry"), nil)
		},
		"published, other place": func(ctx context.Context, d records.Device) error {
			return s.Published(ctx, d.Record, d.Generation, 12345678901)
		},
		"shipped": func(ctx context.Context, d records.Device) error { return s.Shipped(ctx, d.Record, d.Generation) },
		"set aside": func(ctx context.Context, d records.Device) error {
			return s.SetAside(ctx, d.Record, d.Generation, 0, "x")
		},
		"burned":      func(ctx context.Context, d records.Device) error { return s.Burned(ctx, d.Identity, d.Batch, "x") },
		"unknown one": func(ctx context.Context, d records.Device) error { return s.Shipped(ctx, d.Record, 99) },
	}
	for i, c := range []struct {
		state   records.State
		refused string // the others are allowed here
	}{
		{records.Reserved, "confirmed, other backup; restored, other proof; published, other place; shipped; set aside"},
		{records.Packaged, "packaged, other claims; packaged, same hello; restored, other proof; published, other place; shipped; set aside"},
		{records.Confirmed, "packaged, other claims; packaged, same hello; packaged, other hello; confirmed, other backup; published, other place; shipped; set aside"},
		{records.Restored, "packaged, other claims; packaged, same hello; packaged, other hello; confirmed, other backup; restored, other proof; shipped; burned"},
		{records.Published, "packaged, other claims; packaged, same hello; packaged, other hello; confirmed, other backup; restored, other proof; published, other place; set aside; burned"},
		{records.Shipped, "packaged, other claims; packaged, same hello; packaged, other hello; confirmed, other backup; restored, other proof; published, other place; set aside; burned"},
	} {
		d := bring(t, s, device(t, i, 1), c.state)
		for name := range strings.SplitSeq(c.refused, "; ") {
			if err := step[name](t.Context(), d); !errors.Is(err, records.ErrConflict) {
				t.Errorf("%s device, %s: %v", c.state, name, err)
			}
		}
		if err := step["unknown one"](t.Context(), d); !errors.Is(err, records.ErrNotFound) {
			t.Errorf("unknown generation: %v", err)
		}
		if after, err := s.Newest(t.Context(), d.Record); err != nil || !cmp.Equal(after, d, compare...) {
			t.Errorf("%s device changed: %v %s", c.state, err, cmp.Diff(d, after, compare...))
		}
	}
	if _, err := s.Newest(t.Context(), chip(t, 999).RecordID()); !errors.Is(err, records.ErrNotFound) {
		t.Errorf("Newest of an unknown record: %v", err)
	}
}

func TestReserveRefuses(t *testing.T) {
	t.Parallel()
	r := recordstest.New(t)
	s := r.Store
	bring(t, s, device(t, 1, 1), records.Reserved)
	bring(t, s, device(t, 2, 1), records.Shipped)
	if err := s.Burned(t.Context(), imei(t, 3), 7, "lost on the line"); err != nil {
		t.Fatal(err)
	}
	with := func(chip, identity int, g identity.Generation) records.Device {
		d := device(t, chip, g)
		d.Identity = imei(t, identity)
		return d
	}
	drawn := device(t, 1, 1)
	drawn.IssuedAt++
	paired := func(n int, points ...byte) records.Device {
		d := device(t, n, 1)
		for _, p := range points {
			d.Points = append(d.Points, [32]byte{p})
		}
		return d
	}
	must(t, s.Reserve(t.Context(), paired(4, 1, 2), event(paired(4))))
	must(t, s.Reserve(t.Context(), paired(4, 1, 2), event(paired(4)))) // the same call again
	before := entries(t, r)
	for name, c := range map[string]struct {
		d    records.Device
		want error
	}{
		"a public key of another device":           {paired(30, 3, 2), records.ErrPointUsed},
		"one public key twice":                     {paired(30, 4, 4), records.ErrPointUsed},
		"another draw of the same generation":      {drawn, records.ErrExists},
		"identity of another device on the line":   {with(10, 1, 1), records.ErrIdentityUsed},
		"identity of a shipped device":             {with(10, 2, 1), records.ErrIdentityUsed},
		"burned identity":                          {with(10, 3, 1), records.ErrIdentityUsed},
		"chip on the line, next generation":        {with(1, 1, 2), records.ErrChipActive},
		"chip on the line, next, another identity": {with(1, 11, 2), records.ErrChipActive},
		"shipped chip, another identity":           {with(2, 11, 2), records.ErrChipActive},
		"shipped chip, same generation":            {with(2, 11, 1), records.ErrExists},
		"a generation left out":                    {with(2, 2, 3), records.ErrConflict},
		"first generation is not 1":                {with(12, 12, 2), records.ErrConflict},
	} {
		err := s.Reserve(t.Context(), c.d, event(c.d))
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), fmt.Sprintf("%x", c.d.ChipID.Bytes())) {
			t.Errorf("%s: the error has the chip ID", name)
		}
	}
	wrong := event(device(t, 20, 1))
	wrong.Generation = 2
	if err := s.Reserve(t.Context(), device(t, 20, 1), wrong); err == nil {
		t.Error("an audit event of another generation licensed it")
	}
	wrong = event(device(t, 20, 1))
	wrong.Kind = audit.Check
	if err := s.Reserve(t.Context(), device(t, 20, 1), wrong); err == nil {
		t.Error("an audit event of another kind licensed it")
	}
	open := device(t, 20, 1)
	open.Secrets[0].Sealed = []byte("1234 5678 in clear")
	if err := s.Reserve(t.Context(), open, event(open)); err == nil || strings.Contains(err.Error(), "1234") {
		t.Errorf("a secret in clear: %v", err)
	}
	if after := entries(t, r); after != before {
		t.Errorf("refused reservations left %d audit entries", after-before)
	}
	known, err := s.Known(t.Context(), []identity.Identity{imei(t, 1), imei(t, 2), imei(t, 3), imei(t, 10), imei(t, 11), imei(t, 12), imei(t, 20)})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		imei(t, 1).Value(): "used by record " + chip(t, 1).RecordID().Short(),
		imei(t, 2).Value(): "used by record " + chip(t, 2).RecordID().Short(),
		imei(t, 3).Value(): "burned",
	}
	if !cmp.Equal(known, want) {
		t.Error(cmp.Diff(want, known))
	}
}

// TestNextGeneration: a shipped device takes a next generation with the same
// identity; the old one is superseded at the moment the new one is published.
func TestNextGeneration(t *testing.T) {
	t.Parallel()
	s := recordstest.New(t).Store
	d := bring(t, s, device(t, 1, 1), records.Shipped)
	next := bring(t, s, device(t, 1, 2), records.Restored)
	state := func(g identity.Generation) records.State {
		t.Helper()
		have, err := s.Get(t.Context(), d.Record, g)
		if err != nil {
			t.Fatal(err)
		}
		return have.State
	}
	if got := state(1); got != records.Shipped {
		t.Errorf("before publication, generation 1 is %s", got)
	}
	for range 2 {
		if err := s.Published(t.Context(), d.Record, 2, 77); err != nil {
			t.Fatal(err)
		}
	}
	if state(1) != records.Superseded || state(2) != records.Published {
		t.Errorf("after publication: %s, %s", state(1), state(2))
	}
	if err := s.Published(t.Context(), d.Record, 1, d.Sequence); err != nil {
		t.Errorf("the old acknowledgement again: %v", err)
	}
	if newest, err := s.Newest(t.Context(), d.Record); err != nil || newest.Generation != next.Generation {
		t.Errorf("newest is %d, %v", newest.Generation, err)
	}
	if err := s.Burned(t.Context(), d.Identity, 7, "x"); !errors.Is(err, records.ErrConflict) {
		t.Errorf("burning a published identity: %v", err)
	}
	counts, err := s.Counts(t.Context())
	if want := map[records.State]int64{records.Superseded: 1, records.Published: 1}; err != nil || !cmp.Equal(counts, want) {
		t.Errorf("counts %v, %v", counts, err)
	}
}

// TestBurned: an identity is burned with its unfinished device; its chip then
// takes a next generation with another identity.
func TestBurned(t *testing.T) {
	t.Parallel()
	s := recordstest.New(t).Store
	for i, state := range []records.State{records.Reserved, records.Packaged, records.Confirmed} {
		d := bring(t, s, device(t, i, 1), state)
		for range 2 {
			if err := s.Burned(t.Context(), d.Identity, d.Batch, "device lost"); err != nil {
				t.Fatal(err)
			}
		}
		if have, err := s.Newest(t.Context(), d.Record); err != nil || have.State != records.Burned {
			t.Errorf("from %s: %s, %v", state, have.State, err)
		}
		again := device(t, i, 2)
		if err := s.Reserve(t.Context(), again, event(again)); !errors.Is(err, records.ErrIdentityUsed) {
			t.Errorf("a burned identity again: %v", err)
		}
		again.Identity = imei(t, 100+i)
		bring(t, s, again, records.Shipped)
	}
	if err := s.Burned(t.Context(), imei(t, 50), 1, ""); err == nil {
		t.Error("burned without a reason")
	}
}

func TestOutbox(t *testing.T) {
	t.Parallel()
	s := recordstest.New(t).Store
	for n := range 5 {
		bring(t, s, device(t, n, 1), records.Restored)
	}
	order := func() (got []int) {
		t.Helper()
		box, err := s.Outbox(t.Context(), 3)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range box {
			for n := range 5 {
				if d.Record == chip(t, n).RecordID() {
					got = append(got, n)
				}
			}
		}
		return got
	}
	if got := order(); !cmp.Equal(got, []int{0, 1, 2}) {
		t.Errorf("outbox %v", got)
	}
	first := device(t, 0, 1)
	for range 2 {
		if err := s.SetAside(t.Context(), first.Record, 1, 0, "refused: "+strings.Repeat("ä", 2000)); err != nil {
			t.Fatal(err)
		}
	}
	if got := order(); !cmp.Equal(got, []int{1, 2, 3}) {
		t.Errorf("outbox %v after one was set aside", got)
	}
	if have, err := s.Newest(t.Context(), first.Record); err != nil || !strings.HasPrefix(have.SetAside, "refused: ä") || have.State != records.Restored {
		t.Errorf("set aside: %s %.20q %v", have.State, have.SetAside, err)
	}
	waiting, aside, oldest, err := s.Waiting(t.Context())
	if err != nil || waiting != 4 || aside != 1 || time.Since(oldest) > time.Minute {
		t.Errorf("waiting %d, set aside %d, oldest %s, %v", waiting, aside, oldest, err)
	}
	if err := s.PutBack(t.Context(), first.Record, 1, 0, ann); err != nil {
		t.Fatal(err)
	}
	if got := order(); !cmp.Equal(got, []int{0, 1, 2}) {
		t.Errorf("outbox %v after it was put back", got)
	}
	if err := s.SetAside(t.Context(), first.Record, 1, 0, "refused"); err != nil {
		t.Fatal(err)
	}
	if err := s.Burned(t.Context(), first.Identity, 7, "can't be published"); err != nil {
		t.Errorf("burning what was set aside: %v", err)
	}
}

// TestConcurrentReserve: many calls for the same few chips and identities; each
// chip gets one identity and each identity one chip, with one audit entry each.
func TestConcurrentReserve(t *testing.T) {
	t.Parallel()
	r := recordstest.New(t)
	const chips, identities = 12, 12
	var mu sync.Mutex
	made := map[string]bool{}
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			for i := range chips * 4 {
				d := device(t, (i*7+worker*5)%chips, 1)
				d.Identity = imei(t, (i*5+worker*3)%identities)
				err := r.Store.Reserve(t.Context(), d, event(d))
				switch {
				case err == nil:
					mu.Lock()
					made[d.Record.Short()+" "+d.Identity.Value()] = true
					mu.Unlock()
				case !errors.Is(err, records.ErrExists) && !errors.Is(err, records.ErrChipActive) && !errors.Is(err, records.ErrIdentityUsed):
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	seen := map[string]bool{}
	n := 0
	err := r.Store.Each(t.Context(), func(d records.Device) error {
		n++
		if seen[d.Identity.Value()] || !made[d.Record.Short()+" "+d.Identity.Value()] {
			t.Errorf("record %s has %s: given twice, or nobody was told", d.Record.Short(), d.Identity)
		}
		seen[d.Identity.Value()] = true
		return nil
	})
	if err != nil || n != len(made) || n == 0 {
		t.Errorf("%d devices, %d answers, %v", n, len(made), err)
	}
	if got := entries(t, r); got != int64(n) {
		t.Errorf("%d audit entries for %d devices", got, n)
	}
}

// TestConnectionKilled: connections are cut while devices go through their
// steps; each step is repeated until it is answered. Then all are shipped, with
// one audit entry each, and the log is whole.
func TestConnectionKilled(t *testing.T) {
	t.Parallel()
	r := recordstest.New(t)
	super := r.AsSuperuser()
	stop := make(chan struct{})
	var killer, wg sync.WaitGroup
	var steps atomic.Int64 // that were taken: between two kills there is one at least, however slow the machine is
	killed := 0
	killer.Go(func() {
		for seen := int64(0); ; {
			select {
			case <-stop:
				return
			case <-time.After(60 * time.Millisecond):
			}
			if steps.Load() == seen {
				continue
			}
			seen = steps.Load()
			var n int
			err := super.QueryRow(`select count(pg_terminate_backend(pid)) from pg_stat_activity where usename = 'spp' and datname = $1`, r.Name).Scan(&n)
			if err != nil {
				t.Errorf("kill: %v", err)
				return
			}
			killed += n
		}
	})
	const devices = 40
	work := make(chan int)
	again := func(t testing.TB, act func() error) {
		again(t, act)
		steps.Add(1)
	}
	for range 4 {
		wg.Go(func() {
			for n := range work {
				d := device(t, n, 1)
				again(t, func() error { return r.Store.Reserve(t.Context(), d, event(d)) })
				again(t, func() error { return r.Store.Packaged(t.Context(), packaged(d, 1)) })
				again(t, func() error {
					_, err := r.Store.Confirmed(t.Context(), d.Record, 1, packaged(d, 1).Point, []byte("b"), make([]byte, 32), [32]byte{})
					return err
				})
				again(t, func() error {
					return r.Store.Restored(t.Context(), d.Record, 1, make([]byte, 32), []byte("e"), nil)
				})
				again(t, func() error { return r.Store.Published(t.Context(), d.Record, 1, int64(n)) })
				again(t, func() error { return r.Store.Shipped(t.Context(), d.Record, 1) })
			}
		})
	}
	for n := range devices {
		work <- n
	}
	close(work)
	wg.Wait()
	close(stop)
	killer.Wait()
	if killed == 0 {
		t.Error("no connection was killed: the test proves nothing")
	}
	var counts map[records.State]int64
	again(t, func() (err error) { counts, err = r.Store.Counts(t.Context()); return err }) // the last one killed may be the next one used
	if counts[records.Shipped] != devices {
		t.Errorf("counts %v after %d killed connections", counts, killed)
	}
	head, err := audit.New(r.As("auditor"), identity.Development).Verify(t.Context(), audit.Head{}, nil, nil)
	if err != nil || head.Seq != devices {
		t.Errorf("the log has %d entries, %v, want %d", head.Seq, err, devices)
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

func TestLicense(t *testing.T) {
	t.Parallel()
	r := recordstest.New(t)
	d := bring(t, r.Store, device(t, 1, 1), records.Reserved)
	e := audit.Event{Kind: audit.DeviceKey, Key: "dev-purpose-channel-1", Record: d.Record, Generation: 1, Actor: "spp"}
	if err := r.Store.License(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	if have, err := r.Store.Newest(t.Context(), d.Record); err != nil || have.Uses != 2 || have.State != records.Reserved {
		t.Errorf("uses %d, %v", have.Uses, err)
	}
	e.Record = chip(t, 9).RecordID()
	if err := r.Store.License(t.Context(), e); !errors.Is(err, records.ErrNotFound) {
		t.Errorf("a licence for an unknown device: %v", err)
	}
	if err := r.Store.License(t.Context(), audit.Event{Kind: audit.Certify, Key: "dev-station-ca", Actor: "custodian"}); err != nil {
		t.Fatal(err)
	}
	if n := entries(t, r); n != 3 {
		t.Errorf("%d entries, want 3", n)
	}
}

func TestUnlock(t *testing.T) {
	t.Parallel()
	s := recordstest.New(t).Store
	record := chip(t, 1).RecordID()
	if _, err := s.Unlocked(t.Context(), record); !errors.Is(err, records.ErrNotFound) {
		t.Errorf("no statement: %v", err)
	}
	for _, statement := range []string{"first", "signed again"} {
		if err := s.Unlock(t.Context(), record, 2, []byte(statement), "repair", "ann"); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Unlock(t.Context(), record, 2, []byte("x"), "repair", "bob"); !errors.Is(err, records.ErrConflict) {
		t.Errorf("another operator: %v", err)
	}
	u, err := s.Unlocked(t.Context(), record)
	if err != nil || u.Next != 2 || string(u.Statement) != "first" || u.Reason != "repair" || u.Operator != "ann" || u.Record != record || u.At.IsZero() {
		t.Errorf("Unlocked = %+v, %v", u, err)
	}
	if err := s.Unlock(t.Context(), record, 3, []byte("third"), "repair", "ann"); err != nil {
		t.Fatal(err)
	}
	var all []identity.Generation
	if err := s.EachUnlock(t.Context(), func(u records.Unlock) error { all = append(all, u.Next); return nil }); err != nil || !cmp.Equal(all, []identity.Generation{2, 3}) {
		t.Errorf("EachUnlock: %v, %v", all, err)
	}
}

func TestIncident(t *testing.T) {
	t.Parallel()
	s := recordstest.New(t).Store
	want := []records.Incident{
		{Kind: "no-device", Detail: strings.Repeat("ö", 2048)},
		{Kind: "wrong-attestation", Record: chip(t, 1).RecordID(), Generation: 1, Line: "phone", Station: "line-1", Detail: "facts"},
	}
	for i := range want {
		i := want[len(want)-1-i]
		if i.Record == (identity.RecordID{}) {
			i.Detail += "more than is kept"
		}
		if err := s.Incident(t.Context(), i); err != nil {
			t.Fatal(err)
		}
	}
	got, err := s.Incidents(t.Context(), 10)
	if err != nil {
		t.Fatal(err)
	}
	if ignore := cmpopts.IgnoreFields(records.Incident{}, "ID", "At"); !cmp.Equal(want, got, ignore) {
		t.Error(cmp.Diff(want, got, ignore))
	}
}

// TestPrivileges is the policy: who may do what to which table, and who may
// append to the audit log.
func TestPrivileges(t *testing.T) {
	t.Parallel()
	r := recordstest.New(t)
	bring(t, r.Store, device(t, 1, 1), records.Shipped)
	const change, add, read, none = "select insert update", "select insert", "select", ""
	for _, c := range []struct{ role, table, allowed string }{
		{"spp", "device", change}, {"spp", "identity_use", change},
		{"spp", "chip", add}, {"spp", "unlock", add}, {"spp", "incident", add},
		{"spp", "operator_order", add}, {"spp", "plan", add}, {"spp", "notice", add}, {"spp", "revocation", add},
		{"spp", "audit_entry", none}, {"spp", "audit_signed_head", none}, {"spp", "audit_head_row", read},
		{"auditor", "device", read}, {"auditor", "identity_use", read}, {"auditor", "chip", read}, {"auditor", "unlock", read},
		{"auditor", "incident", read}, {"auditor", "audit_entry", read}, {"auditor", "audit_signed_head", read}, {"auditor", "audit_head_row", read},
		{"auditor", "operator_order", read}, {"auditor", "plan", read}, {"auditor", "notice", read}, {"auditor", "revocation", read},
		{"custodian", "operator_order", none}, {"custodian", "plan", none}, {"custodian", "notice", none}, {"custodian", "revocation", none},
		{"stranger", "operator_order", none}, {"stranger", "plan", none}, {"stranger", "notice", none}, {"stranger", "revocation", none},
		{"custodian", "device", none}, {"custodian", "identity_use", none}, {"custodian", "chip", none}, {"custodian", "unlock", none},
		{"custodian", "incident", none}, {"custodian", "audit_entry", none}, {"custodian", "audit_signed_head", none}, {"custodian", "audit_head_row", read},
		{"stranger", "device", none}, {"stranger", "chip", none}, {"stranger", "audit_entry", none}, {"stranger", "audit_head_row", none},
	} {
		pooltest.Policy(t, r.As(c.role), c.role, c.table, c.allowed)
	}
	// What the SPP may change of rows that it may otherwise only add.
	for table, columns := range map[string]string{
		"chip": "contested", "plan": "taken dropped", "notice": "sequence set_aside changed", "operator_order": "", "revocation": "", "unlock": "", "incident": "",
	} {
		var may string
		err := r.As("spp").QueryRow(`select coalesce(string_agg(attname, ' ' order by attnum), '') from pg_attribute
			where attrelid = $1::regclass and attnum > 0 and has_column_privilege(attrelid, attnum, 'update')`, table).Scan(&may)
		if err != nil || may != columns {
			t.Errorf("of table %s the SPP may change %q, %v, want %q", table, may, err, columns)
		}
	}
	for role, may := range map[string]bool{"spp": true, "auditor": true, "custodian": true, "stranger": false} {
		log := audit.New(r.As(role), identity.Development)
		err := log.Append(t.Context(), audit.Event{Kind: audit.Check, Key: "dev-master-1", Actor: role})
		if (err == nil) != may {
			t.Errorf("%s appends to the audit log: %v", role, err)
		}
	}
}
