package provisioning_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"connectrpc.com/connect"
	"golang.org/x/sync/errgroup"

	"github.com/devicekeys/devicekeys/audit"
	"github.com/devicekeys/devicekeys/hsm/maker"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning"
	"github.com/devicekeys/devicekeys/provisioning/profile"
	"github.com/devicekeys/devicekeys/provisioning/records"
	provisioningrpc "github.com/devicekeys/devicekeys/provisioning/rpc"
)

// TestRepeats makes every call twice, and again after everything: the answers
// are the same.
func TestRepeats(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	l.stock(t, 0, 2)
	ctx, station := t.Context(), l.station(t)
	f := on(station, l.device(t, true))
	hello := f.device.hello(t, keypackage.SuiteAttested)
	var err error
	f.begun, err = begin(t, station, hello)
	must(t, err)
	sameBegin := func() {
		t.Helper()
		again, err := begin(t, station, hello)
		must(t, err)
		if !bytes.Equal(again.Package, f.begun.Package) || again.Generation != 1 {
			t.Error("the same hello got another package")
		}
	}
	sameBegin()
	must(t, f.accept(ctx))
	must(t, f.confirm(ctx))
	challenge := f.challenge
	same := func(step func(context.Context) error) {
		t.Helper()
		must(t, step(ctx))
		if f.challenge != challenge {
			t.Error("the same confirmation got another challenge")
		}
	}
	same(f.confirm)
	must(t, f.restore(ctx))
	must(t, f.prove(ctx))
	same(f.prove)
	must(t, f.publish(ctx))
	mac, sequence := f.published.Mac, f.published.Sequence
	samePublish := func() {
		t.Helper()
		must(t, f.publish(ctx))
		if !bytes.Equal(f.published.Mac, mac) || f.published.Sequence != sequence {
			t.Error("publish gave another answer")
		}
	}
	samePublish()
	must(t, f.lock(ctx))
	must(t, f.ship(ctx))
	for range 2 { // once more, all of them, and by an SPP that started since
		same(f.ship)
		sameBegin()
		same(f.confirm)
		same(f.prove)
		samePublish()
		l.spp.stop()
		l.spp = l.start(t)
		station = l.station(t)
		f.station = station
	}
	eventually(t, "the pool forgot the identity", func() bool { return l.effects(t).Used == 1 })
	if e := l.effects(t); e.Free != 1 || e.States[records.Shipped] != 1 || l.incidents(t) != 0 {
		t.Errorf("repeats left %+v, %d incidents", e, l.incidents(t))
	}
}

// TestRestartAnywhere stops the SPP after each step and starts another one,
// which has none of the first one's device keys.
func TestRestartAnywhere(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	l.stock(t, 0, 2)
	ctx := t.Context()
	f := on(l.station(t), l.device(t, true))
	for _, step := range f.steps() {
		must(t, step(ctx))
		l.spp.stop()
		l.spp = l.start(t)
		f.station = l.station(t)
	}
	d, err := l.records.Store.Newest(ctx, f.record())
	must(t, err)
	// Confirm, Restored, Publish and Locked each derived the key again.
	if d.State != records.Shipped || d.Uses != 5 {
		t.Errorf("state %s, %d licences, shipped with 5 are expected", d.State, d.Uses)
	}
	l.checkAudit(t, f.record(), 1, 4)
}

// checkAudit checks the log and counts a record's entries.
func (l *line) checkAudit(t testing.TB, record identity.RecordID, assemble, again int) {
	t.Helper()
	got := map[audit.Kind]int{}
	_, err := audit.New(l.records.As("auditor"), dev).Verify(t.Context(), audit.Head{}, nil, func(e audit.Entry) error {
		if e.Record == record {
			got[e.Kind]++
			if !strings.HasPrefix(e.Key, "dev-purpose-channel-1") || e.Actor != "station line-1" {
				t.Errorf("entry %d: key %q, actor %q", e.Seq, e.Key, e.Actor)
			}
		}
		return nil
	})
	must(t, err)
	if got[audit.Assemble] != assemble || got[audit.DeviceKey] != again {
		t.Errorf("audit entries %v, %d and %d are expected", got, assemble, again)
	}
}

