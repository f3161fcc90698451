package provisioning_test

import (
	"bytes"
	"context"
	"testing"

	"connectrpc.com/connect"

	"github.com/devicekeys/devicekeys/device"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning/records"
	provisioningrpc "github.com/devicekeys/devicekeys/provisioning/rpc"
	"github.com/devicekeys/devicekeys/registry"
)

// fixture is one device on one station, step by step: what the station's
// program does.
type fixture struct {
	station provisioningrpc.AssemblyServiceClient
	device  *hand
	suite   keypackage.Suite

	begun     *provisioningrpc.BeginResponse
	accepted  device.Accepted
	challenge [32]byte
	restored  []byte
	published *provisioningrpc.PublishResponse
	locked    []byte
	at        int // the next step, where a test takes them one by one
}

func on(station provisioningrpc.AssemblyServiceClient, d *hand) *fixture {
	return &fixture{station: station, device: d, suite: keypackage.SuiteAttested}
}

func (f *fixture) begin(ctx context.Context) error {
	hello, err := f.device.Hello(ctx, f.suite)
	if err != nil {
		return err
	}
	res, err := f.station.Begin(ctx, connect.NewRequest(&provisioningrpc.BeginRequest{Hello: hello}))
	if err != nil {
		return err
	}
	f.begun = res.Msg
	return nil
}

func (f *fixture) accept(ctx context.Context) (err error) {
	f.accepted, err = f.device.Accept(ctx, f.begun.Package, f.begun.Unlock)
	return err
}

func (f *fixture) confirmRequest() *provisioningrpc.ConfirmRequest {
	return &provisioningrpc.ConfirmRequest{RecordId: f.begun.RecordId, Generation: f.begun.Generation, Backup: f.accepted.Backup, Mac: f.accepted.Confirm}
}

func (f *fixture) confirm(ctx context.Context) error {
	res, err := f.station.Confirm(ctx, connect.NewRequest(f.confirmRequest()))
	if err != nil {
		return err
	}
	f.challenge = [32]byte(res.Msg.Challenge)
	return nil
}

// restore erases the device's flash, restores it from its own backup, boots it
// and takes its proof.
func (f *fixture) restore(ctx context.Context) error {
	data, err := keypackage.ParseDataPackage(f.begun.Package)
	if err != nil {
		return err
	}
	if err := f.device.Erase(ctx); err != nil {
		return err
	}
	if err := f.device.Restore(ctx, data.Certificate, f.accepted.Backup); err != nil {
		return err
	}
	if _, err := f.device.Boot(ctx); err != nil {
		return err
	}
	f.restored, err = f.device.Restored(ctx, f.challenge)
	return err
}

func (f *fixture) prove(ctx context.Context) error {
	_, err := f.station.Restored(ctx, connect.NewRequest(&provisioningrpc.RestoredRequest{RecordId: f.begun.RecordId, Generation: f.begun.Generation, Mac: f.restored}))
	return err
}

func (f *fixture) publish(ctx context.Context) error {
	res, err := f.station.Publish(ctx, connect.NewRequest(&provisioningrpc.PublishRequest{RecordId: f.begun.RecordId, Generation: f.begun.Generation}))
	if err != nil {
		return err
	}
	f.published = res.Msg
	return nil
}

func (f *fixture) lock(ctx context.Context) (err error) {
	f.locked, err = f.device.Published(ctx, f.published.Mac)
	return err
}

func (f *fixture) ship(ctx context.Context) error {
	_, err := f.station.Locked(ctx, connect.NewRequest(&provisioningrpc.LockedRequest{RecordId: f.begun.RecordId, Generation: f.begun.Generation, Mac: f.locked}))
	return err
}

// steps are the line's, in order.
func (f *fixture) steps() []func(context.Context) error {
	return []func(context.Context) error{f.begin, f.accept, f.confirm, f.restore, f.prove, f.publish, f.lock, f.ship}
}

