// Package device is the personal device of the design: a chip that keeps
// secrets, a flash memory that does not, and the code between them that takes
// a package on the line, encrypts it for the chip alone, and restores itself
// from the published backup years later with nobody's help.
//
// # One rule
//
// Nothing is encrypted that was not verified. The chip key makes whatever it
// encrypts believed at every later boot, so the order is fixed: certificate by
// the ROM key, chip ID, realm, manifest by the certificate, generation and
// lock, and only then the transfer; each key and secret against what the
// manifest says of it, one to one; and only then chip keys, backup, flash. A
// refusal leaves flash and chip as they were, byte for byte. One thing is used
// up by a package that was verified: the pair of the hello it answers.
//
// # The life of a device
//
//	WriteROM, LoadModules      step 2 of the line
//	Hello → Accept             steps 3 to 5: package in, backup out
//	Erase, Restore, Boot       step 6: the restore proof
//	Restored → Published       steps 6 and 9: lock and floor set in the chip
//	Boot, Prove                in the field, and Restore when flash fails
//
// Chip and flash are told apart on purpose: chip.Chip keeps keys and the
// one-way things (ROM key, lock, floor), flash.Image keeps what can be lost.
//
// # Refusals
//
// Whatever the device declines is a *[Refusal] with a stable code and the next
// step; any other error means that chip or flash failed, or the caller erred.
package device

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/devicekeys/devicekeys/device/chip"
	"github.com/devicekeys/devicekeys/device/flash"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/statement"
)

// Config is what a device is put together from.
type Config struct {
	Chip  chip.Chip    // required; the device's own from then on
	Flash *flash.Image // required; the device's own from then on
	// Production refuses software chips, SoftHSM and chips of the development
	// realm.
	Production bool
	Logger     *slog.Logger // nil: nothing is logged. Records are named by record id, never by chip ID.
}

// softHSM is how SoftHSM names its manufacturer: a chip for development.
const softHSM = "SoftHSM project"

// Device is one personal device. Its methods may be called from several
// goroutines and are carried out one after the other.
type Device struct {
	chip   chip.Chip
	flash  *flash.Image
	log    *slog.Logger
	record identity.RecordID

	mu     sync.Mutex          // held by every method that acts
	rom    statement.PublicKey // as read from the chip; write-once, so it is read once
	hello  *hello              // the newest hello that no package has used up
	booted *booted             // what runs; nil before Boot
	names  []string            // the entries this device was last seen with
	closed bool
}

// hello is what a device remembers of its first message.
type hello struct {
	exchange chip.Exchange
	suite    keypackage.Suite
	message  []byte // M1, without its attestation
}

// Open puts a device together. On error chip and flash stay the caller's.
func Open(_ context.Context, cfg Config) (*Device, error) {
	if cfg.Chip == nil || cfg.Flash == nil {
		return nil, fmt.Errorf("open device: a chip and a flash image are needed")
	}
	if cfg.Production {
		switch made := cfg.Chip.Describe(); {
		case made.Software:
			return nil, refuse(ReasonProduction, nil, "a software chip protects nothing")
		case made.Manufacturer == softHSM:
			return nil, refuse(ReasonProduction, nil, "the chip is a token of the %s", softHSM)
		case cfg.Chip.Realm() != identity.Production:
			return nil, refuse(ReasonProduction, nil, "the chip is of realm %s", cfg.Chip.Realm())
		}
	}
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	record := cfg.Chip.ID().RecordID()
	return &Device{chip: cfg.Chip, flash: cfg.Flash, log: log.With("record", record.Short()), record: record}, nil
}

// Close ends every session with the chip, and with it every session key, and
// gives the flash back. Repeating it does no harm.
func (d *Device) Close(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	d.stop(ctx)
	d.dropHello(ctx)
	// Closing must happen even where the caller's time is over: the chip's
	// sessions are a bounded resource of everyone.
	if err := errors.Join(d.chip.Close(context.WithoutCancel(ctx)), d.flash.Close()); err != nil {
		return fmt.Errorf("close device: %w", err)
	}
	return nil
}

// ChipID gives the chip ID, read from the chip when it was opened. Whoever has
// it can look up and open the device's registry entries.
func (d *Device) ChipID(context.Context) (identity.ChipID, error) { return d.chip.ID(), nil }

// Record gives the public name of the device's record.
func (d *Device) Record() identity.RecordID { return d.record }

// Realm gives the realm the chip was made for.
func (d *Device) Realm() identity.Realm { return d.chip.Realm() }

// WriteROM writes the manufacturer's public key into the ROM, once and for
// ever. The same key again is fine; another one is refused with
// ReasonROMKey. A crash leaves it written or not: repeat it.
func (d *Device) WriteROM(ctx context.Context, key statement.PublicKey) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.use(); err != nil {
		return err
	}
	if err := d.chip.WriteROMKey(ctx, key); errors.Is(err, chip.ErrWritten) {
		return refuse(ReasonROMKey, err, "its ROM has another manufacturer's key, and a ROM is written once")
	} else if err != nil {
		return fmt.Errorf("write ROM key: %w", err)
	}
	d.rom = key
	return nil
}

// ROMKey gives the key in ROM. A device without one refuses with ReasonROMKey.
func (d *Device) ROMKey(ctx context.Context) (statement.PublicKey, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.use(); err != nil {
		return statement.PublicKey{}, err
	}
	return d.romKey(ctx)
}

func (d *Device) romKey(ctx context.Context) (statement.PublicKey, error) {
	if !d.rom.IsZero() {
		return d.rom, nil
	}
	key, err := d.chip.ROMKey(ctx)
	if err != nil {
		return key, fmt.Errorf("read ROM key: %w", err)
	}
	if key.IsZero() {
		return key, refuse(ReasonROMKey, nil, "its ROM has no key yet: there is nothing to check a certificate with")
	}
	d.rom = key
	return key, nil
}

// Erase wipes flash's identity area and stops what runs. Modules stay; ROM
// key, lock and floor are in the chip and out of reach. A crash leaves the
// content, or nothing whole: erase again.
func (d *Device) Erase(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.use(); err != nil {
		return err
	}
	d.stop(ctx)
	if err := d.flash.Erase(); err != nil {
		return err
	}
	d.log.InfoContext(ctx, "flash erased")
	return nil
}

// errClosed answers calls after Close.
var errClosed = errors.New("device is closed")

func (d *Device) use() error {
	if d.closed {
		return errClosed
	}
	return nil
}

// release destroys session keys. Where that fails they die with the sessions,
// at Close; it is logged and fails nothing.
func (d *Device) release(ctx context.Context, what string, end func(context.Context) error) {
	if err := end(context.WithoutCancel(ctx)); err != nil {
		d.log.WarnContext(ctx, "session keys stay in the chip until it is closed", "of", what, "error", err)
	}
}