// TestNewHello: a device that lost its package says hello again: a new
// transfer of the same package, which the old hello no longer opens.
func TestNewHello(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	l.stock(t, 0, 2)
	ctx, station := t.Context(), l.station(t)
	f := on(station, l.device(t, true))
	must(t, f.begin(ctx))
	first, err := l.records.Store.Newest(ctx, f.record())
	must(t, err)
	must(t, f.begin(ctx))
	second, err := l.records.Store.Newest(ctx, f.record())
	must(t, err)
	if !bytes.Equal(first.Claims, second.Claims) || !bytes.Equal(first.Certificate, second.Certificate) || bytes.Equal(first.Package, second.Package) || first.Identity != second.Identity {
		t.Error("a new hello changed more than the transfer")
	}
	if second.Uses != 1 {
		t.Errorf("%d licences: the keys were there", second.Uses)
	}
	for _, step := range f.steps()[1:] {
		must(t, step(ctx))
	}
}

// TestSignedAnew: a hello that was signed again (ECDSA gives another signature)
// is the same M1 and gets the same package.
func TestSignedAnew(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	l.stock(t, 0, 2)
	d := l.device(t, true)
	h := keypackage.Hello{Realm: dev, Suite: keypackage.SuiteAttested, ChipID: d.chip.ID(), ROMKey: l.keys.ROMKey().Hash(), Point: point(t)}
	first, err := begin(t, l.station(t), attest(t, d.chip.Attester(), h))
	must(t, err)
	second, err := begin(t, l.station(t), attest(t, d.chip.Attester(), h))
	must(t, err)
	if !bytes.Equal(first.Package, second.Package) {
		t.Error("the same hello got another package")
	}
}

func TestUnattested(t *testing.T) {
	t.Parallel()
	l := newLine(t, strings.Replace(phone(t), "allow_unattested: false", "allow_unattested: true", 1))
	ids := l.stock(t, 0, 5)
	ctx, station := t.Context(), l.station(t)

	f := on(station, l.device(t, false))
	f.suite = keypackage.SuiteUnattested
	must(t, f.run(ctx, 0))

	// One transfer only: a second hello burns the identity, the third gets
	// another one.
	f = on(station, l.device(t, false))
	f.suite = keypackage.SuiteUnattested
	must(t, f.begin(ctx))
	refused(t, f.begin(ctx), connect.CodeFailedPrecondition, provisioning.CodeTransferLost)
	if known, err := l.records.Store.Known(ctx, ids); err != nil || known[ids[1].Value()] != "burned" {
		t.Errorf("the identity is %q, %v", known[ids[1].Value()], err)
	}
	must(t, f.run(ctx, 0))
	d, err := l.records.Store.Newest(ctx, f.record())
	must(t, err)
	if d.Identity != ids[2] || d.Generation != 2 || d.State != records.Shipped {
		t.Errorf("identity %s, generation %d, %s", d.Identity, d.Generation, d.State)
	}
	eventually(t, "the pool has two left", func() bool { e := l.effects(t); return e.Burned == 1 && e.Used == 2 && e.Free == 2 && e.Reserved == 0 })
	// A listed chip is never taken unattested.
	listed := on(station, l.device(t, true))
	listed.suite = keypackage.SuiteUnattested
	refused(t, listed.begin(ctx), connect.CodePermissionDenied, provisioning.CodeUnattested)
}

// TestNextGeneration: a shipped device is provisioned anew through an unlock
// statement, with the same identity and another key.
func TestNextGeneration(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	ids := l.stock(t, 0, 2)
	ctx, station := t.Context(), l.station(t)
	f := on(station, l.device(t, true))
	must(t, f.run(ctx, 0))
	refused(t, f.begin(ctx), connect.CodeAlreadyExists, provisioning.CodeActive)

	must(t, l.records.Store.License(ctx, audit.Event{Kind: audit.Unlock, Key: "dev-identity-signing", Record: f.record(), Generation: 2, Actor: "operator alice"}))
	signed, err := l.keys.SignUnlock(ctx, identity.Unlock{Realm: dev, Record: f.record(), Next: 2})
	must(t, err)
	must(t, l.records.Store.Unlock(ctx, f.record(), 2, signed, "board repaired", "alice"))

	hello := f.device.hello(t, keypackage.SuiteAttested)
	f.begun, err = begin(t, station, hello)
	must(t, err)
	again, err := begin(t, station, hello)
	must(t, err)
	if f.begun.Generation != 2 || !bytes.Equal(f.begun.Unlock, signed) || !bytes.Equal(again.Unlock, signed) || !bytes.Equal(again.Package, f.begun.Package) {
		t.Errorf("generation %d, unlock statement of %d and %d bytes", f.begun.Generation, len(f.begun.Unlock), len(again.Unlock))
	}
	for _, step := range f.steps()[1:] {
		must(t, step(ctx))
	}
	d, err := l.records.Store.Newest(ctx, f.record())
	must(t, err)
	before, err := l.records.Store.Get(ctx, f.record(), 1)
	must(t, err)
	if d.State != records.Shipped || d.Identity != ids[0] || before.State != records.Superseded {
		t.Errorf("generation 2 is %s with %s, generation 1 is %s", d.State, d.Identity, before.State)
	}
	found, err := l.registry.Reader().Newest(ctx, []identity.RecordID{f.record()})
	must(t, err)
	if e := found[f.record()].Entry; e.Type.String() != "supersede" || e.Generation != 2 {
		t.Errorf("the registry's newest entry: %s, generation %d", e.Type, e.Generation)
	}
	// The second statement is for the third generation, and used up neither.
	refused(t, f.begin(ctx), connect.CodeAlreadyExists, provisioning.CodeActive)
}