// run takes the device through its first n steps, or all for 0.
func (f *fixture) run(ctx context.Context, n int) error {
	steps := f.steps()
	if n > 0 {
		steps = steps[:n]
	}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (f *fixture) record() identity.RecordID { return identity.RecordID(f.begun.RecordId) }

// repair erases a shipped device and restores it from the registry alone.
func (l *line) lookup(t testing.TB, h *hand) (registry.Record, identity.Certificate) {
	t.Helper()
	found, err := l.registry.Reader().Newest(t.Context(), []identity.RecordID{h.chip.ID().RecordID()})
	must(t, err)
	e := found[h.chip.ID().RecordID()].Entry
	r, c, err := e.Check(h.chip.ID(), dev, l.keys.ROMKey())
	must(t, err)
	return r, c
}

func TestWholePath(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	ids := l.stock(t, 0, 3)
	station := l.station(t)

	modules, err := station.Modules(t.Context(), connect.NewRequest(&provisioningrpc.ModulesRequest{}))
	must(t, err)
	if !bytes.Equal(modules.Msg.RomKey, l.keys.ROMKey().Point()) || modules.Msg.ProductLine != "phone" || modules.Msg.Realm != "development" {
		t.Errorf("modules: %v", modules.Msg)
	}

	f := on(station, l.device(t, true))
	must(t, f.run(t.Context(), 0))

	d, err := l.records.Store.Newest(t.Context(), f.record())
	must(t, err)
	if d.State != records.Shipped || d.Identity != ids[0] || d.Station != "line-1" || d.Line != "phone" || len(d.Secrets) != 0 {
		t.Errorf("record: %s, %s, station %q, line %q, %d secrets", d.State, d.Identity, d.Station, d.Line, len(d.Secrets))
	}
	if d.Uses != 1 {
		t.Errorf("a device without trouble needs one licence, %d were written", d.Uses)
	}
	status, err := f.device.Status(t.Context())
	must(t, err)
	if !status.Locked || status.Floor != 1 || status.Identity != ids[0].String() {
		t.Errorf("device: locked %v, floor %d, identity %q", status.Locked, status.Floor, status.Identity)
	}

	// The pool forgets the identity, shortly after.
	eventually(t, "the pool forgot the identity", func() bool { return l.effects(t).Reserved == 0 })
	if found, err := l.pool.Store.Find(t.Context(), ids); err != nil || len(found) != 2 {
		t.Errorf("%d of %d identities in the pool, %v", len(found), len(ids), err)
	}
	batches, err := l.pool.Store.Batches(t.Context())
	must(t, err)
	if b := batches[0]; b.Free != 2 || b.Used != 1 || b.Reserved != 0 {
		t.Errorf("batch: %+v", b)
	}

	// An owner repairs it with the chip ID and the registry alone.
	r, c := l.lookup(t, f.device)
	if c.Subject.URN() != ids[0].URN() {
		t.Errorf("certificate for %s", c.Subject)
	}
	must(t, f.device.Erase(t.Context()))
	must(t, f.device.Restore(t.Context(), r.Certificate, r.Backup))
	booted, err := f.device.Boot(t.Context())
	must(t, err)
	if code, ok := booted.Secret("sim-unlock"); !ok || len(code) != 16 || bytes.Trim(code, "0123456789") != nil && len(bytes.Trim(code, "0123456789")) != 0 {
		t.Errorf("SIM lock code of %d bytes, %v", len(code), ok)
	}

	// It holds its keys: the HSM says so.
	ch, err := station.Challenge(t.Context(), connect.NewRequest(&provisioningrpc.ChallengeRequest{RecordId: f.begun.RecordId}))
	must(t, err)
	mac, err := f.device.Prove(t.Context(), [32]byte(ch.Msg.Challenge))
	must(t, err)
	proof := &provisioningrpc.ProveRequest{RecordId: f.begun.RecordId, Challenge: ch.Msg.Challenge, Mac: mac}
	for range 2 {
		res, err := station.Prove(t.Context(), connect.NewRequest(proof))
		must(t, err)
		if res.Msg.Generation != 1 {
			t.Errorf("generation %d", res.Msg.Generation)
		}
	}
	state, err := station.Status(t.Context(), connect.NewRequest(&provisioningrpc.StatusRequest{RecordId: f.begun.RecordId}))
	must(t, err)
	if state.Msg.State != "shipped" || state.Msg.Generation != 1 || !bytes.Equal(state.Msg.Challenge, f.challenge[:]) {
		t.Errorf("status: %v", state.Msg)
	}
}
