package station

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/devicekeys/devicekeys/identity"
	provisioningrpc "github.com/devicekeys/devicekeys/provisioning/rpc"
)

// work is one device on its way through the line. It serves one hand at a time;
// between two of them, parked, it is switched off.
type work struct {
	line   *Line
	queue  *queue
	open   func(context.Context) (Device, error)
	device Device // nil while it is switched off
	out    *Outcome
	status *provisioningrpc.StatusResponse // what the SPP last said of it; nil for a device that was never begun
	page   page                            // Record and Generation from "confirmed" on; the rest once it was needed
	loaded bool                            // modules and ROM key are in it
	kept   bool                            // its page is in the journal

	parked    Step      // "" or the step at which it waits for the registry
	waits     error     // why, for its outcome
	notBefore time.Time // parked before an identity: when to ask again
}

// run takes the device as far as it gets. Every step may be repeated, so a
// device that an earlier run left half way is simply taken again: the SPP says
// how far it is, and journal, flash or SPP have what is needed to go on. One
// that was parked in this run first asks for its publication, switched off.
func (w *work) run(ctx context.Context) error {
	var mac []byte
	if w.published() {
		if err := w.step(ctx, StepPublish, func(ctx context.Context) (err error) { mac, err = w.publish(ctx); return err }); err != nil {
			return err
		}
	}
	if err := w.step(ctx, StepLoad, w.power); err != nil {
		return err
	}
	record := w.device.Record()
	if id := record.String(); id != w.out.Record {
		w.loaded, w.kept, w.out.Record = false, false, id // another board than before may be in the fixture
	}
	if mac == nil {
		if err := w.ask(ctx, record); err != nil {
			return w.fail(ctx, StepBegin, err)
		}
	} else if record != w.page.Record {
		return w.fail(ctx, StepLoad, errors.New("another device is in the fixture than before: put one device in one fixture and run the station again"))
	}
	state := w.status.GetState()
	if state == "shipped" && !w.line.Again {
		w.out.Shipped, w.out.Resumed = true, true
		return w.drop(ctx, record)
	}
	if err := w.step(ctx, StepLoad, w.load); err != nil {
		return err
	}
	if state == "confirmed" || state == "restored" || state == "published" {
		w.page.Record, w.page.Generation, w.page.Challenge = record, w.status.GetGeneration(), w.status.GetChallenge()
		w.out.Generation = w.page.Generation
		w.out.Resumed = w.out.Resumed || mac == nil
	} else {
		if err := w.provision(ctx); err != nil {
			return err
		}
		state = "confirmed"
	}
	if state == "confirmed" {
		if err := w.step(ctx, StepRestore, w.restore); err != nil {
			return err
		}
		w.status = &provisioningrpc.StatusResponse{State: "restored", Generation: w.page.Generation, Challenge: w.page.Challenge}
	} else if err := w.boot(ctx); err != nil {
		return w.fail(ctx, StepRestore, err)
	}
	if mac == nil {
		if err := w.step(ctx, StepPublish, func(ctx context.Context) (err error) { mac, err = w.publish(ctx); return err }); err != nil {
			return err
		}
	}
	if err := w.step(ctx, StepLock, func(ctx context.Context) error { return w.lock(ctx, mac) }); err != nil {
		return err
	}
	w.out.Shipped = true
	return w.drop(ctx, record)
}

// ask asks the SPP how far the device is.
func (w *work) ask(ctx context.Context, record identity.RecordID) error {
	status, err := w.line.Client.Status(ctx, record[:])
	if isCode(err, codeUnknownDevice) {
		w.status = nil
		return nil
	}
	w.status = status
	w.out.Generation = status.GetGeneration()
	return err
}

// power switches the device on.
func (w *work) power(ctx context.Context) error {
	d, err := w.open(ctx)
	if err != nil {
		return err
	}
	w.device = d
	return nil
}

// close switches the device off, also where the hand's time is over.
func (w *work) close(ctx context.Context) error {
	if w.device == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	err := w.device.Close(ctx)
	w.device = nil
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
	return &StepError{Device: w.out.Device, Step: s, Err: err}
}

// note keeps what was not as it should be and was overcome.
func (w *work) note(ctx context.Context, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	w.out.Notes = append(w.out.Notes, text)
	if w.line.Logger != nil {
		w.line.Logger.WarnContext(ctx, "device goes on in spite of trouble", "device", w.out.Device, "record", w.out.Record, "trouble", text)
	}
}