func TestConcurrent(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	const n = 8
	l.stock(t, 0, n)
	station := l.station(t)
	var devices []*fixture
	for range n {
		devices = append(devices, on(station, l.device(t, true)))
	}
	var group errgroup.Group
	for _, f := range devices {
		group.Go(func() error { return f.run(t.Context(), 0) })
	}
	must(t, group.Wait())
	seen := map[identity.Identity]bool{}
	for _, f := range devices {
		d, err := l.records.Store.Newest(t.Context(), f.record())
		must(t, err)
		if d.State != records.Shipped || seen[d.Identity] {
			t.Errorf("record %s: %s, identity given twice: %v", d.Record.Short(), d.State, seen[d.Identity])
		}
		seen[d.Identity] = true
	}
	eventually(t, "the pool forgot all identities", func() bool { e := l.effects(t); return e.Used == n && e.Free+e.Reserved+e.Burned == 0 })
}

// TestTwoBegins: one chip on two stations of two SPPs at once is one device.
func TestTwoBegins(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	l.stock(t, 0, 20)
	other := l.start(t)
	d := l.device(t, true)
	var hellos [][]byte
	for range 6 {
		h := keypackage.Hello{Realm: dev, Suite: keypackage.SuiteAttested, ChipID: d.chip.ID(), ROMKey: l.keys.ROMKey().Hash(), Point: point(t)}
		hellos = append(hellos, attest(t, d.chip.Attester(), h))
	}
	var mu sync.Mutex
	records := map[string]bool{}
	var group errgroup.Group
	for i, hello := range hellos {
		station := l.station(t)
		if i%2 == 1 {
			station = l.stationOf(t, other)
		}
		group.Go(func() error {
			res, err := station.Begin(t.Context(), connect.NewRequest(&provisioningrpc.BeginRequest{Hello: hello}))
			var e *connect.Error
			if errors.As(err, &e) && e.Code() == connect.CodeUnavailable {
				return nil // told to come back
			}
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			records[string(res.Msg.RecordId)] = true
			return nil
		})
	}
	must(t, group.Wait())
	if len(records) != 1 {
		t.Errorf("%d records for one chip", len(records))
	}
	if e := l.effects(t); e.Reserved != 1 || e.Free != 19 {
		t.Errorf("one chip reserved %d identities: %+v", e.Reserved, e)
	}
	must(t, on(l.station(t), d).run(t.Context(), 0))
}

// seenKeys remembers the device keys that the HSM derived.
type seenKeys struct {
	*maker.Keys
	mu   sync.Mutex
	made []keypackage.MACKey
}

func (k *seenKeys) DeviceKey(ctx context.Context, id keypackage.KeyID, context []byte) (keypackage.MACKey, error) {
	key, err := k.Keys.DeviceKey(ctx, id, context)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.made = append(k.made, key)
	return key, err
}

// TestDeviceKeysGone: the token lost its session objects, so the handles that
// wait are dead. Each next step derives again and goes on.
func TestDeviceKeysGone(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	l.stock(t, 0, 1)
	ctx := t.Context()
	keys := &seenKeys{Keys: l.keys}
	l.spp = l.start(t, func(c *provisioning.Config) { c.Keys = keys })
	f := on(l.station(t), l.device(t, true))
	for _, step := range f.steps() {
		must(t, step(ctx))
		for _, k := range keys.made {
			must(t, k.Destroy(ctx))
		}
	}
	if len(keys.made) != 5 {
		t.Errorf("the key was derived %d times: by begin and each call with a MAC, 5 are expected", len(keys.made))
	}
}

func phone(testing.TB) string { return string(profile.Phone) }
