package device

import (
	"context"
	"errors"
	"fmt"

	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/statement"
)

// Restored answers the SPP's challenge after the device was restored and
// booted: the proof that this backup brings this device back
// (keypackage.RestoredMessage). See Accepted.Confirm for its form.
func (d *Device) Restored(ctx context.Context, challenge [32]byte) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	b, err := d.running()
	if err != nil {
		return nil, err
	}
	return d.answer(ctx, keypackage.RestoredMessage(b.claims, b.backup, challenge))
}

// Prove answers anybody's challenge with the proving key: the device is alive
// and has its keys (keypackage.AliveMessage). See Accepted.Confirm for its form.
func (d *Device) Prove(ctx context.Context, challenge [32]byte) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	b, err := d.running()
	if err != nil {
		return nil, err
	}
	return d.answer(ctx, keypackage.AliveMessage(b.claims, challenge))
}

// Published takes the SPP's word that the device's record is published, a MAC
// under the device's own key (keypackage.PublishedMessage) that is verified
// inside the chip: only the SPP, or the device itself, can make one. It raises
// the generation floor, locks the chip, and answers with a MAC over
// keypackage.LockedMessage. The same message again gives the same answer.
//
// The floor is raised before the lock is set: a crash between leaves a device
// that takes nothing old and is not locked yet, and the message sent again
// finishes it.
//
// A line with key pairs only has no key for this message; there it is refused
// with ReasonAlgorithm.
func (d *Device) Published(ctx context.Context, mac []byte) (locked []byte, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	b, err := d.running()
	if err != nil {
		return nil, err
	}
	i, ok := b.manifest.Proving()
	if !ok {
		return nil, refuse(ReasonAlgorithm, nil, "it has key pairs only, and no symmetric key to check the message with")
	}
	if err := b.keys[i].Verify(ctx, keypackage.PublishedMessage(b.claims), mac); errors.Is(err, statement.ErrSignature) {
		return nil, refuse(ReasonPublished, err, "the message that the record is published does not verify")
	} else if err != nil {
		return nil, fmt.Errorf("verify that the record is published: %w", err)
	}
	if err := d.chip.RaiseFloor(ctx, b.certificate.Generation); err != nil {
		return nil, fmt.Errorf("raise generation floor: %w", err)
	}
	if err := d.chip.Lock(ctx); err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	d.log.InfoContext(ctx, "device locked", "floor", b.certificate.Generation)
	return d.answer(ctx, keypackage.LockedMessage(b.claims))
}

func (d *Device) running() (*booted, error) {
	if err := d.use(); err != nil {
		return nil, err
	}
	if d.booted == nil {
		return nil, refuse(ReasonNotBooted, nil, "nothing runs that could answer")
	}
	return d.booted, nil
}

func (d *Device) answer(ctx context.Context, message []byte) ([]byte, error) {
	proof, err := prove(ctx, d.booted.manifest, d.booted.keys, message)
	if err != nil {
		return nil, fmt.Errorf("answer with the proving key: %w", err)
	}
	return proof, nil
}
