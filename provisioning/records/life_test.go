package records_test

import (
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/devicekeys/devicekeys/audit"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning/records"
	"github.com/devicekeys/devicekeys/provisioning/records/recordstest"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

const scrapType = 3

// must fails the test at an error.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// refused fails the test where an error is not the one wanted.
func refused(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func stateOf(t testing.TB, s *records.Store, record identity.RecordID, g identity.Generation) records.Device {
	t.Helper()
	d, err := s.Get(t.Context(), record, g)
	must(t, err)
	return d
}

func useOf(t testing.TB, s *records.Store, id identity.Identity) records.Use {
	t.Helper()
	uses, err := s.Uses(t.Context(), []identity.Identity{id})
	must(t, err)
	return uses[id.Value()]
}

// acts gives what was ordered for a record, and checks that the audit log has an
// entry for each.
func acts(t testing.TB, r *recordstest.Records, record identity.RecordID) (names []string) {
	t.Helper()
	orders, err := r.Store.Orders(t.Context(), record)
	must(t, err)
	log := map[int64]audit.Event{}
	_, err = audit.New(r.As("auditor"), identity.Development).Verify(t.Context(), audit.Head{}, nil, func(e audit.Entry) error {
		log[e.Seq] = e.Event
		return nil
	})
	must(t, err)
	for _, o := range orders {
		e := log[o.Entry]
		if e.Kind != audit.Order || e.Key != "" || e.Record != o.Record || e.Generation != o.Generation || e.Actor != "operator "+o.Operator ||
			!strings.HasPrefix(e.Note, string(o.Act)) || !strings.HasSuffix(e.Note, ": "+o.Reason) || o.At.IsZero() {
			t.Errorf("order %+v has audit entry %+v", o, e)
		}
		names = append(names, string(o.Act))
	}
	return names
}

// TestScrap: the record is out of use with all that belongs to it, at once.
func TestScrap(t *testing.T) {
	t.Parallel()
	r := recordstest.New(t)
	s := r.Store
	entry := []byte("scrap entry")
	scrap := func(d records.Device, g identity.Generation, entry []byte) error {
		return s.Scrap(t.Context(), d.Record, g, entry, ann)
	}

	shipped := bring(t, s, device(t, 1, 1), records.Shipped)
	refused(t, "another generation", scrap(shipped, 2, entry), records.ErrConflict)
	if err := scrap(shipped, 1, nil); err == nil || errors.Is(err, records.ErrConflict) {
		t.Errorf("without its entry: %v", err)
	}
	bring(t, s, device(t, 1, 2), records.Packaged) // on the line again: it goes too
	must(t, scrap(shipped, 1, entry))
	must(t, s.Scrap(t.Context(), shipped.Record, 1, []byte("signed again"), records.Order{Operator: "bob", Reason: "again"}))
	for g := identity.Generation(1); g <= 2; g++ {
		if d := stateOf(t, s, shipped.Record, g); d.State != records.Scrapped || d.Reason != ann.Reason {
			t.Errorf("generation %d is %s, %q", g, d.State, d.Reason)
		}
	}
	if u := useOf(t, s, shipped.Identity); u.State != records.UseReleased || u.Record != shipped.Record {
		t.Errorf("its identity: %+v", u)
	}
	if got := acts(t, r, shipped.Record); !cmp.Equal(got, []string{"scrap"}) {
		t.Errorf("orders %q", got)
	}
	var notices []records.Notice
	must(t, s.EachNotice(t.Context(), func(n records.Notice) error { notices = append(notices, n); return nil }))
	want := []records.Notice{{Record: shipped.Record, Generation: 1, Type: scrapType, Entry: entry, Sequence: -1, Order: ann}}
	if ignore := cmpopts.IgnoreFields(records.Notice{}, "At"); !cmp.Equal(want, notices, ignore) {
		t.Error(cmp.Diff(want, notices, ignore))
	}
	for name, d := range map[string]records.Device{"its identity": device(t, 1, 3), "another": withIdentity(device(t, 1, 3), imei(t, 50))} {
		refused(t, "a scrapped chip takes "+name, s.Reserve(t.Context(), d, event(d)), records.ErrOutOfUse)
	}
	stranger := withIdentity(device(t, 51, 1), shipped.Identity)
	refused(t, "another chip takes its identity", s.Reserve(t.Context(), stranger, event(stranger)), records.ErrIdentityUsed)
	refused(t, "burning its identity", s.Burned(t.Context(), shipped.Identity, 7, "x"), records.ErrConflict)

	// Never published: no entry; what waits for the registry is published first.
	packaged := bring(t, s, device(t, 2, 1), records.Packaged)
	if err := scrap(packaged, 1, entry); err == nil {
		t.Error("an entry for a device that the registry never had")
	}
	must(t, scrap(packaged, 1, nil))
	restored := bring(t, s, device(t, 3, 1), records.Restored)
	refused(t, "its entry waits", scrap(restored, 1, nil), records.ErrConflict)
	must(t, s.Quarantine(t.Context(), restored.Record, ann))
	refused(t, "its entry may be on its way", scrap(restored, 1, nil), records.ErrConflict)
	must(t, s.SetAside(t.Context(), restored.Record, 1, 0, "refused"))
	must(t, scrap(restored, 1, nil))
	burned := bring(t, s, device(t, 4, 1), records.Reserved)
	must(t, s.Burned(t.Context(), burned.Identity, 7, "lost"))
	must(t, scrap(burned, 1, nil))
	if u := useOf(t, s, burned.Identity); u.State != records.UseBurned {
		t.Errorf("a burned identity became %s", u.State)
	}
	refused(t, "no record", scrap(device(t, 99, 1), 1, nil), records.ErrNotFound)
}

func withIdentity(d records.Device, id identity.Identity) records.Device {
	d.Identity = id
	return d
}

// TestQuarantine: from every state and back; nothing moves meanwhile but the
// registry's late word.
func TestQuarantine(t *testing.T) {
	t.Parallel()
	r := recordstest.New(t)
	s := r.Store
	for n, state := range []records.State{records.Reserved, records.Packaged, records.Confirmed, records.Restored, records.Published, records.Shipped} {
		d := bring(t, s, device(t, n, 1), state)
		must(t, s.Quarantine(t.Context(), d.Record, ann))
		must(t, s.Quarantine(t.Context(), d.Record, records.Order{Operator: "bob", Reason: "again"}))
		if have := stateOf(t, s, d.Record, 1); have.State != records.Quarantined || have.Held != state || have.Reason != ann.Reason {
			t.Errorf("%s: %s, held %s, %q", state, have.State, have.Held, have.Reason)
		}
		_, confirmed := s.Confirmed(t.Context(), d.Record, 1, packaged(d, 1).Point, []byte("backup"), make([]byte, 32), [32]byte{1})
		restored := s.Restored(t.Context(), d.Record, 1, make([]byte, 32), []byte("entry"), nil)
		for act, err := range map[string]error{
			"package": s.Packaged(t.Context(), packaged(d, 2)), "confirm": confirmed, "restore": restored,
			"ship": s.Shipped(t.Context(), d.Record, 1), "burn": s.Burned(t.Context(), d.Identity, 7, "x"), "return": s.Return(t.Context(), d.Record, ann),
			"abandon": s.Abandon(t.Context(), d.Record, 1, ann), "abandon stale": s.AbandonStale(t.Context(), d.Record, 1, "x"),
			"put back": s.PutBack(t.Context(), d.Record, 1, 0, ann),
		} {
			refused(t, fmt.Sprintf("%s of a quarantined device that was %s", act, state), err, records.ErrConflict)
		}
		for name, next := range map[string]records.Device{"the next generation": device(t, n, 2), "another identity": withIdentity(device(t, n, 2), imei(t, 200+n))} {
			refused(t, name, s.Reserve(t.Context(), next, event(next)), records.ErrOutOfUse)
		}
		stranger := withIdentity(device(t, 100+n, 1), d.Identity)
		refused(t, "its identity for another chip", s.Reserve(t.Context(), stranger, event(stranger)), records.ErrIdentityUsed)
		for range 2 {
			must(t, s.Release(t.Context(), d.Record, ann))
		}
		if have := stateOf(t, s, d.Record, 1); have.State != state || have.Held != "" {
			t.Errorf("released: %s, held %q, want %s", have.State, have.Held, state)
		}
		if got := acts(t, r, d.Record); !cmp.Equal(got, []string{"quarantine", "release"}) {
			t.Errorf("orders %q", got)
		}
	}
	refused(t, "no record", s.Quarantine(t.Context(), chip(t, 99).RecordID(), ann), records.ErrNotFound)
	refused(t, "release of no record", s.Release(t.Context(), chip(t, 99).RecordID(), ann), records.ErrNotFound)
	burned := bring(t, s, device(t, 50, 1), records.Reserved)
	must(t, s.Burned(t.Context(), burned.Identity, 7, "lost"))
	refused(t, "nothing active", s.Quarantine(t.Context(), burned.Record, ann), records.ErrConflict)
	refused(t, "release of nothing active", s.Release(t.Context(), burned.Record, ann), records.ErrConflict)
}

// TestLateAcknowledgement: the registry's word for an entry whose device was
// quarantined meanwhile is kept, and an earlier generation superseded by it.
func TestLateAcknowledgement(t *testing.T) {
	t.Parallel()
	s := recordstest.New(t).Store
	d := bring(t, s, device(t, 1, 1), records.Shipped)
	bring(t, s, device(t, 1, 2), records.Restored)
	must(t, s.Quarantine(t.Context(), d.Record, ann))
	if box, err := s.Outbox(t.Context(), 10); err != nil || len(box) != 0 {
		t.Errorf("the outbox has %d entries of a quarantined device, %v", len(box), err)
	}
	for range 2 {
		must(t, s.Published(t.Context(), d.Record, 2, 77))
	}
	refused(t, "another place", s.Published(t.Context(), d.Record, 2, 78), records.ErrConflict)
	first, second := stateOf(t, s, d.Record, 1), stateOf(t, s, d.Record, 2)
	if first.State != records.Superseded || first.Held != "" || second.State != records.Quarantined || second.Held != records.Published ||
		second.Sequence != 77 || len(second.Secrets) != 0 || second.PublishedAt.IsZero() {
		t.Errorf("generation 1 is %s, generation 2 %s, held %s, at %d", first.State, second.State, second.Held, second.Sequence)
	}
	must(t, s.Release(t.Context(), d.Record, ann))
	must(t, s.Shipped(t.Context(), d.Record, 2))
	// A place that another device has is a conflict, no error of the database's.
	other := bring(t, s, device(t, 2, 1), records.Restored)
	refused(t, "another device's place", s.Published(t.Context(), other.Record, 1, 77), records.ErrConflict)
}

// TestQuarantineOnLine: the SPP's own never takes what is in the field.
func TestQuarantineOnLine(t *testing.T) {
	t.Parallel()
	r := recordstest.New(t)
	s := r.Store
	for n, c := range []struct {
		first, second records.State
		held          bool
	}{
		{records.Reserved, "", true}, {records.Restored, "", true}, {records.Published, "", false}, {records.Shipped, "", false},
		{records.Shipped, records.Packaged, false},
	} {
		d := bring(t, s, device(t, n, 1), c.first)
		if c.second != "" {
			bring(t, s, device(t, n, 2), c.second)
		}
		for range 2 {
			held, err := s.QuarantineOnLine(t.Context(), d.Record, strings.Repeat("two boards\x00 ", 200))
			if err != nil || held != c.held || (stateOf(t, s, d.Record, 1).State == records.Quarantined) != c.held {
				t.Errorf("%s %s: %v, %v", c.first, c.second, held, err)
			}
		}
		if got := acts(t, r, d.Record); got != nil {
			t.Errorf("orders %q for what nobody ordered", got)
		}
	}
	if held, err := s.QuarantineOnLine(t.Context(), chip(t, 99).RecordID(), "x"); held || err != nil {
		t.Errorf("no record: %v, %v", held, err)
	}
}

// TestReturnAndAbandon: a shipped device comes back, with its keys or for new
// ones that it never gets.
func TestReturnAndAbandon(t *testing.T) {
	t.Parallel()
	r := recordstest.New(t)
	s := r.Store
	d := bring(t, s, device(t, 1, 1), records.Shipped)
	for range 2 {
		must(t, s.Return(t.Context(), d.Record, ann))
	}
	if have, err := s.InField(t.Context(), d.Record); err != nil || have.State != records.Published || have.Generation != 1 {
		t.Errorf("InField = %s, generation %d, %v", have.State, have.Generation, err)
	}
	must(t, s.Shipped(t.Context(), d.Record, 1))

	for i, state := range []records.State{records.Reserved, records.Packaged, records.Confirmed, records.Restored} {
		g := identity.Generation(2 + i)
		bring(t, s, device(t, 1, g), state)
		if state == records.Restored {
			refused(t, "abandon what waits for the registry", s.Abandon(t.Context(), d.Record, g, ann), records.ErrConflict)
			must(t, s.SetAside(t.Context(), d.Record, g, 0, "refused"))
			refused(t, "the SPP abandons what was restored", s.AbandonStale(t.Context(), d.Record, g, "stale"), records.ErrConflict)
		}
		for range 2 {
			if i == 0 {
				must(t, s.AbandonStale(t.Context(), d.Record, g, "stale"))
			} else {
				must(t, s.Abandon(t.Context(), d.Record, g, ann))
			}
		}
		if have := stateOf(t, s, d.Record, g); have.State != records.Burned || have.Reason == "" {
			t.Errorf("generation %d is %s", g, have.State)
		}
		if u := useOf(t, s, d.Identity); u.State != records.UseBound || u.Record != d.Record {
			t.Errorf("its identity is %+v", u)
		}
	}
	if got := acts(t, r, d.Record); !cmp.Equal(got, []string{"return", "abandon", "abandon", "abandon"}) {
		t.Errorf("orders %q", got)
	}
	bring(t, s, device(t, 1, 6), records.Shipped)
	refused(t, "abandon what is in the field", s.Abandon(t.Context(), d.Record, 6, ann), records.ErrConflict)
	refused(t, "abandon what is superseded", s.Abandon(t.Context(), d.Record, 1, ann), records.ErrConflict)
	refused(t, "abandon nothing", s.Abandon(t.Context(), d.Record, 9, ann), records.ErrNotFound)

	first := bring(t, s, device(t, 2, 1), records.Packaged)
	refused(t, "abandon a first generation", s.Abandon(t.Context(), first.Record, 1, ann), records.ErrConflict)
	refused(t, "the same by the SPP", s.AbandonStale(t.Context(), first.Record, 1, "x"), records.ErrConflict)
	refused(t, "return what is on the line", s.Return(t.Context(), first.Record, ann), records.ErrConflict)
	refused(t, "return nothing", s.Return(t.Context(), chip(t, 99).RecordID(), ann), records.ErrNotFound)
	_, err := s.InField(t.Context(), first.Record)
	refused(t, "nothing in the field", err, records.ErrNotFound)
}

// TestSwap: the identity of a scrapped board goes to the one chip that the plan
// names, when the registry knows that the old one is scrapped.
func TestSwap(t *testing.T) {
	t.Parallel()
	r := recordstest.New(t)
	s := r.Store
	old, chip2, chip3 := bring(t, s, device(t, 1, 1), records.Shipped), chip(t, 2).RecordID(), chip(t, 3).RecordID()
	swap := func(from, to identity.RecordID) error {
		_, err := s.Plan(t.Context(), from, to, ann)
		return err
	}
	refused(t, "not scrapped", swap(old.Record, chip2), records.ErrConflict)
	refused(t, "no record", swap(chip3, chip2), records.ErrNotFound)
	must(t, s.Scrap(t.Context(), old.Record, 1, []byte("scrap entry"), ann))
	if err := swap(old.Record, old.Record); err == nil {
		t.Error("a chip is planned for itself")
	}
	active := bring(t, s, device(t, 4, 1), records.Reserved)
	refused(t, "a chip on the line", swap(old.Record, active.Record), records.ErrChipActive)
	must(t, s.Quarantine(t.Context(), active.Record, ann))
	refused(t, "a quarantined chip", swap(old.Record, active.Record), records.ErrChipActive)

	p, err := s.Plan(t.Context(), old.Record, chip3, ann)
	must(t, err)
	want := records.Plan{Record: chip3, From: old.Record, Identity: old.Identity, Batch: 7, Order: ann, At: p.At}
	if p != want || p.At.IsZero() {
		t.Errorf("Plan = %+v, want %+v", p, want)
	}
	must(t, s.Unplan(t.Context(), chip3, ann))
	refused(t, "take back nothing", s.Unplan(t.Context(), chip3, ann), records.ErrNotFound)
	for range 2 {
		must(t, swap(old.Record, chip2))
	}
	refused(t, "a second plan for the identity", swap(old.Record, chip3), records.ErrConflict)
	if counts, err := s.Counts(t.Context()); err != nil || counts[records.Planned] != 1 {
		t.Errorf("counts %v, %v", counts, err)
	}

	take := withIdentity(device(t, 2, 1), old.Identity)
	refused(t, "before the registry knows", s.Reserve(t.Context(), take, event(take)), records.ErrConflict)
	must(t, s.Noticed(t.Context(), old.Record, 1, scrapType, 5))
	if p, err = s.Planned(t.Context(), chip2); err != nil || !p.Clear || p.Taken || p.Identity != old.Identity {
		t.Errorf("Planned = %+v, %v", p, err)
	}
	other := withIdentity(device(t, 2, 1), imei(t, 60))
	refused(t, "the planned chip with another identity", s.Reserve(t.Context(), other, event(other)), records.ErrChipActive)
	thief := withIdentity(device(t, 3, 1), old.Identity)
	refused(t, "another chip with the planned identity", s.Reserve(t.Context(), thief, event(thief)), records.ErrIdentityUsed)
	for range 2 {
		must(t, s.Reserve(t.Context(), take, event(take)))
	}
	_, err = s.Planned(t.Context(), chip2)
	refused(t, "the plan once it is taken", err, records.ErrNotFound)
	must(t, swap(old.Record, chip2)) // the same plan, done
	if u := useOf(t, s, old.Identity); u.State != records.UseBound || u.Record != chip2 || u.Batch != 7 {
		t.Errorf("the identity is %+v", u)
	}
	var plans []records.Plan
	must(t, s.EachPlan(t.Context(), func(p records.Plan) error { plans = append(plans, p); return nil }))
	if len(plans) != 1 || !plans[0].Taken {
		t.Errorf("plans %+v", plans)
	}
	if got := acts(t, r, old.Record); !cmp.Equal(got, []string{"scrap", "swap", "unplan", "swap"}) {
		t.Errorf("orders %q", got)
	}

	// The new board fails on the line: its identity is burned with it, although the
	// old record keeps rows with it.
	must(t, s.Burned(t.Context(), old.Identity, 7, "lost on the line"))
	refused(t, "a burned identity once more", swap(old.Record, chip3), records.ErrConflict)
	// Or it ships, is scrapped, and hands the identity on.
	second := bring(t, s, device(t, 5, 1), records.Reserved)
	must(t, s.Scrap(t.Context(), second.Record, 1, nil, ann))
	must(t, swap(second.Record, chip3))
	third := withIdentity(device(t, 3, 1), second.Identity)
	bring(t, s, third, records.Shipped)
	must(t, s.Scrap(t.Context(), chip3, 1, []byte("scrap entry"), ann))
	refused(t, "from the record that had it before", swap(second.Record, chip(t, 6).RecordID()), records.ErrConflict)
	must(t, swap(chip3, chip(t, 6).RecordID()))
}

func TestScrapOfPlannedChip(t *testing.T) {
	t.Parallel()
	s := recordstest.New(t).Store
	old := bring(t, s, device(t, 1, 1), records.Reserved)
	must(t, s.Scrap(t.Context(), old.Record, 1, nil, ann))
	lost := bring(t, s, device(t, 2, 1), records.Reserved)
	must(t, s.Burned(t.Context(), lost.Identity, 7, "lost"))
	_, err := s.Plan(t.Context(), old.Record, lost.Record, ann)
	must(t, err)
	refused(t, "scrap a chip with a plan", s.Scrap(t.Context(), lost.Record, 1, nil, ann), records.ErrConflict)
	must(t, s.Unplan(t.Context(), lost.Record, ann))
	must(t, s.Scrap(t.Context(), lost.Record, 1, nil, ann))
	_, err = s.Plan(t.Context(), old.Record, lost.Record, ann)
	refused(t, "a plan for a scrapped chip", err, records.ErrOutOfUse)
}

func TestRevoke(t *testing.T) {
	t.Parallel()
	r := recordstest.New(t)
	s := r.Store
	_, err := s.Revoked(t.Context(), "line-1")
	refused(t, "not revoked", err, records.ErrNotFound)
	first, err := s.Revoke(t.Context(), "line-1", ann)
	must(t, err)
	second, err := s.Revoke(t.Context(), "line-1", records.Order{Operator: "bob", Reason: "stolen again"})
	must(t, err)
	other, err := s.Revoke(t.Context(), "line-0", ann)
	must(t, err)
	if !second.At.After(first.At) || first.Order != ann {
		t.Errorf("%+v, then %+v", first, second)
	}
	if got, err := s.Revoked(t.Context(), "line-1"); err != nil || got != second {
		t.Errorf("Revoked = %+v, %v, want %+v", got, err, second)
	}
	all, err := s.Revocations(t.Context())
	if want := []records.Revocation{other, first, second}; err != nil || !cmp.Equal(all, want) {
		t.Errorf("Revocations: %v %s", err, cmp.Diff(want, all))
	}
	for _, name := range []string{"", strings.Repeat("x", 129), "a\nb"} {
		if _, err := s.Revoke(t.Context(), name, ann); err == nil {
			t.Errorf("revoked %q", name)
		}
	}
	var subjects []string
	must(t, s.EachOrder(t.Context(), func(o records.Ordered) error { subjects = append(subjects, o.Subject); return nil }))
	if !cmp.Equal(subjects, []string{"line-1", "line-1", "line-0"}) {
		t.Errorf("orders about %q", subjects)
	}
}

// TestNotices: scrap entries wait in the outbox among devices' own.
func TestNotices(t *testing.T) {
	t.Parallel()
	s := recordstest.New(t).Store
	scrapped := bring(t, s, device(t, 1, 1), records.Shipped)
	before := bring(t, s, device(t, 2, 1), records.Restored)
	must(t, s.Scrap(t.Context(), scrapped.Record, 1, []byte("scrap entry"), ann))
	after := bring(t, s, device(t, 3, 1), records.Restored)
	box := func(limit int) []records.Pending {
		t.Helper()
		got, err := s.Outbox(t.Context(), limit)
		must(t, err)
		return got
	}
	want := []records.Pending{
		{Record: before.Record, Generation: 1, Identity: before.Identity, Entry: []byte("entry")},
		{Record: scrapped.Record, Generation: 1, Type: scrapType, Entry: []byte("scrap entry")},
		{Record: after.Record, Generation: 1, Identity: after.Identity, Entry: []byte("entry")},
	}
	options := append(compare, cmpopts.IgnoreFields(records.Pending{}, "Since"))
	for limit := 1; limit <= 4; limit++ {
		if got := box(limit); !cmp.Equal(want[:min(limit, 3)], got, options...) {
			t.Error(cmp.Diff(want[:min(limit, 3)], got, options...))
		}
	}
	for range 2 {
		must(t, s.SetAside(t.Context(), scrapped.Record, 1, scrapType, "refused: \xff"+strings.Repeat("ä", 2000)))
		must(t, s.SetAside(t.Context(), before.Record, 1, 0, "refused"))
	}
	waiting, aside, oldest, err := s.Waiting(t.Context())
	if err != nil || waiting != 1 || aside != 2 || !oldest.Equal(box(1)[0].Since) {
		t.Errorf("waiting %d, set aside %d, oldest %s, %v", waiting, aside, oldest, err)
	}
	all, err := s.Aside(t.Context())
	if err != nil || len(all) != 2 || all[0].Record != before.Record || all[0].Reason != "refused" || all[1].Type != scrapType || len(all[1].Reason) < 1000 || all[1].Since.IsZero() {
		t.Errorf("set aside: %+v, %v", all, err)
	}
	for range 2 {
		must(t, s.PutBack(t.Context(), scrapped.Record, 1, scrapType, ann))
	}
	for range 2 {
		must(t, s.Noticed(t.Context(), scrapped.Record, 1, scrapType, 0))
	}
	must(t, s.PutBack(t.Context(), scrapped.Record, 1, scrapType, ann))
	refused(t, "another place", s.Noticed(t.Context(), scrapped.Record, 1, scrapType, 1), records.ErrConflict)
	refused(t, "set aside what is published", s.SetAside(t.Context(), scrapped.Record, 1, scrapType, "x"), records.ErrConflict)
	refused(t, "no notice", s.Noticed(t.Context(), before.Record, 1, scrapType, 1), records.ErrNotFound)
	refused(t, "set aside no notice", s.SetAside(t.Context(), before.Record, 1, scrapType, "x"), records.ErrNotFound)
	refused(t, "put back no notice", s.PutBack(t.Context(), before.Record, 1, scrapType, ann), records.ErrNotFound)
	refused(t, "put back no device", s.PutBack(t.Context(), chip(t, 9).RecordID(), 1, 0, ann), records.ErrNotFound)
	another := bring(t, s, device(t, 4, 1), records.Shipped)
	must(t, s.Scrap(t.Context(), another.Record, 1, []byte("scrap entry"), ann))
	refused(t, "another notice's place", s.Noticed(t.Context(), another.Record, 1, scrapType, 0), records.ErrConflict)
}

// TestOutboxNamesPoison: a row that doesn't parse is named, and once it is set
// aside the others go on.
func TestOutboxNamesPoison(t *testing.T) {
	t.Parallel()
	r := recordstest.New(t)
	bad := bring(t, r.Store, device(t, 1, 1), records.Restored)
	good := bring(t, r.Store, device(t, 2, 1), records.Restored)
	_, err := r.AsSuperuser().Exec(`set session_replication_role = replica; update device set identity_value = 'x' where record_id = '\x` + bad.Record.String() + `'`)
	must(t, err)
	_, err = r.Store.Outbox(t.Context(), 10)
	var row *records.RowError
	if !errors.As(err, &row) || row.Record != bad.Record || row.Generation != 1 {
		t.Fatalf("Outbox: %v", err)
	}
	if _, err := r.AsSuperuser().Exec(`update device set state = 'packaged' where record_id = '\x` + bad.Record.String() + `'`); err != nil {
		t.Fatal(err)
	}
	stale, err := r.Store.Stale(t.Context(), 0, 10)
	if !errors.As(err, &row) || len(stale) != 0 {
		t.Errorf("Stale = %d, %v", len(stale), err)
	}
	if _, err := r.AsSuperuser().Exec(`update device set state = 'restored' where record_id = '\x` + bad.Record.String() + `'`); err != nil {
		t.Fatal(err)
	}
	if err := r.Store.SetAside(t.Context(), bad.Record, 1, 0, row.Error()); err != nil {
		t.Errorf("SetAside needs no row that parses: %v", err)
	}
	if box, err := r.Store.Outbox(t.Context(), 10); err != nil || len(box) != 1 || box[0].Record != good.Record {
		t.Errorf("then the outbox has %d, %v", len(box), err)
	}
}

// TestBurns: what nobody claimed, and what an operator burns.
func TestBurns(t *testing.T) {
	t.Parallel()
	r := recordstest.New(t)
	s := r.Store
	for range 2 {
		if burned, err := s.BurnUnclaimed(t.Context(), imei(t, 50), 3, "nobody came"); err != nil || !burned {
			t.Errorf("BurnUnclaimed = %v, %v", burned, err)
		}
	}
	if u := useOf(t, s, imei(t, 50)); u.State != records.UseBurned || u.Batch != 3 || u.Reason != "nobody came" {
		t.Errorf("the identity is %+v", u)
	}
	late := withIdentity(device(t, 1, 1), imei(t, 50))
	refused(t, "its device comes late", s.Reserve(t.Context(), late, event(late)), records.ErrIdentityUsed)
	d := bring(t, s, device(t, 2, 1), records.Packaged)
	if burned, err := s.BurnUnclaimed(t.Context(), d.Identity, 7, "x"); err != nil || burned || stateOf(t, s, d.Record, 1).State != records.Packaged {
		t.Errorf("BurnUnclaimed of a device's = %v, %v", burned, err)
	}
	for range 2 {
		must(t, s.BurnedBy(t.Context(), d.Identity, 7, ann))
		must(t, s.BurnedBy(t.Context(), imei(t, 51), 7, ann))
	}
	if have := stateOf(t, s, d.Record, 1); have.State != records.Burned || have.Reason != ann.Reason {
		t.Errorf("its device is %s, %q", have.State, have.Reason)
	}
	var orders []string
	must(t, s.EachOrder(t.Context(), func(o records.Ordered) error {
		orders = append(orders, fmt.Sprint(o.Act, " ", o.Subject, " ", o.Record == d.Record, " ", o.Generation))
		return nil
	}))
	if want := []string{"burn " + d.Identity.String() + " true 1", "burn " + imei(t, 51).String() + " false 0"}; !cmp.Equal(orders, want) {
		t.Error(cmp.Diff(want, orders))
	}
	shipped := bring(t, s, device(t, 3, 1), records.Shipped)
	refused(t, "burn a shipped one", s.BurnedBy(t.Context(), shipped.Identity, 7, ann), records.ErrConflict)
}

func TestStale(t *testing.T) {
	t.Parallel()
	r := recordstest.New(t)
	s := r.Store
	for n, state := range []records.State{records.Reserved, records.Packaged, records.Confirmed, records.Restored, records.Shipped} {
		bring(t, s, device(t, n, 1), state)
	}
	found := func(age time.Duration, limit int) (states []records.State) {
		t.Helper()
		all, err := s.Stale(t.Context(), age, limit)
		must(t, err)
		for _, d := range all {
			states = append(states, d.State)
		}
		return states
	}
	if got := found(time.Hour, 10); got != nil {
		t.Errorf("stale after no time: %v", got)
	}
	if _, err := r.AsSuperuser().Exec(`update device set changed = changed - interval '3 hours'`); err != nil {
		t.Fatal(err)
	}
	want := []records.State{records.Reserved, records.Packaged, records.Confirmed}
	if got := found(2*time.Hour, 10); !cmp.Equal(got, want) {
		t.Errorf("stale: %v", got)
	}
	if got := found(2*time.Hour, 2); !cmp.Equal(got, want[:2]) {
		t.Errorf("the first two: %v", got)
	}
	must(t, s.Packaged(t.Context(), packaged(device(t, 0, 1), 1)))
	if got := found(2*time.Hour, 10); !cmp.Equal(got, want[1:]) {
		t.Errorf("after one went on: %v", got)
	}
	if now, err := s.Now(t.Context()); err != nil || time.Since(now).Abs() > time.Minute {
		t.Errorf("Now = %s, %v", now, err)
	}
}

// TestConfirmedTransfer: a confirmation that was verified against one transfer is
// not kept for another.
func TestConfirmedTransfer(t *testing.T) {
	t.Parallel()
	s := recordstest.New(t).Store
	d := bring(t, s, device(t, 1, 1), records.Packaged)
	must(t, s.Packaged(t.Context(), packaged(d, 2)))
	confirm := func(take int) error {
		_, err := s.Confirmed(t.Context(), d.Record, 1, packaged(d, take).Point, []byte("backup"), make([]byte, 32), [32]byte{1})
		return err
	}
	refused(t, "the replaced transfer", confirm(1), records.ErrConflict)
	must(t, confirm(2))
	must(t, confirm(2))
}

// TestContest: the chip begins nothing, what is on the line stops, what is in the
// field doesn't; an operator ends it.
func TestContest(t *testing.T) {
	t.Parallel()
	r := recordstest.New(t)
	s := r.Store
	_, _, err := s.ImportChips(t.Context(), delivery(t, "lot", 0, 3), point(t))
	must(t, err)
	online, field := bring(t, s, device(t, 0, 1), records.Confirmed), bring(t, s, device(t, 1, 1), records.Shipped)
	facts := map[string]string{"earlier": `lot "a"`, "now": `lot "b"`}
	for range 2 {
		for n := range 3 {
			must(t, s.Contest(t.Context(), chip(t, n).RecordID(), "two lists", facts))
		}
	}
	if a, b := stateOf(t, s, online.Record, 1), stateOf(t, s, field.Record, 1); a.State != records.Quarantined || b.State != records.Shipped {
		t.Errorf("on the line: %s, in the field: %s", a.State, b.State)
	}
	incidents, err := s.Incidents(t.Context(), 10)
	must(t, err)
	if len(incidents) != 3 || incidents[2].Kind != records.IncidentContested || incidents[2].Record != online.Record || !cmp.Equal(incidents[2].Facts, facts) {
		t.Errorf("incidents %+v", incidents)
	}
	fresh, next := device(t, 2, 1), device(t, 1, 2)
	for _, d := range []records.Device{fresh, next} {
		refused(t, "a contested chip begins", s.Reserve(t.Context(), d, event(d)), records.ErrOutOfUse)
	}
	if c, err := s.Chip(t.Context(), fresh.Record); err != nil || c.Contested != "two lists" {
		t.Errorf("Chip = %+v, %v", c, err)
	}
	refused(t, "a chip on no list", s.Contest(t.Context(), chip(t, 9).RecordID(), "x", nil), records.ErrNotFound)
	for n := range 3 {
		must(t, s.Release(t.Context(), chip(t, n).RecordID(), ann))
		if got := acts(t, r, chip(t, n).RecordID()); !cmp.Equal(got, []string{"release"}) {
			t.Errorf("orders %q", got)
		}
	}
	for _, d := range []records.Device{fresh, next} {
		must(t, s.Reserve(t.Context(), d, event(d)))
	}
	if d := stateOf(t, s, online.Record, 1); d.State != records.Confirmed {
		t.Errorf("released: %s", d.State)
	}
}

// TestOrdersAreChecked: no act without a name and a reason that the log takes.
func TestOrdersAreChecked(t *testing.T) {
	t.Parallel()
	r := recordstest.New(t)
	d := bring(t, r.Store, device(t, 1, 1), records.Shipped)
	before := entries(t, r)
	for name, o := range map[string]records.Order{
		"nobody": {Reason: "x"}, "no reason": {Operator: "ann"}, "two lines": {Operator: "ann", Reason: "a\nb"}, "no text": {Operator: "\xff", Reason: "x"},
		"long name": {Operator: strings.Repeat("a", 129), Reason: "x"}, "long reason": {Operator: "ann", Reason: strings.Repeat("a", 1025)},
	} {
		if err := r.Store.Quarantine(t.Context(), d.Record, o); err == nil {
			t.Errorf("%s: quarantined", name)
		}
	}
	if after := entries(t, r); after != before || stateOf(t, r.Store, d.Record, 1).State != records.Shipped {
		t.Errorf("%d audit entries of refused orders", after-before)
	}
	long := records.Order{Operator: strings.Repeat("n", 128), Reason: strings.Repeat("r", 1024)}
	must(t, r.Store.Quarantine(t.Context(), d.Record, long))
	_, err := r.Store.Revoke(t.Context(), strings.Repeat("s", 128), long)
	must(t, err)
	acts(t, r, d.Record)
}

// TestFacts: an incident keeps what fits and says what doesn't, whatever bytes a
// device sent.
func TestFacts(t *testing.T) {
	t.Parallel()
	s := recordstest.New(t).Store
	many := map[string]string{}
	for n := range 100 {
		many[fmt.Sprintf("fact %02d", n)] = strings.Repeat("<ö>", 30)
	}
	for name, facts := range map[string]map[string]string{
		"none": nil, "few": {"a": "b", "c": ""}, "bytes": {"x\x00\xff": "\x00\x01\xfe\u2028"}, "long": {"a": strings.Repeat("ä", 5000)}, "many": many,
	} {
		must(t, s.Incident(t.Context(), records.Incident{Kind: name, Detail: "a\x00b\xff", Facts: facts}))
	}
	all, err := s.Incidents(t.Context(), 10)
	must(t, err)
	for _, i := range all {
		switch i.Kind {
		case "none":
			if i.Facts != nil {
				t.Errorf("none: %v", i.Facts)
			}
		case "few":
			if !cmp.Equal(i.Facts, map[string]string{"a": "b", "c": ""}) {
				t.Errorf("few: %v", i.Facts)
			}
		case "bytes":
			if !cmp.Equal(i.Facts, map[string]string{"x\ufffd\ufffd": "\ufffd\x01\ufffd\u2028"}) {
				t.Errorf("bytes: %q", i.Facts)
			}
		case "long":
			if len(i.Facts["a"]) != 512 {
				t.Errorf("long: %d bytes", len(i.Facts["a"]))
			}
		case "many":
			if left := i.Facts["left out"]; len(i.Facts) < 10 || left != fmt.Sprint(len(many)-len(i.Facts)+1) {
				t.Errorf("many: %d, %q left out", len(i.Facts), left)
			}
		}
	}
}

// TestContestedError: every chip that two lists dispute is named, whether it is
// its key or its chip ID that stands twice, and nothing is imported.
func TestContestedError(t *testing.T) {
	t.Parallel()
	s := recordstest.New(t).Store
	first := delivery(t, "first", 0, 20)
	_, _, err := s.ImportChips(t.Context(), first, point(t))
	must(t, err)
	bad := delivery(t, "second", 100, 10_010) // more than a page
	for n := range 7 {
		bad.Chips = append(bad.Chips, keypackage.DeliveredChip{Record: first.Chips[n].Record, Attestation: point(t)})
	}
	bad.Chips[3].Attestation = first.Chips[10].Attestation
	_, _, err = s.ImportChips(t.Context(), bad, point(t))
	refused(t, "a disputed list", err, records.ErrOtherChip)
	var contested *records.ContestedError
	if !errors.As(err, &contested) || !strings.Contains(err.Error(), "8 chips") || !strings.Contains(err.Error(), "and 3 more") {
		t.Fatalf("ImportChips: %v", err)
	}
	want := map[identity.RecordID]records.Contested{}
	for n := range 7 {
		want[first.Chips[n].Record] = records.Contested{Record: first.Chips[n].Record, Listed: first.Chips[n].Record}
	}
	want[first.Chips[10].Record] = records.Contested{Record: first.Chips[10].Record, Listed: bad.Chips[3].Record}
	for _, c := range contested.Chips {
		if c.Earlier != `lot "first" of maker "maker"` || c.Now != `lot "second" of maker "maker"` {
			t.Errorf("%q against %q", c.Earlier, c.Now)
		}
		if w := want[c.Record]; w.Listed != c.Listed {
			t.Errorf("record %s is disputed with %s", c.Record.Short(), c.Listed.Short())
		}
		delete(want, c.Record)
	}
	if n, err := s.ChipCount(t.Context()); len(want) != 0 || err != nil || n != 20 {
		t.Errorf("%d chips not named, %d chips, %v", len(want), n, err)
	}
}

// planOf gives how Postgres would run a query.
func planOf(t testing.TB, db *sql.DB, query string) string {
	t.Helper()
	tx, err := db.Begin()
	must(t, err)
	defer tx.Rollback()
	if _, err := tx.Exec(`set local enable_seqscan = off`); err != nil {
		t.Fatal(err)
	}
	rows, err := tx.Query(`explain ` + query)
	must(t, err)
	defer rows.Close()
	var b strings.Builder
	for rows.Next() {
		var line string
		must(t, rows.Scan(&line))
		b.WriteString(line + "\n")
	}
	must(t, rows.Err())
	return b.String()
}

// TestIndexes: what is asked all the time is answered by an index, whatever the
// size of the tables.
func TestIndexes(t *testing.T) {
	t.Parallel()
	r := recordstest.New(t)
	for query, index := range map[string]string{
		`select entry from device where state = 'restored' and set_aside is null order by changed limit 9`: "device_outbox",
		`select entry from notice where sequence is null and set_aside is null order by changed limit 9`:   "notice_outbox",
		`select changed from device where state = 'restored' and set_aside is not null`:                    "device_aside",
		`select * from device where coalesce(held, state) in ('reserved', 'packaged', 'confirmed', 'restored')
			and state in ('reserved', 'packaged', 'confirmed') and changed < clock_timestamp() order by changed limit 9`: "device_chip_line",
		`select at from revocation where station = 'x' order by at desc limit 1`:                  "revocation_pkey",
		`select * from operator_order where record_id = '\x00' order by id`:                       "operator_order_record",
		`update identity_use set state = 'released' where record_id = '\x00' and state = 'bound'`: "identity_use_record",
	} {
		if plan := planOf(t, r.AsSuperuser(), query); !strings.Contains(plan, index) {
			t.Errorf("%s is not answered by %s:\n%s", query, index, plan)
		}
	}
}
