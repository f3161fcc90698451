package provisioning_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/devicekeys/devicekeys/audit"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning"
	"github.com/devicekeys/devicekeys/provisioning/records"
	provisioningrpc "github.com/devicekeys/devicekeys/provisioning/rpc"
	"github.com/devicekeys/devicekeys/registry"
)

var order = records.Order{Operator: "alice", Reason: "board cracked"}

// scrap takes a record out of use, as spp device scrap does. last is its newest
// generation that was published, 0 if none was.
func (l *line) scrap(t testing.TB, record identity.RecordID, last identity.Generation) {
	t.Helper()
	if last == 0 {
		d, err := l.records.Store.Newest(t.Context(), record)
		must(t, err)
		must(t, l.records.Store.Scrap(t.Context(), record, d.Generation, nil, order))
		return
	}
	must(t, l.records.Store.License(t.Context(), audit.Event{Kind: audit.Registry, Key: "dev-identity-signing", Record: record, Generation: last, Actor: "operator alice", Note: order.Reason}))
	e := registry.Entry{Realm: dev, Type: registry.Scrap, Record: record, Generation: last}
	var err error
	e.Statement, err = l.keys.SignRegistryStatement(t.Context(), e.Leaf())
	must(t, err)
	entry, err := e.Encode()
	must(t, err)
	must(t, l.records.Store.Scrap(t.Context(), record, last, entry, order))
}

// unlock allows a device its next generation, as spp statement unlock does.
func (l *line) unlock(t testing.TB, record identity.RecordID, next identity.Generation) {
	t.Helper()
	must(t, l.records.Store.License(t.Context(), audit.Event{Kind: audit.Unlock, Key: "dev-identity-signing", Record: record, Generation: next, Actor: "operator alice"}))
	signed, err := l.keys.SignUnlock(t.Context(), identity.Unlock{Realm: dev, Record: record, Next: next})
	must(t, err)
	must(t, l.records.Store.Unlock(t.Context(), record, next, signed, "board repaired", "alice"))
}

func (f *fixture) status(t testing.TB) *provisioningrpc.StatusResponse {
	t.Helper()
	record := f.device.chip.ID().RecordID()
	res, err := f.station.Status(t.Context(), connect.NewRequest(&provisioningrpc.StatusRequest{RecordId: record[:]}))
	must(t, err)
	return res.Msg
}

// finish takes the steps from the n-th on, waiting where the SPP says so.
func (f *fixture) finish(ctx context.Context, n int) error {
	for _, step := range f.steps()[n:] {
		if _, err := retried(ctx, step); err != nil {
			return err
		}
	}
	return nil
}

// TestBoardSwap: a scrapped board's identity goes to a new chip, with another
// key, once the registry knows that the old one is scrapped.
func TestBoardSwap(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	ids := l.stock(t, 0, 2)
	ctx := t.Context()
	old := on(l.station(t), l.device(t, true))
	must(t, old.run(ctx, 0))
	before, err := l.records.Store.Newest(ctx, old.record())
	must(t, err)

	l.front.set(away)
	l.scrap(t, old.record(), 1)
	f := on(l.station(t), l.device(t, true))
	record := f.device.chip.ID().RecordID()
	_, err = l.records.Store.Plan(ctx, old.record(), record, order)
	must(t, err)
	if s := f.status(t); s.State != "planned" || s.Generation != 0 {
		t.Errorf("the new chip is %v", s)
	}
	refused(t, f.begin(ctx), connect.CodeUnavailable, provisioning.CodePublication)
	refused(t, old.begin(ctx), connect.CodeFailedPrecondition, provisioning.CodeOutOfUse)
	refused(t, old.ship(ctx), connect.CodeFailedPrecondition, provisioning.CodeOutOfUse)
	l.front.set(nil)
	must(t, f.finish(ctx, 0))

	d, err := l.records.Store.Newest(ctx, record)
	must(t, err)
	if d.Identity != ids[0] || d.Generation != 1 || d.State != records.Shipped || d.Batch != before.Batch || bytes.Equal(d.Manifest, before.Manifest) {
		t.Errorf("the new board: %s, generation %d, %s, batch %d", d.Identity, d.Generation, d.State, d.Batch)
	}
	// The pool was not asked for it.
	eventually(t, "the pool settled", func() bool { e := l.effects(t); return e.Free == 1 && e.Used == 1 && e.Reserved == 0 })
	if _, err := l.records.Store.Planned(ctx, record); !errors.Is(err, records.ErrNotFound) {
		t.Errorf("the plan still waits: %v", err)
	}
}

