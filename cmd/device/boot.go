package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/device"
	"github.com/devicekeys/devicekeys/identity"
)

type bootCmd struct{ deviceFlags }

// booted is what boot prints.
type booted struct {
	Name       string              `json:"name"`
	Record     identity.RecordID   `json:"record"`
	Type       identity.Type       `json:"identity_type"`
	Identity   string              `json:"identity"`
	Generation identity.Generation `json:"generation"`
	Keys       []string            `json:"keys"`
}

func bootedOf(name string, b *device.Booted) booted {
	out := booted{Name: name, Record: b.Record, Type: b.Identity.Type(), Identity: b.Identity.String(), Generation: b.Generation}
	for _, e := range b.Entries {
		out.Keys = append(out.Keys, e.Key.String())
	}
	return out
}

func (c *bootCmd) Run(ctx context.Context, io console.IO) error {
	return c.with(ctx, io, func(d *device.Device) error {
		b, err := d.Boot(ctx)
		if err != nil {
			return err
		}
		return c.Print(io.Out, bootedOf(c.Name, b))
	})
}

type proveCmd struct {
	deviceFlags
	Challenge string `name:"challenge" placeholder:"HEX" help:"32 bytes in hexadecimal, from whoever wants the proof. Left out: drawn here."`
}

// proof is what prove prints: whoever has the device's key checks it.
type proof struct {
	booted
	Challenge string `json:"challenge"`
	Proof     string `json:"proof"`
}

func (c *proveCmd) Run(ctx context.Context, io console.IO) error {
	var challenge [32]byte
	if c.Challenge == "" {
		rand.Read(challenge[:]) // never fails: see crypto/rand
	} else if b, err := hex.DecodeString(c.Challenge); err != nil || len(b) != len(challenge) {
		return console.Usagef("challenge: 64 hexadecimal digits are expected")
	} else {
		challenge = [32]byte(b)
	}
	return c.with(ctx, io, func(d *device.Device) error {
		b, err := d.Boot(ctx)
		if err != nil {
			return err
		}
		p, err := d.Prove(ctx, challenge)
		if err != nil {
			return err
		}
		out := proof{booted: bootedOf(c.Name, b), Challenge: hex.EncodeToString(challenge[:]), Proof: hex.EncodeToString(p)}
		if c.JSON {
			return c.Print(io.Out, out)
		}
		if err := c.Print(io.Out, out.booted); err != nil {
			return err
		}
		_, err = fmt.Fprintf(io.Out, "challenge      %s\nproof          %s\n", out.Challenge, out.Proof)
		return err
	})
}

type wipeCmd struct{ deviceFlags }

// wiped is what wipe prints.
type wiped struct {
	Name   string            `json:"name"`
	Record identity.RecordID `json:"record"`
	Flash  device.FlashState `json:"flash"`
}

func (c *wipeCmd) Run(ctx context.Context, io console.IO) error {
	return c.with(ctx, io, func(d *device.Device) error {
		if err := d.Erase(ctx); err != nil {
			return err
		}
		return c.Print(io.Out, wiped{Name: c.Name, Record: d.Record(), Flash: device.FlashEmpty})
	})
}
