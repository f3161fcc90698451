package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/station"
)

type proveCmd struct {
	console.ConfigFile
	console.Output
	Devices []string `arg:"" name:"device" help:"Devices to check."`
}

// Run boots each device and has it answer a fresh challenge; the SPP derives
// the device's key again from master key and identity, and its HSM checks the
// answer.
func (c *proveCmd) Run(ctx context.Context, io console.IO) (err error) {
	w, err := openWorkplace(ctx, c.ConfigFile, io.Log)
	if err != nil {
		return err
	}
	defer closing(&err, w.close)
	t := console.NewTable(console.Columns("device", "identity", "generation", "result")...)
	var failed error
	for _, name := range c.Devices {
		id, generation, err := w.prove(ctx, name)
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("device %s: %w", name, err))
			t.Row(name, id, generation, err.Error())
			continue
		}
		t.Row(name, id, generation, "holds its keys")
	}
	return errors.Join(c.Print(io.Out, t), failed)
}

func (w *workplace) prove(ctx context.Context, name string) (id string, generation uint32, err error) {
	d, err := w.slots.Device(ctx, name)
	if err != nil {
		return "", 0, err
	}
	defer closing(&err, func() error { return d.Close(context.WithoutCancel(ctx)) })
	booted, err := d.Boot(ctx)
	if err != nil {
		return "", 0, err
	}
	record := d.Record()
	// A challenge is known to the SPP that gave it: where the station goes on
	// with another one in between, it asks for one there.
	for try := 1; ; try++ {
		challenge, err := w.client.Challenge(ctx, record[:])
		if err != nil {
			return "", 0, err
		}
		if len(challenge) != 32 {
			return "", 0, fmt.Errorf("the SPP's challenge has %d bytes, 32 are expected", len(challenge))
		}
		mac, err := d.Prove(ctx, [32]byte(challenge))
		if err != nil {
			return "", 0, err
		}
		generation, err = w.client.Prove(ctx, record[:], challenge, mac)
		var refused *station.RefusedError
		if try < proveTries && errors.As(err, &refused) && refused.Code == station.CodeChallenge {
			continue
		}
		return booted.Identity.String(), generation, err
	}
}

// proveTries bounds how often a device answers a new challenge.
const proveTries = 3
