package device

import (
	"context"
	"errors"
	"fmt"

	"github.com/devicekeys/devicekeys/device/flash"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
)

// FlashState says what a device's flash holds.
type FlashState string

// The states of flash. Provisioned means that certificate and manifest verify;
// whether the keys open is for Boot to say.
const (
	FlashEmpty       FlashState = "empty"
	FlashTorn        FlashState = "torn"        // nothing whole
	FlashProvisioned FlashState = "provisioned" // this device's own
	FlashForeign     FlashState = "foreign"     // whole, but refused: see Status.Problem
)

// Status is what a device tells about itself without starting.
type Status struct {
	Record     identity.RecordID
	Realm      identity.Realm
	Chip       string // what the chip is made of
	Locked     bool
	Floor      identity.Generation
	ROMKey     string // key id; "" before it was written
	Modules    []ModuleInfo
	Flash      FlashState
	Identity   string              // as printed on the box; "" unless provisioned
	Generation identity.Generation // 0 unless provisioned
	Keys       []string            // the manifest's entries, by key id; nil unless provisioned
	Lacks      []string            // what is missing before the device can run
	Problem    string              // why flash is foreign; else ""
	Running    bool                // booted
}

// Status reads chip and flash and starts nothing.
func (d *Device) Status(ctx context.Context) (Status, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.use(); err != nil {
		return Status{}, err
	}
	fuses, err := d.chip.Fuses(ctx)
	if err != nil {
		return Status{}, fmt.Errorf("read lock and generation floor: %w", err)
	}
	s := Status{Record: d.record, Realm: d.chip.Realm(), Chip: d.chip.Describe().Manufacturer, Locked: fuses.Locked, Floor: fuses.Floor, Running: d.booted != nil}
	rom, err := d.romKey(ctx)
	var refusal *Refusal
	switch {
	case errors.As(err, &refusal):
		s.Lacks = append(s.Lacks, "ROM key")
	case err != nil:
		return Status{}, err
	default:
		s.ROMKey = rom.ID().String()
	}
	if s.Modules, err = d.modules(); err != nil {
		return Status{}, err
	}
	if len(s.Modules) == 0 {
		s.Lacks = append(s.Lacks, "software modules")
	}
	content, err := d.flash.Identity()
	switch {
	case errors.Is(err, flash.ErrEmpty):
		s.Flash = FlashEmpty
	case errors.Is(err, flash.ErrTorn):
		s.Flash = FlashTorn
	case err != nil:
		return Status{}, err
	default:
		v, err := d.inFlash(ctx, content)
		if err != nil {
			s.Flash, s.Problem = FlashForeign, err.Error()
			break
		}
		s.Flash, s.Identity, s.Generation = FlashProvisioned, v.manifest.Identity.String(), v.manifest.Generation
		for _, e := range v.manifest.Entries {
			s.Keys = append(s.Keys, e.Key.String())
		}
	}
	if s.Flash != FlashProvisioned {
		s.Lacks = append(s.Lacks, d.lacks()...)
	}
	return s, nil
}

// inFlash verifies certificate and manifest of flash's content.
func (d *Device) inFlash(ctx context.Context, content []byte) (vouched, error) {
	s, err := parseStored(content)
	if err != nil {
		return vouched{}, err
	}
	rom, err := d.romKey(ctx)
	if err != nil {
		return vouched{}, err
	}
	p, err := keypackage.ParseBackup(s.Backup)
	if err != nil {
		return vouched{}, err
	}
	v, err := d.verify(rom, s.Certificate, p.Manifest)
	if err != nil {
		return vouched{}, err
	}
	return v, d.mayRun(ctx, v.certificate)
}
