package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/device"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/statement"
)

// What a station does with a device, one step at a time: for looking at a
// device's messages and refusals. A hello dies with the process that said it,
// so a package from elsewhere never gets further than being verified.

type romCmd struct {
	deviceFlags
	Key string `name:"key" required:"" placeholder:"FILE" help:"The manufacturer's public key, PEM."`
}

// maxPEM bounds a file with a public key, in bytes; it has 178.
const maxPEM = 4096

func (c *romCmd) Run(ctx context.Context, io console.IO) error {
	text, err := readFile(c.Key, maxPEM)
	if err != nil {
		return err
	}
	key, err := statement.ParsePEM(text)
	if err != nil {
		return console.Usagef("read %q: %w", c.Key, err)
	}
	return c.with(ctx, io, func(d *device.Device) error {
		if err := d.WriteROM(ctx, key); err != nil {
			return err
		}
		return c.Print(io.Out, struct {
			Name   string            `json:"name"`
			Record identity.RecordID `json:"record"`
			ROMKey string            `json:"rom_key"`
		}{c.Name, d.Record(), key.ID().String()})
	})
}

type helloCmd struct {
	deviceFlags
	Unattested bool   `name:"unattested" help:"Say it without the attestation key's signature."`
	Out        string `name:"out" required:"" placeholder:"FILE" help:"New file for the message. It holds the chip ID: keep it like the device's record."`
}

func (c *helloCmd) Run(ctx context.Context, io console.IO) error {
	suite := keypackage.SuiteAttested
	if c.Unattested {
		suite = keypackage.SuiteUnattested
	}
	return c.with(ctx, io, func(d *device.Device) error {
		message, err := d.Hello(ctx, suite)
		if err != nil {
			return err
		}
		if err := createFile(c.Out, message); err != nil {
			return err
		}
		return c.Print(io.Out, struct {
			Name   string            `json:"name"`
			Record identity.RecordID `json:"record"`
			Suite  string            `json:"suite"`
			Bytes  int               `json:"bytes"`
		}{c.Name, d.Record(), suite.String(), len(message)})
	})
}

type acceptCmd struct {
	deviceFlags
	Package string `name:"package" required:"" placeholder:"FILE" help:"The data package."`
	Unlock  string `name:"unlock" placeholder:"FILE" help:"An unlock statement, for a device that was shipped."`
	Out     string `name:"out" placeholder:"FILE" help:"New file for the backup data package, if the device takes it."`
}

func (c *acceptCmd) Run(ctx context.Context, io console.IO) error {
	pkg, err := readFile(c.Package, keypackage.MaxPackage)
	if err != nil {
		return err
	}
	var unlock []byte
	if c.Unlock != "" {
		if unlock, err = readFile(c.Unlock, identity.MaxCertificate); err != nil {
			return err
		}
	}
	return c.with(ctx, io, func(d *device.Device) error {
		a, err := d.Accept(ctx, pkg, unlock)
		if err != nil {
			return err
		}
		if c.Out != "" {
			if err := createFile(c.Out, a.Backup); err != nil {
				return err
			}
		}
		return c.Print(io.Out, struct {
			Name       string              `json:"name"`
			Record     identity.RecordID   `json:"record"`
			Generation identity.Generation `json:"generation"`
			Confirm    string              `json:"confirm"`
		}{c.Name, a.Record, a.Generation, hex.EncodeToString(a.Confirm)})
	})
}

// readFile reads a file of at most limit bytes. A longer one is read no
// further than shows that it is: the device says so.
func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, console.Usagef("%w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, console.Usagef("read %q: it is no regular file", path)
	}
	b := make([]byte, min(info.Size(), limit+1))
	n, err := f.ReadAt(b, 0)
	if n < len(b) && err != nil {
		return nil, fmt.Errorf("read %q: %w", path, err)
	}
	return b, nil
}

// createFile writes a new file of mode 0600; an existing one is left alone. A
// crash leaves a part of it, which no command takes for the whole.
func createFile(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return console.Usagef("write %q: it exists; nothing is overwritten", filepath.Clean(path))
	} else if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Close())
}
