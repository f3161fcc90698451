package main

import (
	"context"
	"errors"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/device"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/registry"
)

type restoreCmd struct {
	deviceFlags
	Registry    string `name:"registry" placeholder:"URL" help:"Registry, or any mirror of it, to look the device's record up in."`
	Certificate string `name:"certificate" placeholder:"FILE" help:"Identity certificate, instead of a registry."`
	Backup      string `name:"backup" placeholder:"FILE" help:"Backup data package, instead of a registry."`
}

// restored is what restore prints.
type restored struct {
	Name   string            `json:"name"`
	Record identity.RecordID `json:"record"`
	From   string            `json:"from"`
	Flash  device.FlashState `json:"flash"`
}

func (*restoreCmd) Examples() string {
	return `$ device restore device-0001 --registry http://127.0.0.1:8080
$ device restore device-0001 --certificate certificate.cbor --backup backup.cbor`
}

func (c *restoreCmd) Run(ctx context.Context, io console.IO) error {
	files := c.Certificate != "" && c.Backup != ""
	if files == (c.Registry != "") || (c.Certificate == "") != (c.Backup == "") {
		return console.Usagef("name either a registry, or a certificate and a backup")
	}
	return c.with(ctx, io, func(d *device.Device) error {
		certificate, backup, err := c.fetch(ctx, d)
		if err != nil {
			return err
		}
		if err := d.Restore(ctx, certificate, backup); err != nil {
			return err
		}
		from := c.Registry
		if files {
			from = c.Backup
		}
		return c.Print(io.Out, restored{Name: c.Name, Record: d.Record(), From: from, Flash: device.FlashProvisioned})
	})
}

// fetch gets the record: from files, or from a registry.
func (c *restoreCmd) fetch(ctx context.Context, d *device.Device) (certificate, backup []byte, err error) {
	if c.Registry == "" {
		if certificate, err = readFile(c.Certificate, identity.MaxCertificate); err != nil {
			return nil, nil, err
		}
		backup, err = readFile(c.Backup, keypackage.MaxPackage)
		return certificate, backup, err
	}
	record, err := lookup(ctx, d, c.Registry)
	return record.Certificate, record.Backup, err
}

// lookup gets the device's own record, by its chip ID, of which the registry is told the record id only.
func lookup(ctx context.Context, d *device.Device, url string) (registry.Record, error) {
	client, err := registry.NewClient(url, nil, registry.ClientOptions{Realm: d.Realm()})
	if err != nil {
		return registry.Record{}, console.Usagef("%w", err)
	}
	rom, err := d.ROMKey(ctx)
	if err != nil {
		return registry.Record{}, err
	}
	chipID, err := d.ChipID(ctx)
	if err != nil {
		return registry.Record{}, err
	}
	record, _, err := client.Lookup(ctx, chipID, rom)
	if errors.Is(err, registry.ErrNotFound) {
		err = console.Hint(err, "ask another mirror; a device that was just made takes seconds to be seen")
	}
	return record, err
}