// TestScrapped: a chip scrapped before it was ever published; its reservation
// ends in the pool.
func TestScrapped(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	l.stock(t, 0, 2)
	ctx := t.Context()
	f := on(l.station(t), l.device(t, true))
	must(t, f.run(ctx, 3))
	l.scrap(t, f.record(), 0)
	refused(t, f.begin(ctx), connect.CodeFailedPrecondition, provisioning.CodeOutOfUse)
	refused(t, f.confirm(ctx), connect.CodeFailedPrecondition, provisioning.CodeOutOfUse)
	// Its reservation is old enough to be looked at.
	_, err := l.pool.AsSuperuser().Exec(`update waiting set reserved = reserved - interval '1 hour' where reserved is not null`)
	must(t, err)
	must(t, provisioning.Reconcile(l.spp.Assembly, ctx))
	if e := l.effects(t); e.Reserved != 0 || e.Used != 1 || e.Free != 1 {
		t.Errorf("%+v", e)
	}
}

// TestQuarantined: a quarantined device is refused, and goes on where it was
// once it is released.
func TestQuarantined(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	l.stock(t, 0, 1)
	ctx := t.Context()
	f := on(l.station(t), l.device(t, true))
	must(t, f.run(ctx, 4))
	must(t, l.records.Store.Quarantine(ctx, f.record(), order))
	for _, step := range []func(context.Context) error{f.begin, f.confirm, f.prove, f.publish} {
		refused(t, step(ctx), connect.CodeFailedPrecondition, provisioning.CodeOutOfUse)
	}
	if s := f.status(t); s.State != "quarantined" || len(s.Backup) != 0 {
		t.Errorf("state %s, backup of %d bytes", s.State, len(s.Backup))
	}
	must(t, l.records.Store.Release(ctx, f.record(), order))
	must(t, f.finish(ctx, 4))
}

// TestContested: a chip that two delivery lists claim is not begun until an
// operator released it; what the chip has in the field is left alone.
func TestContested(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	l.stock(t, 0, 2)
	ctx := t.Context()
	f, shipped := on(l.station(t), l.device(t, true)), on(l.station(t), l.device(t, true))
	must(t, f.run(ctx, 2))
	must(t, shipped.run(ctx, 0))
	for _, r := range []identity.RecordID{f.record(), shipped.record()} {
		must(t, l.records.Store.Contest(ctx, r, "two lists", map[string]string{"earlier": "one", "now": "two"}))
	}
	refused(t, f.begin(ctx), connect.CodePermissionDenied, provisioning.CodeContested)
	refused(t, f.confirm(ctx), connect.CodeFailedPrecondition, provisioning.CodeOutOfUse)
	refused(t, shipped.begin(ctx), connect.CodePermissionDenied, provisioning.CodeContested)
	if s := shipped.status(t); s.State != "shipped" {
		t.Errorf("a contest brought a shipped device to %s", s.State)
	}
	must(t, l.records.Store.Release(ctx, f.record(), order))
	must(t, f.finish(ctx, 2))
}

// TestAbandoned: a next generation that was abandoned leaves the device its
// identity; another unlock statement lets it have the one after.
func TestAbandoned(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	ids := l.stock(t, 0, 3)
	ctx := t.Context()
	f := on(l.station(t), l.device(t, true))
	must(t, f.run(ctx, 0))
	l.unlock(t, f.record(), 2)
	must(t, f.run(ctx, 3))
	must(t, l.records.Store.Abandon(ctx, f.record(), 2, order))
	refused(t, f.begin(ctx), connect.CodeAlreadyExists, provisioning.CodeActive)
	l.unlock(t, f.record(), 3)
	must(t, f.run(ctx, 0))
	d, err := l.records.Store.Newest(ctx, f.record())
	must(t, err)
	if d.Identity != ids[0] || d.Generation != 3 || d.State != records.Shipped {
		t.Errorf("%s, generation %d, %s", d.Identity, d.Generation, d.State)
	}
	if e := l.effects(t); e.Free != 2 || e.Burned != 0 {
		t.Errorf("%+v", e)
	}
}

