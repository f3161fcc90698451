package provisioning

import (
	"bytes"
	"context"
	"errors"
	"math/big"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning/profile"
	"github.com/devicekeys/devicekeys/provisioning/records"
)

// Begun is the answer to a hello.
type Begun struct {
	Record     identity.RecordID
	Generation identity.Generation
	Package    []byte // data package
	Unlock     []byte // unlock statement, where a locked device takes a next generation
}

// beginning is one attempt of a Begin: it serves one goroutine, which holds the
// record's lock.
type beginning struct {
	*Assembly
	station  Station
	profile  profile.Profile
	hello    hello
	device   records.Device
	secrets  secretsByEntry
	licensed bool // an audit entry for this call's use of keys is committed
	// serials are those of the certificates that will be made for the device, by
	// entry: what the audit entry names.
	serials map[string]*big.Int
}

// Begin takes a device's hello, gives the device an identity and answers with
// its data package (steps 3 and 4). The same hello gets the stored answer; a
// new one of the same chip gets a new transfer of the same package, until the
// backup was confirmed.
//
// After Stop only devices that are in flight here are answered.
func (a *Assembly) Begin(ctx context.Context, s Station, raw []byte) (Begun, error) {
	p, err := a.admit(ctx, s)
	if err != nil {
		return Begun{}, err
	}
	h, err := a.openHello(ctx, s, p, raw)
	if err != nil {
		return Begun{}, err
	}
	record := h.ChipID.RecordID()
	if a.stopping.Load() && !a.flights.has(record) {
		return Begun{}, refuse(CodeStopping, "begin the device again: another SPP takes it, or this one once it is back", "the SPP is stopping and begins no device").after(retryAfter)
	}
	unlock, err := a.locks.lock(ctx, record)
	if err != nil {
		return Begun{}, err
	}
	defer unlock()

	return raced(record, func() (Begun, error) {
		b := &beginning{Assembly: a, station: s, profile: p, hello: h}
		defer func() { wipe(b.secrets) }()
		return b.begin(ctx, record)
	})
}

// raceTries bounds how often a call looks again after another SPP on the same
// databases was faster: each time the row has gone a step further.
const raceTries = 3

// errRaced says that another SPP was faster: read the row and go on from there.
var errRaced = errors.New("another SPP was faster")

// raced takes a step, and again where another SPP was faster.
func raced[T any](record identity.RecordID, step func() (T, error)) (T, error) {
	for try := 1; ; try++ {
		out, err := step()
		if !errors.Is(err, errRaced) {
			return out, err
		}
		if try == raceTries {
			return out, refuse(CodeBusy, "send the request again", "another SPP works on record %s", record.Short()).because(err).after(retryAfter)
		}
	}
}

func (b *beginning) begin(ctx context.Context, record identity.RecordID) (Begun, error) {
	d, err := b.records.Newest(ctx, record)
	switch {
	case errors.Is(err, records.ErrNotFound):
		return b.first(ctx, 1)
	case err != nil:
		return Begun{}, err
	case d.Line != b.station.Line:
		return Begun{}, refuse(CodeActive, "take the device to its own line", "record %s belongs to another product line", record.Short())
	}
	b.device = d
	switch d.State {
	case records.Scrapped, records.Quarantined:
		return Begun{}, outOfUse(d)
	case records.Burned:
		return b.afterBurned(ctx)
	}
	if bytes.Equal(d.Hello, b.hello.m1) && len(d.Package) > 0 {
		return b.answer(ctx, d)
	}
	if d.State == records.Reserved || d.State == records.Packaged {
		return b.again(ctx)
	}
	return b.next(ctx, d)
}

func outOfUse(d records.Device) *Refusal {
	return refuse(CodeOutOfUse, "set the device aside and ask who took it out of use: spp device show", "record %s is %s", d.Record.Short(), d.State)
}

