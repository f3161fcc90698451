package station

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/devicekeys/devicekeys/identity"
	provisioningrpc "github.com/devicekeys/devicekeys/provisioning/rpc"
)

// parking says that the device has to wait for the registry, and at which step.
// It is never an outcome's error: waits is.
type parking struct {
	step  Step
	after time.Duration
	waits error
}

func (p *parking) Error() string { return p.waits.Error() }

// published tells whether the device was parked for its publication.
func (w *work) published() bool { return w.waits != nil && w.page.Record != identity.RecordID{} }

// publish asks for the message that locks the device, or parks the device.
func (w *work) publish(ctx context.Context) ([]byte, error) {
	if !w.queue.registry.ask(time.Now()) {
		return nil, w.parkPublish(ctx, nil)
	}
	res, err := call(ctx, w.line.Client, provisioningrpc.AssemblyServiceClient.Publish, &provisioningrpc.PublishRequest{RecordId: w.page.Record[:], Generation: w.page.Generation})
	w.queue.published(time.Now(), err)
	if isCode(err, codePublication) {
		return nil, w.parkPublish(ctx, err)
	}
	if err != nil {
		return nil, err
	}
	if len(res.GetMac()) == 0 {
		return nil, errors.New("the SPP's message that the record is published is empty")
	}
	w.out.Sequence = res.GetSequence()
	return res.GetMac(), nil
}

// parkPublish parks the device until the registry has its entry. Its page is
// in the journal, also where it was resumed without one: the journal names what
// waits, and where the backup is.
func (w *work) parkPublish(ctx context.Context, said error) error {
	p := &parking{step: StepPublish, after: afterOf(said), waits: waiting("restored", said)}
	if said == nil && w.waits != nil {
		p.waits = w.waits // what the SPP said when it was asked
	}
	if w.device == nil || w.kept {
		return p
	}
	err := w.recall(ctx)
	if err == nil {
		err = w.keep()
	}
	if err != nil {
		w.note(ctx, "the journal has no page of it: %v", err) // the SPP has all that it needs
	}
	return p
}

// waiting is the error of a device that waits for the registry.
func waiting(done string, said error) error {
	err := error(&undecided{kind: ErrParked, next: "run the station again once the registry is back: the device is safe and goes on where it is"})
	if done != "" {
		err = fmt.Errorf("%s, %w", done, err)
	}
	if said != nil {
		err = fmt.Errorf("%w; the SPP says: %v", err, said) // said is no refusal of the device's
	}
	return err
}

// park puts the device by.
func (w *work) park(ctx context.Context, p *parking) {
	if w.waits == nil && w.line.Logger != nil {
		w.line.Logger.InfoContext(ctx, "device waits for the registry", "device", w.out.Device, "record", w.out.Record, "step", p.step)
	}
	w.parked, w.waits, w.notBefore = p.step, p.waits, time.Now().Add(max(jitter(outageFirst), p.after))
	// Thousands may wait: certificate and backup are read again where they are
	// needed.
	w.page.Certificate, w.page.Backup = nil, nil
	w.status = &provisioningrpc.StatusResponse{State: w.status.GetState(), Generation: w.status.GetGeneration(), Challenge: w.status.GetChallenge()}
}