// TestUnattestedNextGeneration: a device in the field that loses the one
// transfer of its next generation keeps its identity.
func TestUnattestedNextGeneration(t *testing.T) {
	t.Parallel()
	l := newLine(t, strings.Replace(phone(t), "allow_unattested: false", "allow_unattested: true", 1))
	ids := l.stock(t, 0, 2)
	ctx := t.Context()
	f := on(l.station(t), l.device(t, false))
	f.suite = keypackage.SuiteUnattested
	must(t, f.run(ctx, 0))
	l.unlock(t, f.record(), 2)
	must(t, f.begin(ctx))
	refused(t, f.begin(ctx), connect.CodeFailedPrecondition, provisioning.CodeTransferLost)
	l.unlock(t, f.record(), 3)
	must(t, f.run(ctx, 0))
	d, err := l.records.Store.Newest(ctx, f.record())
	must(t, err)
	if d.Identity != ids[0] || d.Generation != 3 {
		t.Errorf("%s, generation %d", d.Identity, d.Generation)
	}
	// Now it comes attested, which no list says.
	l.list(t, f.device)
	l.unlock(t, f.record(), 4)
	f.suite = keypackage.SuiteAttested
	refused(t, f.begin(ctx), connect.CodeAlreadyExists, provisioning.CodeConflict)
	l.incidentOf(t, provisioning.CodeConflict, f.record(), "expected_suite", "came_suite", "step", "certificate")
}

// incidentOf gives the newest incident of a kind, which must be this record's
// and have these facts and no secret.
func (l *line) incidentOf(t testing.TB, kind provisioning.Code, record identity.RecordID, names ...string) records.Incident {
	t.Helper()
	all, err := l.records.Store.Incidents(t.Context(), 100)
	must(t, err)
	i := slices.IndexFunc(all, func(i records.Incident) bool { return i.Kind == string(kind) })
	if i < 0 {
		t.Fatalf("no incident %q", kind)
	}
	if all[i].Record != record || all[i].Station == "" || all[i].Line != "phone" {
		t.Errorf("incident %+v is not of record %s", all[i], record.Short())
	}
	for _, n := range names {
		if all[i].Facts[n] == "" {
			t.Errorf("incident %q has no fact %q: %v", kind, n, all[i].Facts)
		}
	}
	return all[i]
}

// TestAnotherDevicesBackup: a confirmation for another device's package is
// refused, with an incident that names both; neither is stopped.
func TestAnotherDevicesBackup(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	l.stock(t, 0, 2)
	ctx := t.Context()
	f, other := on(l.station(t), l.device(t, true)), on(l.station(t), l.device(t, true))
	must(t, f.run(ctx, 2))
	must(t, other.run(ctx, 2))
	own := f.accepted
	f.accepted = other.accepted
	refused(t, f.confirm(ctx), connect.CodeInvalidArgument, provisioning.CodeManifest)
	i := l.incidentOf(t, provisioning.CodeManifest, f.record(), "expected_manifest", "came_manifest", "came_backup", "certificate")
	if i.Facts["expected_record"] != f.record().String() || i.Facts["came_record"] != other.record().String() || i.Facts["step"] != "confirm" || i.Generation != 1 {
		t.Errorf("incident: %+v", i)
	}
	for _, secret := range [][]byte{f.device.chip.ID().Bytes(), other.device.chip.ID().Bytes(), own.Confirm, other.accepted.Confirm} {
		for name, fact := range i.Facts {
			if found([]byte(fact), secret) {
				t.Errorf("fact %q holds a chip ID or MAC", name)
			}
		}
		if found([]byte(l.log.String()), secret) {
			t.Error("the log holds a chip ID or MAC")
		}
	}
	f.accepted = own
	must(t, f.finish(ctx, 2))
	must(t, other.finish(ctx, 2))
}