// answer gives the stored reply of a device, with the unlock statement where
// its generation needed one.
func (b *beginning) answer(ctx context.Context, d records.Device) (Begun, error) {
	b.inFlight(d)
	begun := Begun{Record: d.Record, Generation: d.Generation, Package: d.Package}
	if d.Generation == 1 {
		return begun, nil
	}
	u, err := b.records.Unlocked(ctx, d.Record)
	switch {
	case errors.Is(err, records.ErrNotFound): // a generation after a burned one
	case err != nil:
		return Begun{}, err
	case u.Next == d.Generation:
		begun.Unlock = u.Statement
	}
	return begun, nil
}

// afterBurned goes on with a chip whose newest generation was burned: with a
// new identity, unless the chip holds one in the field that an abandoned
// generation was to replace.
func (b *beginning) afterBurned(ctx context.Context) (Begun, error) {
	holds, err := b.earlier(ctx, b.device)
	switch {
	case errors.Is(err, records.ErrNotFound):
		return b.first(ctx, b.device.Generation+1)
	case err != nil:
		return Begun{}, err
	case holds.State.InField():
		return b.next(ctx, holds)
	}
	return Begun{}, outOfUse(holds)
}

// first gives a chip a new identity: the one that a board swap plans for it, or
// one of the pool.
func (b *beginning) first(ctx context.Context, g identity.Generation) (Begun, error) {
	if err := b.keys.ready(); err != nil {
		return Begun{}, err
	}
	plan, err := b.records.Planned(ctx, b.hello.ChipID.RecordID())
	planned := err == nil
	if err != nil && !errors.Is(err, records.ErrNotFound) {
		return Begun{}, err
	}
	done, err := b.quotas.take(ctx, b.records, b.station, b.now())
	if err != nil {
		return Begun{}, err
	}
	if planned {
		err = b.move(ctx, g, plan)
	} else {
		err = b.reserve(ctx, g)
	}
	done(err == nil)
	if err != nil {
		return Begun{}, err
	}
	return b.assemble(ctx)
}

// next gives a chip that holds its identity the next generation of it, if an
// operator allowed that with an unlock statement. Its newest generation, in
// b.device, is the one it holds, or an abandoned one after it.
func (b *beginning) next(ctx context.Context, holds records.Device) (Begun, error) {
	d := b.device
	id := deviceID{d.Record, d.Generation + 1}
	if d.State == records.Confirmed || d.State == records.Restored {
		return Begun{}, refuse(CodeActive, "restore the device from its backup and go on where it was",
			"record %s, generation %d, is %s: its package is not sent again", d.Record.Short(), d.Generation, d.State)
	}
	u, err := b.records.Unlocked(ctx, d.Record)
	switch {
	case err != nil && !errors.Is(err, records.ErrNotFound):
		return Begun{}, err
	case err != nil || u.Next != id.Generation:
		return Begun{}, refuse(CodeActive, "to provision it anew, have an operator run spp statement unlock; to repair its flash, restore it from the registry",
			"record %s has its identity already: generation %d is %s", d.Record.Short(), holds.Generation, holds.State)
	case b.hello.Suite != holds.Suite:
		return Begun{}, b.otherSuite(ctx, id, holds)
	}
	if err := b.keys.ready(); err != nil {
		return Begun{}, err
	}
	done, err := b.quotas.take(ctx, b.records, b.station, b.now())
	if err != nil {
		return Begun{}, err
	}
	err = b.license(ctx, id.Generation, holds.Identity, holds.Batch, nil)
	done(err == nil)
	if errors.Is(err, records.ErrChipActive) {
		return Begun{}, refuse(CodeActive, "finish the generation that is on the line first", "record %s has a generation on the line", d.Record.Short()).because(err)
	}
	if err != nil {
		return Begun{}, err
	}
	return b.assemble(ctx)
}

