package station

import (
	"context"
	"errors"
	"fmt"
	"time"

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

// work is one device on its way through the line.
type work struct {
	line   *Line
	name   string
	open   func(context.Context) (Device, error)
	device Device
	out    Outcome
	page   page
}

// run takes the device as far as it gets. Every step may be repeated, so a
// device that an earlier run left half way is simply taken again: the SPP says
// how far it is, and the journal has what the flash may have lost.
func (w *work) run(ctx context.Context) error {
	if err := w.step(ctx, StepLoad, w.power); err != nil {
		return err
	}
	record := w.device.Record()
	w.out.Record = record.String()
	state, err := w.resume(ctx, record)
	if err != nil {
		return w.fail(ctx, StepBegin, err)
	}
	if state == "shipped" && !w.line.Again {
		w.out.Shipped, w.out.Resumed = true, true
		return w.line.Journal.remove(record)
	}
	if err := w.step(ctx, StepLoad, w.load); err != nil {
		return err
	}
	if state != "confirmed" && state != "restored" && state != "published" {
		if err := w.provision(ctx); err != nil {
			return err
		}
		state = "confirmed"
	}
	if state == "confirmed" {
		if err := w.step(ctx, StepRestore, w.restore); err != nil {
			return err
		}
	} else if err := w.boot(ctx); err != nil {
		return w.fail(ctx, StepRestore, err)
	}
	var mac []byte
	if err := w.step(ctx, StepPublish, func(ctx context.Context) error {
		res, err := call(ctx, w.line.Client, w.line.Client.rpc.Publish, &provisioningrpc.PublishRequest{RecordId: w.page.Record[:], Generation: w.page.Generation})
		if err != nil {
			return err
		}
		mac, w.out.Sequence = res.GetMac(), res.GetSequence()
		return nil
	}); err != nil {
		return err
	}
	if err := w.step(ctx, StepLock, func(ctx context.Context) error { return w.lock(ctx, mac) }); err != nil {
		return err
	}
	w.out.Shipped = true
	return w.line.Journal.remove(record)
}

// resume asks how far the device is and finds what is needed to go on.
func (w *work) resume(ctx context.Context, record identity.RecordID) (state string, err error) {
	status, err := call(ctx, w.line.Client, w.line.Client.rpc.Status, &provisioningrpc.StatusRequest{RecordId: record[:]})
	var r *RefusedError
	if errors.As(err, &r) && r.Code == unknownDevice {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	state = status.GetState()
	switch state {
	case "shipped":
		w.out.Generation = status.GetGeneration()
	case "confirmed", "restored", "published":
		w.out.Resumed, w.out.Generation = true, status.GetGeneration()
		p, ok, err := w.line.Journal.read(record)
		if err != nil {
			return "", err
		}
		if ok && p.Generation == status.GetGeneration() {
			p.Challenge = status.GetChallenge()
			w.page = p
			return state, nil
		}
		// The station died between the SPP's answer and the journal: the flash
		// was not erased yet, so the device still has everything.
		certificate, backup, err := w.device.Stored(ctx)
		if err != nil {
			return "", fmt.Errorf("the SPP has the device as %s, but neither the journal nor the flash has its backup: %w", state, err)
		}
		w.page = page{Record: record, Generation: status.GetGeneration(), Certificate: certificate, Backup: backup, Challenge: status.GetChallenge()}
	}
	return state, nil
}

// unknownDevice is the SPP's code for a device that was never begun.
const unknownDevice = "unknown-device"

// power switches the device on.
func (w *work) power(ctx context.Context) error {
	d, err := w.open(ctx)
	if err != nil {
		return err
	}
	w.device = d
	return nil
}

// load brings modules and ROM key into the device: the patent's step 2.
func (w *work) load(ctx context.Context) error {
	if err := w.device.WriteROM(ctx, w.line.rom); err != nil {
		return err
	}
	return w.device.LoadModules(ctx, w.line.modules)
}

// provision is steps 3 to 6: hello, package, backup.
func (w *work) provision(ctx context.Context) error {
	var begun *provisioningrpc.BeginResponse
	if err := w.step(ctx, StepBegin, func(ctx context.Context) error {
		hello, err := w.device.Hello(ctx, w.line.Suite)
		if err != nil {
			return err
		}
		begun, err = call(ctx, w.line.Client, w.line.Client.rpc.Begin, &provisioningrpc.BeginRequest{Hello: hello})
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
		res, err := call(ctx, w.line.Client, w.line.Client.rpc.Confirm, &provisioningrpc.ConfirmRequest{
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
	// From here on the flash may be empty: the journal holds the backup.
	if err := w.line.Journal.write(w.page); err != nil {
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
	_, err = call(ctx, w.line.Client, w.line.Client.rpc.Restored, &provisioningrpc.RestoredRequest{RecordId: w.page.Record[:], Generation: w.page.Generation, Mac: mac})
	return err
}

// boot brings up a device that was restored by an earlier run.
func (w *work) boot(ctx context.Context) error {
	if _, err := w.device.Boot(ctx); err == nil {
		return nil
	}
	if err := w.device.Restore(ctx, w.page.Certificate, w.page.Backup); err != nil {
		return err
	}
	_, err := w.device.Boot(ctx)
	return err
}

// lock is step 9: the device raises its floor, locks, and says so.
func (w *work) lock(ctx context.Context, published []byte) error {
	mac, err := w.device.Published(ctx, published)
	if err != nil {
		return err
	}
	_, err = call(ctx, w.line.Client, w.line.Client.rpc.Locked, &provisioningrpc.LockedRequest{RecordId: w.page.Record[:], Generation: w.page.Generation, Mac: mac})
	return err
}

func (w *work) step(ctx context.Context, s Step, f func(context.Context) error) error {
	start := time.Now()
	if err := f(ctx); err != nil {
		return w.fail(ctx, s, err)
	}
	w.out.Took[s] += time.Since(start)
	return nil
}

// fail names device and step; what failed because the station stops says so.
func (w *work) fail(ctx context.Context, s Step, err error) error {
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		err = context.Cause(ctx)
	}
	return &StepError{Device: w.name, Step: s, Err: err}
}
