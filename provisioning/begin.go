package provisioning

import (
	"bytes"
	"context"
	"errors"

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
}

// Begin takes a device's hello, gives the device an identity and answers with
// its data package (steps 3 and 4). The same hello gets the stored answer; a
// new one of the same chip gets a new transfer of the same package, until the
// backup was confirmed.
func (a *Assembly) Begin(ctx context.Context, s Station, raw []byte) (Begun, error) {
	p, err := a.line(s)
	if err != nil {
		return Begun{}, err
	}
	h, err := a.openHello(ctx, s, p, raw)
	if err != nil {
		return Begun{}, err
	}
	record := h.ChipID.RecordID()
	unlock, err := a.locks.lock(ctx, record)
	if err != nil {
		return Begun{}, err
	}
	defer unlock()

	for range beginTries {
		b := &beginning{Assembly: a, station: s, profile: p, hello: h}
		var begun Begun
		begun, err = b.begin(ctx, record)
		wipe(b.secrets)
		if !errors.Is(err, errRaced) {
			return begun, err
		}
	}
	return Begun{}, refuse(CodeBusy, "send the request again", "another SPP works on record %s", record.Short()).because(err).after(retryAfter)
}

// beginTries bounds how often a Begin looks again after another SPP on the
// same databases was faster: each time the row has gone a step further.
const beginTries = 3

// errRaced says that another SPP was faster: read the row and go on from there.
var errRaced = errors.New("another SPP was faster")

func (b *beginning) begin(ctx context.Context, record identity.RecordID) (Begun, error) {
	d, err := b.records.Newest(ctx, record)
	switch {
	case errors.Is(err, records.ErrNotFound):
		return b.first(ctx, 1)
	case err != nil:
		return Begun{}, err
	case d.Line != b.station.Line:
		return Begun{}, refuse(CodeActive, "take the device to its own line", "record %s belongs to another product line", record.Short())
	case bytes.Equal(d.Hello, b.hello.m1) && len(d.Package) > 0:
		return b.answer(ctx, d)
	}
	b.device = d
	switch d.State {
	case records.Reserved, records.Packaged:
		return b.again(ctx)
	case records.Burned:
		return b.first(ctx, d.Generation+1)
	case records.Scrapped, records.Quarantined:
		return Begun{}, refuse(CodeOutOfUse, "set the device aside and ask who took it out of use", "record %s is %s", record.Short(), d.State)
	}
	return b.next(ctx)
}

// answer gives the stored reply of a device, with the unlock statement where
// its generation needed one.
func (b *beginning) answer(ctx context.Context, d records.Device) (Begun, error) {
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

// first gives a chip a new identity.
func (b *beginning) first(ctx context.Context, g identity.Generation) (Begun, error) {
	done, err := b.quotas.take(ctx, b.records, b.station, b.now())
	if err != nil {
		return Begun{}, err
	}
	err = b.reserve(ctx, g)
	done(err == nil)
	if err != nil {
		return Begun{}, err
	}
	return b.assemble(ctx)
}

// next gives a chip that has its identity the next generation of it, if an
// operator allowed that with an unlock statement.
func (b *beginning) next(ctx context.Context) (Begun, error) {
	d := b.device
	u, err := b.records.Unlocked(ctx, d.Record)
	if err != nil && !errors.Is(err, records.ErrNotFound) {
		return Begun{}, err
	}
	switch {
	case d.State == records.Confirmed || d.State == records.Restored:
		return Begun{}, refuse(CodeActive, "restore the device from its backup and go on where it was",
			"record %s, generation %d, is %s: its package is not sent again", d.Record.Short(), d.Generation, d.State)
	case err != nil || u.Next != d.Generation+1:
		return Begun{}, refuse(CodeActive, "to provision it anew, have an operator run spp statement unlock; to repair its flash, restore it from the registry",
			"record %s has its identity already: generation %d is %s", d.Record.Short(), d.Generation, d.State)
	case b.hello.Suite != d.Suite:
		return Begun{}, refuse(CodeConflict, "look for what stands between station and chip", "record %s was begun %s, now it comes %s", d.Record.Short(), d.Suite, b.hello.Suite)
	}
	done, err := b.quotas.take(ctx, b.records, b.station, b.now())
	if err != nil {
		return Begun{}, err
	}
	err = b.license(ctx, d.Generation+1, d.Identity, d.Batch)
	done(err == nil)
	if errors.Is(err, records.ErrChipActive) {
		return Begun{}, refuse(CodeActive, "finish the generation that is on the line first", "record %s has a generation on the line", d.Record.Short()).because(err)
	}
	if err != nil {
		return Begun{}, err
	}
	return b.assemble(ctx)
}

// again goes on with a device that was reserved: after a crash, or with a new
// hello, whose transfer replaces the one before.
func (b *beginning) again(ctx context.Context) (Begun, error) {
	d, h := b.device, b.hello
	if d.Suite != h.Suite {
		return Begun{}, refuse(CodeConflict, "look for what stands between station and chip", "record %s was begun %s, now it comes %s", d.Record.Short(), d.Suite, h.Suite)
	}
	if len(d.Package) > 0 && h.Suite == keypackage.SuiteUnattested {
		return Begun{}, b.burn(ctx)
	}
	var err error
	if b.secrets, err = b.openSecrets(ctx, d); err != nil {
		return Begun{}, err
	}
	return b.assemble(ctx)
}

// burn ends the identity of an unattested chip that asks for a second transfer:
// nobody can tell whether the same chip asks, so the keys that were sent may
// be in another one.
func (b *beginning) burn(ctx context.Context) error {
	const reason = "an unattested chip asked for a second transfer"
	d := b.device
	// A crash in between leaves a reservation in the pool whose device is
	// burned; house-keeping burns it there.
	if err := b.records.Burned(ctx, d.Identity, d.Batch, reason); err != nil {
		return err
	}
	if err := b.pool.Burn(ctx, d.Identity, reason); err != nil {
		return err
	}
	id := deviceID{d.Record, d.Generation}
	b.cache.drop(ctx, id)
	b.incident(ctx, b.station, id, CodeTransferLost, reason)
	return refuse(CodeTransferLost, "begin the device again: it gets another identity",
		"record %s is unattested and had its only transfer: the identity is burned", d.Record.Short())
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
	b.log.DebugContext(ctx, "packaged", "record", d.Record.Short(), "generation", d.Generation, "station", b.station.Station)
	return b.answer(ctx, *d)
}