// holder confirms another backup with the device's own key: what only a second
// holder of that key can do.
func (l *line) holder(t testing.TB, f *fixture) (backup, mac []byte) {
	t.Helper()
	d, err := l.records.Store.Newest(t.Context(), f.record())
	must(t, err)
	m, err := keypackage.ParseManifest(d.Manifest)
	must(t, err)
	i, _ := m.Proving()
	id := m.Entries[i].Key
	must(t, l.records.Store.License(t.Context(), audit.Event{Kind: audit.DeviceKey, Key: "dev-purpose-channel-1", Record: d.Record, Generation: d.Generation, Actor: "a thief"}))
	key, err := l.keys.DeviceKey(t.Context(), id, keypackage.DeviceKeyContext(dev, id, d.Identity, d.Generation, d.Record))
	must(t, err)
	defer func() { must(t, key.Destroy(context.Background())) }()
	backup = flip(f.accepted.Backup, len(f.accepted.Backup)-1)
	mac, err = key.MAC(t.Context(), keypackage.ConfirmMessage(keypackage.Transcript(d.Hello, d.Point, d.Claims), sha256.Sum256(backup)))
	must(t, err)
	return backup, mac
}

// TestSecondConfirmation: another backup is a conflict and an incident; where
// its MAC is the device key's two hold that key, and what is on the line is set
// apart, what is in the field is not.
func TestSecondConfirmation(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	l.stock(t, 0, 2)
	ctx := t.Context()
	confirm := func(f *fixture, backup, mac []byte) error {
		r := f.confirmRequest()
		r.Backup, r.Mac = backup, mac
		_, err := f.station.Confirm(ctx, connect.NewRequest(r))
		return err
	}
	for _, c := range []struct {
		name  string
		steps int
		state string
	}{{"on the line", 3, "quarantined"}, {"in the field", 0, "shipped"}} {
		f := on(l.station(t), l.device(t, true))
		must(t, f.run(ctx, c.steps))
		before := f.status(t).State
		changed := flip(f.accepted.Backup, len(f.accepted.Backup)-1)
		refused(t, confirm(f, changed, f.accepted.Confirm), connect.CodeAlreadyExists, provisioning.CodeConflict)
		if i := l.incidentOf(t, provisioning.CodeConflict, f.record(), "expected_backup", "came_backup"); i.Facts["proven"] != "false" {
			t.Errorf("%s: %v", c.name, i.Facts)
		}
		refused(t, confirm(f, f.accepted.Backup, flip(f.accepted.Confirm, 0)), connect.CodeAlreadyExists, provisioning.CodeConflict)
		if s := f.status(t).State; s != before {
			t.Errorf("%s: a wrong MAC brought it from %s to %s", c.name, before, s)
		}
		backup, mac := l.holder(t, f)
		refused(t, confirm(f, backup, mac), connect.CodeAlreadyExists, provisioning.CodeConflict)
		if i := l.incidentOf(t, provisioning.CodeConflict, f.record()); i.Facts["proven"] != "true" {
			t.Errorf("%s: %v", c.name, i.Facts)
		}
		if s := f.status(t).State; s != c.state {
			t.Errorf("%s: it is %s", c.name, s)
		}
	}
}

// TestAttestationFacts: the incident of a wrong attestation says which key was
// expected and which was named.
func TestAttestationFacts(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	l.stock(t, 0, 1)
	listed, stranger := l.device(t, true), l.device(t, false)
	h := keypackage.Hello{Realm: dev, Suite: keypackage.SuiteAttested, ChipID: listed.chip.ID(), ROMKey: l.keys.ROMKey().Hash(), Point: point(t)}
	_, err := begin(t, l.station(t), attest(t, stranger.chip.Attester(), h))
	refused(t, err, connect.CodePermissionDenied, provisioning.CodeAttestation)
	i := l.incidentOf(t, provisioning.CodeAttestation, h.ChipID.RecordID(), "expected_key", "came_hello", "step")
	if got, want := i.Facts["came_key_id"], stranger.chip.Attester().Public().ID().String(); got != want {
		t.Errorf("the key that signed is named %q, it is %q", got, want)
	}
	if n := l.spp.labelled(t, "devicekeys_incidents_total", "attestation"); n != 1 {
		t.Errorf("%v incidents counted", n)
	}
}

