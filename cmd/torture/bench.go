package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/devicekeys/devicekeys/device"
	"github.com/devicekeys/devicekeys/device/chip"
	"github.com/devicekeys/devicekeys/device/flash"
	"github.com/devicekeys/devicekeys/device/slots"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/softhsm"
)

// bench opens the devices in a station's fixtures, one process a device at a time.
type bench interface {
	device(ctx context.Context, name string) (*device.Device, error)
	close() error
}

// softwareBench is devices with software chips in a folder: for each a file with its chip
// and a flash image. They cost a twentieth of token chips, and protect nothing.
type softwareBench struct{ dir string }

const (
	chipSuffix  = ".chip"
	flashSuffix = ".flash"
)

func (b softwareBench) path(name, suffix string) string {
	return filepath.Join(b.dir, "software", name+suffix)
}

func (b softwareBench) device(ctx context.Context, name string) (*device.Device, error) {
	// The flash first: it is locked, so that no other process has the chip either.
	f, err := openFlash(b.path(name, flashSuffix))
	if err != nil {
		return nil, fmt.Errorf("open device %q: %w", name, err)
	}
	c, err := chip.OpenSoftware(b.path(name, chipSuffix))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open device %q: %w", name, err), f.Close())
	}
	d, err := device.Open(ctx, device.Config{Chip: c, Flash: f})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open device %q: %w", name, err), f.Close())
	}
	return d, nil
}

func (softwareBench) close() error { return nil }

// unsynced is a flash image in a file that is never synced. A kill of the process loses
// nothing of it, and the machine's power is not among the faults.
type unsynced struct{ *os.File }

func (unsynced) Sync() error { return nil }

func openFlash(path string) (*flash.Image, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	// The lock ends with the descriptor, so a killed process leaves none.
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("flash image: %w: %w", flash.ErrInUse, err), f.Close())
	}
	return flash.On(unsynced{f})
}

// makeFlash makes an empty image; an existing one is never overwritten.
func makeFlash(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(flash.Format(unsynced{f}), f.Close())
}

// tokenBench is devices whose chips are tokens. A process has one such bench at a time.
type tokenBench struct {
	directory *softhsm.Directory
	rack      *chip.Rack
	slots     *slots.Slots
}

func openTokenBench(ctx context.Context, dir string, directory *softhsm.Directory) (_ *tokenBench, err error) {
	if err := directory.Attach(); err != nil {
		return nil, err
	}
	b := &tokenBench{directory: directory}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	if b.rack, err = chip.OpenRack(ctx, directory.Module(), directory.LockFile(), identity.Development); err != nil {
		return nil, err
	}
	b.slots, err = slots.Open(ctx, dir, b.rack, slots.Options{})
	return b, err
}

func (b *tokenBench) device(ctx context.Context, name string) (*device.Device, error) {
	return b.slots.Device(ctx, name)
}

func (b *tokenBench) close() error {
	var err error
	if b.rack != nil {
		err = b.rack.Close()
	}
	return errors.Join(err, b.directory.Detach())
}
