package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/device"
	"github.com/devicekeys/devicekeys/device/chip"
	"github.com/devicekeys/devicekeys/device/slots"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/softhsm"
)

// benchFlags say which devices are meant.
type benchFlags struct {
	Devices string         `name:"devices" default:"devices" placeholder:"DIR" help:"Folder of the device slots (default devices)."`
	Realm   identity.Realm `name:"realm" default:"development" placeholder:"REALM" help:"Realm of the chips: development or production (default development)."`
	Module  string         `name:"module" placeholder:"FILE" help:"PKCS#11 module of the chips, configured in its own way. Left out: SoftHSM, its tokens in the folder."`
}

// bench is an opened folder of devices.
type bench struct {
	dir   string
	realm identity.Realm
	rack  *chip.Rack
}

// open loads the module. SoftHSM is told to keep its tokens in the folder, so
// that a bench is one folder and touches no other SoftHSM of the machine.
func (f benchFlags) open(ctx context.Context) (*bench, error) {
	dir, err := filepath.Abs(f.Devices)
	if err != nil {
		return nil, console.Usagef("folder of devices %q: %w", f.Devices, err)
	}
	module, lockFile := f.Module, filepath.Join(dir, "lock")
	if module == "" {
		if f.Realm == identity.Production {
			return nil, console.Usagef("chips for production are not made in SoftHSM: name their PKCS#11 module with --module")
		}
		d, err := softhsm.NewDirectory(dir)
		if err != nil {
			return nil, err
		}
		if err := d.Attach(); err != nil {
			return nil, err
		}
		module, lockFile = d.Module(), d.LockFile()
	}
	rack, err := chip.OpenRack(ctx, module, lockFile, f.Realm)
	if err != nil {
		return nil, err
	}
	return &bench{dir: dir, realm: f.Realm, rack: rack}, nil
}

func (b *bench) slots(ctx context.Context, log *slog.Logger) (*slots.Slots, error) {
	return slots.Open(ctx, b.dir, b.rack, slots.Options{Production: b.realm == identity.Production, Logger: log})
}

// deviceFlags say which device is meant and how its answer is shown.
type deviceFlags struct {
	benchFlags
	console.Output
	Name string `arg:"" help:"The device's name: device-0001."`
}

// with opens the device, does something with it, and closes it. A refusal is
// shown as JSON where that was asked for; it ends the program with code 3.
func (f deviceFlags) with(ctx context.Context, io console.IO, act func(*device.Device) error) (err error) {
	b, err := f.open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.rack.Close()) }()
	s, err := b.slots(ctx, io.Log)
	if err != nil {
		return err
	}
	d, err := s.Device(ctx, f.Name)
	if errors.Is(err, slots.ErrNoSlot) {
		return console.Usagef("%w", err)
	} else if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close(ctx)) }()
	return f.shown(io, d, act(d))
}

// refusal is a device's no as JSON.
type refusal struct {
	Record  identity.RecordID `json:"record"`
	Refused string            `json:"refused"` // the reason's code
	Message string            `json:"message"`
	Next    string            `json:"next"`
}

func (f deviceFlags) shown(io console.IO, d *device.Device, err error) error {
	var r *device.Refusal
	if !f.JSON || !errors.As(err, &r) {
		return err
	}
	out := refusal{Record: d.Record(), Refused: r.Refused(), Message: r.Error(), Next: r.Next()}
	if e := f.Print(io.Out, out); e != nil {
		return fmt.Errorf("%w (and showing it: %w)", err, e)
	}
	return err
}