// labelled sums the values of a metric that have a label of this value.
func (s *spp) labelled(t testing.TB, name, label string) (sum float64) {
	t.Helper()
	families, err := s.metrics.Gather()
	must(t, err)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, p := range m.GetLabel() {
				if f.GetName() == name && p.GetValue() == label {
					sum += m.GetCounter().GetValue()
				}
			}
		}
	}
	return sum
}

// TestOutOfOrder makes, after each step, every call that was made before, which
// gets the same answer, and every one that is not due, which is refused.
func TestOutOfOrder(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	l.stock(t, 0, 1)
	ctx := t.Context()
	// The registry keeps the entry waiting as long as the test looks at that state.
	l.front.set(away)
	f := on(l.station(t), l.device(t, true))
	hello := f.device.hello(t, keypackage.SuiteAttested)
	var err error
	f.begun, err = begin(t, f.station, hello)
	must(t, err)
	must(t, f.accept(ctx))
	sameBegin := func(context.Context) error {
		again, err := begin(t, f.station, hello)
		if err == nil && !bytes.Equal(again.Package, f.begun.Package) {
			t.Error("begin gave another package")
		}
		return err
	}
	sameConfirm := func(ctx context.Context) error {
		was := f.challenge
		err := f.confirm(ctx)
		if err == nil && was != f.challenge && was != [32]byte{} {
			t.Error("confirm gave another challenge")
		}
		return err
	}
	// Any bytes will do where a call is not due: the state is looked at first.
	f.restored, f.locked = make([]byte, 32), make([]byte, 32)
	calls := []func(context.Context) error{sameBegin, sameConfirm, f.prove, f.publish, f.ship}
	due := func(state string, done int) {
		t.Helper()
		s := f.status(t)
		open := state == "confirmed" || state == "restored" || state == "published"
		if s.State != state || open != (bytes.Equal(s.Backup, f.accepted.Backup) && len(s.Certificate) > 0) || !open && len(s.Backup)+len(s.Certificate) > 0 {
			t.Errorf("status %s, backup of %d bytes, certificate of %d; the state is %s", s.State, len(s.Backup), len(s.Certificate), state)
		}
		for i, call := range calls {
			if i == done {
				continue // due: it is made by its own step
			}
			err := call(ctx)
			if i > done {
				refused(t, err, connect.CodeFailedPrecondition, provisioning.CodeState)
			} else if err != nil {
				t.Errorf("%s: call %d again: %v", state, i, err)
			}
		}
	}
	due("packaged", 1)
	must(t, f.confirm(ctx))
	due("confirmed", 2)
	must(t, f.restore(ctx))
	must(t, f.prove(ctx))
	refused(t, f.publish(ctx), connect.CodeUnavailable, provisioning.CodePublication)
	due("restored", 3)
	l.front.set(nil)
	_, err = retried(ctx, f.publish)
	must(t, err)
	due("published", 4)
	must(t, f.lock(ctx))
	must(t, f.ship(ctx))
	due("shipped", 5)
	if n := l.incidents(t); n != 0 {
		t.Errorf("%d incidents: none of this was one", n)
	}
}

