package station

import (
	"context"
	"errors"
	"fmt"

	"github.com/devicekeys/devicekeys/device"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	provisioningrpc "github.com/devicekeys/devicekeys/provisioning/rpc"
	"github.com/devicekeys/devicekeys/statement"
)

// Device is what a station does to a device in a fixture; *device.Device
// implements it. Each call is safe to repeat.
type Device interface {
	Record() identity.RecordID
	WriteROM(ctx context.Context, rom statement.PublicKey) error
	LoadModules(ctx context.Context, modules []device.Module) error
	Hello(ctx context.Context, suite keypackage.Suite) ([]byte, error)
	Accept(ctx context.Context, pkg, unlock []byte) (device.Accepted, error)
	Erase(ctx context.Context) error
	Restore(ctx context.Context, certificate, backup []byte) error
	Boot(ctx context.Context) (*device.Booted, error)
	Restored(ctx context.Context, challenge [32]byte) ([]byte, error)
	Published(ctx context.Context, mac []byte) ([]byte, error)
	// Stored gives what the flash holds: certificate and backup, both public.
	Stored(ctx context.Context) (certificate, backup []byte, err error)
	Close(ctx context.Context) error
}

// load brings modules and ROM key into the device: the patent's step 2.
func (w *work) load(ctx context.Context) error {
	if w.loaded {
		return nil
	}
	if err := w.device.WriteROM(ctx, w.line.rom); err != nil {
		return err
	}
	if err := w.device.LoadModules(ctx, w.line.modules); err != nil {
		return err
	}
	w.loaded = true
	return nil
}

// provision is steps 3 to 6: hello, package, backup.
func (w *work) provision(ctx context.Context) error {
	var begun *provisioningrpc.BeginResponse
	if err := w.step(ctx, StepBegin, func(ctx context.Context) error {
		hello, err := w.device.Hello(ctx, w.line.Suite)
		if err != nil {
			return err
		}
		begun, err = call(ctx, w.line.Client, provisioningrpc.AssemblyServiceClient.Begin, &provisioningrpc.BeginRequest{Hello: hello})
		if isCode(err, codePublication) {
			return &parking{step: StepBegin, after: afterOf(err), waits: waiting("", err)}
		}
		return err
	}); err != nil {
		return err
	}
	w.out.Generation = begun.GetGeneration()
	var accepted device.Accepted
	if err := w.step(ctx, StepAccept, func(ctx context.Context) (err error) {
		accepted, err = w.device.Accept(ctx, begun.GetPackage(), begun.GetUnlock())
		return err
	}); err != nil {
		return err
	}
	return w.step(ctx, StepConfirm, func(ctx context.Context) error {
		res, err := call(ctx, w.line.Client, provisioningrpc.AssemblyServiceClient.Confirm, &provisioningrpc.ConfirmRequest{
			RecordId: begun.GetRecordId(), Generation: begun.GetGeneration(), Backup: accepted.Backup, Mac: accepted.Confirm,
		})
		if err != nil {
			return err
		}
		certificate, backup, err := w.device.Stored(ctx)
		w.page = page{Record: w.device.Record(), Generation: begun.GetGeneration(), Certificate: certificate, Backup: backup, Challenge: res.GetChallenge()}
		return err
	})
}

// restore shows that the backup works before the device leaves: flash erased,
// every session of the device closed, restored, booted, proven to the SPP.
func (w *work) restore(ctx context.Context) error {
	if len(w.page.Challenge) != 32 {
		return fmt.Errorf("the SPP's challenge has %d bytes, 32 are expected", len(w.page.Challenge))
	}
	if err := w.recall(ctx); err != nil {
		return err
	}
	// From here on the flash may be empty: the journal holds the backup.
	if err := w.keep(); err != nil {
		return err
	}
	if err := w.device.Erase(ctx); err != nil {
		return err
	}
	// The device's power is cut: what it kept in memory and in sessions is gone.
	if err := w.device.Close(ctx); err != nil {
		return err
	}
	if err := w.power(ctx); err != nil {
		return err
	}
	d := w.device
	if err := d.Restore(ctx, w.page.Certificate, w.page.Backup); err != nil {
		return err
	}
	if _, err := d.Boot(ctx); err != nil {
		return err
	}
	mac, err := d.Restored(ctx, [32]byte(w.page.Challenge))
	if err != nil {
		return err
	}
	_, err = call(ctx, w.line.Client, provisioningrpc.AssemblyServiceClient.Restored, &provisioningrpc.RestoredRequest{RecordId: w.page.Record[:], Generation: w.page.Generation, Mac: mac})
	return err
}

// boot brings up a device that was restored before. Where its flash does not
// hold what was confirmed, it is restored once more.
func (w *work) boot(ctx context.Context) error {
	b, err := w.device.Boot(ctx)
	if err == nil && uint32(b.Generation) == w.page.Generation {
		return nil
	}
	if ctx.Err() != nil {
		return errors.Join(err, ctx.Err())
	}
	if err := w.ask(ctx, w.page.Record); err != nil {
		return err
	}
	if err := w.recall(ctx); err != nil {
		return err
	}
	if err := w.device.Restore(ctx, w.page.Certificate, w.page.Backup); err != nil {
		return err
	}
	w.note(ctx, "the flash had lost what was restored; it was restored again")
	_, err = w.device.Boot(ctx)
	return err
}

// lock is step 9: the device raises its floor, locks, and says so.
func (w *work) lock(ctx context.Context, published []byte) error {
	mac, err := w.device.Published(ctx, published)
	if err != nil {
		return err
	}
	_, err = call(ctx, w.line.Client, provisioningrpc.AssemblyServiceClient.Locked, &provisioningrpc.LockedRequest{RecordId: w.page.Record[:], Generation: w.page.Generation, Mac: mac})
	return err
}
