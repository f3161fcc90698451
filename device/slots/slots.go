// Package slots is a bench of development devices in a folder: each device a
// PKCS#11 token for its chip and a flash image, made by the hundred and opened
// again by name. It stands in for the chip maker and for the boards on a line.
//
//	DIR/slots/device-0001/pin         user PIN of the chip's token, mode 0400
//	DIR/slots/device-0001/so-pin      only while the chip is being made
//	DIR/slots/device-0001/flash.img   the flash image
//	DIR/slots/device-0001/slot.json   written last: the slot is complete
//	DIR/chip-maker/pin                of the token dev-chip-maker
//	DIR/chip-maker/token              its label; written last
//	DIR/chip-maker/public.pem         the key that delivery lists are checked with
//	DIR/chip-maker/delivery-0001.cbor a signed delivery list; one for each Create that made chips
//
// The tokens themselves are wherever the module keeps them; for SoftHSM the
// caller points it at a directory inside DIR. Chip and PIN lie side by side
// here: whoever reads the folder has the devices. It is a bench, not a safe.
//
// Every step of making a slot is repeatable, and slot.json comes last, so a
// Create that was killed is finished by the next one (Report.Finished). What
// cannot be finished is left alone and named.
package slots

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"github.com/devicekeys/devicekeys/device"
	"github.com/devicekeys/devicekeys/device/chip"
	"github.com/devicekeys/devicekeys/device/flash"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/secret"
	"github.com/devicekeys/devicekeys/statement"
)

const (
	slotsFolder = "slots"
	makerFolder = "chip-maker"
	makerToken  = "chip-maker" // after the realm's prefix
	pinFile     = "pin"
	soPINFile   = "so-pin"
	flashFile   = "flash.img"
	slotFile    = "slot.json"
	tokenFile   = "token"
	publicFile  = "public.pem"
)

// Slot is what a slot's file says: nothing secret.
type Slot struct {
	Name        string              `json:"name"`          // "device-0001"
	Token       string              `json:"token"`         // the token's label, "dev-device-0001"
	Realm       identity.Realm      `json:"realm"`         // the chip's
	Record      identity.RecordID   `json:"record"`        // the device's public name
	ChipIDBytes int                 `json:"chip_id_bytes"` // 16, 24 or 32
	Attestation statement.PublicKey `json:"-"`
	Point       []byte              `json:"attestation"` // the attestation key's point
}

// Options say how devices are opened.
type Options struct {
	Production bool
	Logger     *slog.Logger // nil: devices log nothing
}

// Slots is a bench that was opened. Safe for concurrent use.
type Slots struct {
	dir  string
	rack *chip.Rack
	opts Options
	all  map[string]Slot
}

// ErrNoSlot says that no complete slot of that name is there.
var ErrNoSlot = errors.New("no such device slot")

// Open reads the complete slots of a folder. The rack stays the caller's and
// must live as long as the devices.
func Open(ctx context.Context, dir string, rack *chip.Rack, o Options) (*Slots, error) {
	s := &Slots{dir: dir, rack: rack, opts: o, all: map[string]Slot{}}
	names, err := folders(filepath.Join(dir, slotsFolder))
	if err != nil {
		return nil, fmt.Errorf("open device slots: %w", err)
	}
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		slot, err := readSlot(filepath.Join(dir, slotsFolder, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // half made; Create finishes it
		} else if err != nil {
			return nil, err
		}
		s.all[name] = slot
	}
	return s, nil
}

// Names lists the complete slots in order.
func (s *Slots) Names() []string {
	var names []string
	for n := range s.all {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// Slot tells what is known of a slot without opening it. Its error matches
// ErrNoSlot.
func (s *Slots) Slot(name string) (Slot, error) {
	slot, ok := s.all[name]
	if !ok {
		return Slot{}, fmt.Errorf("%w: %q in %q: \"device slots\" lists them, \"device create\" makes them", ErrNoSlot, name, s.dir)
	}
	return slot, nil
}

// Device opens a device: its chip with the PIN from the slot's file, and its
// flash, which no other process may have open. The caller closes it.
func (s *Slots) Device(ctx context.Context, name string) (*device.Device, error) {
	slot, err := s.Slot(name)
	if err != nil {
		return nil, err
	}
	folder := filepath.Join(s.dir, slotsFolder, name)
	pin, err := secret.ReadFile(filepath.Join(folder, pinFile))
	if err != nil {
		return nil, fmt.Errorf("open device %q: %w", name, err)
	}
	f, err := flash.Open(filepath.Join(folder, flashFile))
	if err != nil {
		return nil, fmt.Errorf("open device %q: %w", name, err)
	}
	c, err := s.rack.Open(ctx, slot.Token, pin)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open device %q: %w", name, err), f.Close())
	}
	if c.ID().RecordID() != slot.Record {
		err := fmt.Errorf("open device %q: the chip in token %q is not the one that was made for it", name, slot.Token)
		return nil, errors.Join(err, c.Close(ctx), f.Close())
	}
	d, err := device.Open(ctx, device.Config{Chip: c, Flash: f, Production: s.opts.Production, Logger: s.opts.Logger})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open device %q: %w", name, err), c.Close(ctx), f.Close())
	}
	return d, nil
}

// FlashState tells what a device's flash holds, as far as that shows without
// its chip: empty, torn, or "whole".
func (s *Slots) FlashState(name string) (string, error) {
	if _, err := s.Slot(name); err != nil {
		return "", err
	}
	f, err := flash.Open(filepath.Join(s.dir, slotsFolder, name, flashFile))
	if errors.Is(err, flash.ErrInUse) {
		return "in use", nil
	} else if err != nil {
		return "", err
	}
	_, err = f.Identity()
	if err := f.Close(); err != nil {
		return "", err
	}
	switch {
	case errors.Is(err, flash.ErrEmpty):
		return "empty", nil
	case errors.Is(err, flash.ErrTorn):
		return "torn", nil
	case err != nil:
		return "", err
	}
	return "whole", nil
}

// maxSlotFile bounds a slot's file, in bytes; it has about 400.
const maxSlotFile = 4096

func readSlot(folder string) (Slot, error) {
	path := filepath.Join(folder, slotFile)
	info, err := os.Stat(path)
	if err != nil {
		return Slot{}, err
	}
	if info.Size() > maxSlotFile {
		return Slot{}, fmt.Errorf("read device slot %q: %d bytes, at most %d are read", path, info.Size(), maxSlotFile)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return Slot{}, err
	}
	s, err := parseSlot(b)
	if err == nil && s.Name != filepath.Base(folder) {
		err = fmt.Errorf("it says it is slot %q: was a folder renamed or copied?", s.Name)
	}
	if err != nil {
		return Slot{}, fmt.Errorf("read device slot %q: %w", path, err)
	}
	return s, nil
}

func parseSlot(b []byte) (Slot, error) {
	var s Slot
	if err := json.Unmarshal(b, &s); err != nil {
		return s, err
	}
	key, err := statement.ParsePoint(s.Point)
	if err != nil {
		return s, err
	}
	if s.Token == "" || !s.Realm.Valid() || s.Record == (identity.RecordID{}) {
		return s, fmt.Errorf("token, realm or record is missing")
	}
	s.Attestation = key
	return s, nil
}

// folders lists the folders in path, none where path is not there.
func folders(path string) ([]string, error) {
	entries, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, err
}
