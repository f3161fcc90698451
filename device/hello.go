package device

import (
	"context"
	"fmt"

	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/statement"
)

// Hello makes the device's first message on the line, with a fresh pair: for
// keypackage.SuiteAttested a statement signed by the attestation key, for
// SuiteUnattested the bare message. Accept takes an answer to the newest one
// only; the pair of the one before is destroyed here.
func (d *Device) Hello(ctx context.Context, suite keypackage.Suite) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.use(); err != nil {
		return nil, err
	}
	if !suite.Valid() {
		return nil, fmt.Errorf("say hello: %s is not known", suite)
	}
	rom, err := d.romKey(ctx)
	if err != nil {
		return nil, err
	}
	d.dropHello(ctx)
	exchange, err := d.chip.Exchange(ctx)
	if err != nil {
		return nil, fmt.Errorf("say hello: %w", err)
	}
	h := &hello{exchange: exchange, suite: suite}
	d.hello = h // from here on dropHello or Accept ends the pair's life
	h.message, err = keypackage.Hello{Realm: d.chip.Realm(), Suite: suite, ChipID: d.chip.ID(), ROMKey: rom.Hash(), Point: exchange.Point()}.Encode()
	if err != nil {
		d.dropHello(ctx)
		return nil, fmt.Errorf("say hello: %w", err)
	}
	if suite == keypackage.SuiteUnattested {
		return h.message, nil
	}
	signed, err := statement.Sign(ctx, d.chip.Attester(), statement.Attestation, h.message)
	if err != nil {
		d.dropHello(ctx)
		return nil, fmt.Errorf("say hello: %w", err)
	}
	return signed, nil
}

// dropHello destroys the pair of the pending hello, if there is one.
func (d *Device) dropHello(ctx context.Context) {
	if d.hello != nil {
		d.release(ctx, "hello", d.hello.exchange.Close)
		d.hello = nil
	}
}