// TestStationRevoked: a revocation holds from the next call on, for every call
// of the connection that stands; a certificate made later is served.
func TestStationRevoked(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	l.stock(t, 0, 1)
	ctx := t.Context()
	f := on(l.station(t), l.device(t, true))
	must(t, f.run(ctx, 3))
	r, err := l.records.Store.Revoke(ctx, "line-1", order)
	must(t, err)
	record := f.begun.RecordId
	for name, call := range map[string]func() error{
		"modules": func() error {
			_, err := f.station.Modules(ctx, connect.NewRequest(&provisioningrpc.ModulesRequest{}))
			return err
		},
		"begin":    func() error { return f.begin(ctx) },
		"confirm":  func() error { return f.confirm(ctx) },
		"restored": func() error { f.restored = make([]byte, 32); return f.prove(ctx) },
		"publish":  func() error { return f.publish(ctx) },
		"locked":   func() error { f.locked = make([]byte, 32); return f.ship(ctx) },
		"challenge": func() error {
			_, err := f.station.Challenge(ctx, connect.NewRequest(&provisioningrpc.ChallengeRequest{RecordId: record}))
			return err
		},
		"prove": func() error {
			_, err := f.station.Prove(ctx, connect.NewRequest(&provisioningrpc.ProveRequest{RecordId: record, Challenge: make([]byte, 32), Mac: make([]byte, 32)}))
			return err
		},
		"status": func() error {
			_, err := f.station.Status(ctx, connect.NewRequest(&provisioningrpc.StatusRequest{RecordId: record}))
			return err
		},
	} {
		t.Log(name)
		refused(t, call(), connect.CodePermissionDenied, provisioning.CodeRevoked)
	}
	if n := l.spp.labelled(t, "devicekeys_refusals_total", string(provisioning.CodeRevoked)); n != 9 {
		t.Errorf("%v refusals counted, 9 were made", n)
	}
	// Another station goes on with the device, and so does this one with a
	// certificate made after the revocation; seconds are all a certificate tells.
	s := provisioning.Station{Grant: stationGrant(), NotBefore: r.At.Add(time.Second), NotAfter: time.Now().Add(time.Hour)}
	if _, err := l.spp.Status(ctx, s, f.record()); err != nil {
		t.Errorf("a renewed certificate is refused: %v", err)
	}
	s.NotBefore = r.At
	var refusal *provisioning.Refusal
	if _, err := l.spp.Status(ctx, s, f.record()); !errors.As(err, &refusal) || refusal.Code() != provisioning.CodeRevoked {
		t.Errorf("a certificate of the revocation's own moment: %v", err)
	}
}

// TestStationExpired: behind TLS that lets expired certificates through, a
// station is told with every call that its certificate expired; who shows
// nothing of the station CA's is not served.
func TestStationExpired(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	l.stock(t, 0, 1)
	l.spp.stop()
	l.spp = l.start(t, func(c *provisioning.Config) { c.StationCAs = l.ca.pool })
	g, foreign := stationGrant(), newAuthority(t)
	open := l.serveOpen(t, l.spp)
	client := func(a *authority, life time.Duration) provisioningrpc.AssemblyServiceClient {
		return provisioningrpc.NewAssemblyServiceClient(l.client(t, a.issue(t, life, g.URI())), open)
	}
	expired := client(l.ca, -time.Minute)
	for range 2 {
		_, err := begin(t, expired, l.device(t, true).hello(t, keypackage.SuiteAttested))
		refused(t, err, connect.CodePermissionDenied, provisioning.CodeExpired)
		_, err = expired.Modules(t.Context(), connect.NewRequest(&provisioningrpc.ModulesRequest{}))
		refused(t, err, connect.CodePermissionDenied, provisioning.CodeExpired)
	}
	for name, c := range map[string]provisioningrpc.AssemblyServiceClient{
		"foreign": client(foreign, time.Hour), "foreign and expired": client(foreign, -time.Minute),
	} {
		_, err := begin(t, c, l.device(t, true).hello(t, keypackage.SuiteAttested))
		t.Log(name)
		refused(t, err, connect.CodePermissionDenied, provisioning.CodeStation)
	}
	must(t, on(client(l.ca, time.Hour), l.device(t, true)).run(t.Context(), 0))
	if n := l.spp.labelled(t, "devicekeys_refusals_total", string(provisioning.CodeExpired)); n != 4 {
		t.Errorf("%v refusals counted, 4 were made", n)
	}
}

// serveOpen serves an SPP's handler behind TLS that verifies no client.
func (l *line) serveOpen(t testing.TB, s *spp) (url string) {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle(provisioning.NewHandler(s.Assembly))
	return l.serveWith(t, mux, "spp", "spp-1", false).URL
}