// otherSuite refuses a chip that comes attested and was not before, or the
// other way round: somebody may stand between it and the station.
func (b *beginning) otherSuite(ctx context.Context, id deviceID, had records.Device) error {
	return b.conflict(ctx, b.station, id, "begin", "the chip comes with another suite than before",
		facts{"expected_suite": had.Suite.String(), "came_suite": b.hello.Suite.String(), "came_hello": digest(b.hello.m1)},
		"look for what stands between station and chip", "record %s was begun %s, now it comes %s", id.Record.Short(), had.Suite, b.hello.Suite)
}

// again goes on with a device that was reserved: after a crash, or with a new
// hello, whose transfer replaces the one before.
func (b *beginning) again(ctx context.Context) (Begun, error) {
	d, h := b.device, b.hello
	if d.Suite != h.Suite {
		return Begun{}, b.otherSuite(ctx, deviceID{d.Record, d.Generation}, d)
	}
	if len(d.Package) > 0 && h.Suite == keypackage.SuiteUnattested {
		return Begun{}, b.lost(ctx)
	}
	if err := b.keys.ready(); err != nil {
		return Begun{}, err
	}
	var err error
	if b.secrets, err = b.openSecrets(ctx, d); err != nil {
		return Begun{}, err
	}
	return b.assemble(ctx)
}

// lost burns the identity of an unattested chip that asks for a second
// transfer: nobody can tell whether the same chip asks, so the keys that were
// sent may be in another one. Where it was a next generation only that is
// burned: another unlock statement is due.
func (b *beginning) lost(ctx context.Context) error {
	const reason = "an unattested chip asked for a second transfer"
	d := b.device
	id := deviceID{d.Record, d.Generation}
	// A crash in between leaves a reservation in the pool whose device is
	// burned; house-keeping burns it there.
	_, err := b.earlier(ctx, d)
	switch {
	case errors.Is(err, records.ErrNotFound):
		err = b.burn(ctx, d, reason)
	case err == nil:
		err = b.records.AbandonStale(ctx, d.Record, d.Generation, reason)
	}
	if errors.Is(err, records.ErrConflict) {
		return errors.Join(errRaced, err)
	}
	if err != nil {
		return err
	}
	b.cache.drop(ctx, id)
	b.flights.land(d.Record)
	b.incident(ctx, b.station, id, CodeTransferLost, "begin", reason, facts{"expected_hello": digest(d.Hello), "came_hello": digest(b.hello.m1)})
	return refuse(CodeTransferLost, "begin the device again: it gets another identity, or, after an unlock statement, the next generation",
		"record %s is unattested and had its only transfer: generation %d is burned", d.Record.Short(), d.Generation)
}

// assemble makes package and reply of a device that is reserved.
func (b *beginning) assemble(ctx context.Context) (Begun, error) {
	keys, err := b.deviceKeys(ctx)
	if err != nil {
		return Begun{}, err
	}
	defer b.cache.release(ctx, keys)
	d := &b.device
	if len(d.Claims) == 0 {
		if err := b.claim(ctx, keys); err != nil {
			return Begun{}, err
		}
	}
	if len(d.Certificate) == 0 {
		if err := b.sign(ctx); err != nil {
			return Begun{}, err
		}
		if err := b.certify(ctx); err != nil {
			return Begun{}, err
		}
		if err := b.share(ctx); err != nil {
			return Begun{}, err
		}
	}
	if err := b.transfer(ctx, keys); err != nil {
		return Begun{}, err
	}
	// A crash before this leaves a device that is reserved and has its claims:
	// the next hello comes back here. After it, the same hello gets this reply.
	err = b.records.Packaged(ctx, *d)
	if errors.Is(err, records.ErrConflict) {
		return Begun{}, errors.Join(errRaced, err)
	}
	if err != nil {
		return Begun{}, err
	}
	d.State = records.Packaged
	b.cache.keep(*d)
	b.log.DebugContext(ctx, "packaged", "record", d.Record.Short(), "generation", d.Generation, "station", b.station.Station)
	return b.answer(ctx, *d)
}
