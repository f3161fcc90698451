package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/device"
	"github.com/devicekeys/devicekeys/device/chip/chiptest"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/registry"
)

// line is a manufacturer in one process: it takes a device through the steps
// of the line, twice (a second package with an unlock statement), and leaves
// what the outside world would have of it.
type line struct {
	Ship  shipCmd  `cmd:"" help:"Take a device through the line."`
	Check checkCmd `cmd:"" help:"Check a device's proof."`
}

func mainLine() { console.Main("line", "A manufacturer, for tests.", &line{}) }

type shipCmd struct {
	benchFlags
	console.Output
	Registry string   `arg:"" help:"Folder of registry entries."`
	Devices  []string `arg:"" name:"names" help:"Devices; each gets a folder of its name for what is left of it."`
	spp      *chiptest.SPP
	t        failing
}

// failing ends the process where a test would end.
type failing struct{ testing.TB }

func (failing) Helper()           {}
func (failing) Fatal(args ...any) { fmt.Fprintln(os.Stderr, args...); os.Exit(1) }

func (c *shipCmd) Run(ctx context.Context, io console.IO) error {
	c.spp = chiptest.NewSPP(c.t, c.Realm)
	for i, name := range c.Devices {
		if err := os.MkdirAll(name, 0o700); err != nil {
			return err
		}
		f := deviceFlags{benchFlags: c.benchFlags, Output: c.Output, Name: name}
		if err := f.with(ctx, io, func(d *device.Device) error { return c.device(ctx, d, name, i+1) }); err != nil {
			return err
		}
	}
	return os.WriteFile("other.pem", chiptest.NewSPP(c.t, c.Realm).ROMKey().PEM(), 0o600)
}

// device takes one device through the line twice.
func (c *shipCmd) device(ctx context.Context, d *device.Device, out string, serial int) error {
	if err := d.WriteROM(ctx, c.spp.ROMKey()); err != nil {
		return err
	}
	driver := device.Module{Name: "io-driver", Content: []byte("driver")}
	driver.SHA256 = sha256.Sum256(driver.Content)
	if err := d.LoadModules(ctx, []device.Module{driver}); err != nil {
		return err
	}
	if err := c.ship(ctx, d, out, serial, 1); err != nil {
		return err
	}
	// A package that comes too late: nothing is wrong with it but the lock.
	late, err := c.assemble(ctx, d, chiptest.Order{Identity: chiptest.TestIMEI(c.t, serial), Generation: 2})
	if err != nil {
		return err
	}
	if err := write(out, "late", late.Package); err != nil {
		return err
	}
	return c.ship(ctx, d, out, serial, 2)
}

func (c *shipCmd) assemble(ctx context.Context, d *device.Device, o chiptest.Order) (chiptest.Assembly, error) {
	m1, err := d.Hello(ctx, keypackage.SuiteUnattested)
	if err != nil {
		return chiptest.Assembly{}, err
	}
	return c.spp.Assemble(c.t, m1, o), nil
}

func write(folder, name string, b []byte) error {
	return os.WriteFile(filepath.Join(folder, name), b, 0o600)
}

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

func (c *shipCmd) ship(ctx context.Context, d *device.Device, out string, serial int, g identity.Generation) error {
	a, err := c.assemble(ctx, d, chiptest.Order{Identity: chiptest.TestIMEI(c.t, serial), Generation: g, Items: chiptest.Everything()})
	if err != nil {
		return err
	}
	var unlock []byte
	if g > 1 {
		unlock, err = identity.SignUnlock(ctx, c.spp, identity.Unlock{Realm: c.Realm, Record: d.Record(), Next: g})
		if err != nil {
			return err
		}
	}
	accepted, err := d.Accept(ctx, a.Package, unlock)
	if err != nil {
		return err
	}
	if _, err := d.Boot(ctx); err != nil {
		return err
	}
	if _, err := d.Published(ctx, a.Published()); err != nil {
		return err
	}
	chipID, err := d.ChipID(ctx)
	if err != nil {
		return err
	}
	kind := registry.Register
	if g > 1 {
		kind = registry.Supersede
	}
	e, err := registry.Seal(rand.Reader, chipID, registry.Entry{Realm: c.Realm, Type: kind, Record: d.Record(), Generation: g},
		registry.Record{Certificate: a.Certificate.Bytes(), Backup: accepted.Backup})
	if err != nil {
		return err
	}
	raw, err := e.Encode()
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(c.Registry, fmt.Sprintf("%s-%d.entry", d.Record(), g)), raw, 0o600); err != nil {
		return err
	}
	for name, b := range map[string][]byte{
		"certificate": a.Certificate.Bytes(), "backup": accepted.Backup, "package": a.Package,
		"claims": a.Certificate.ClaimsBytes(), "key": a.Items[0].Value,
		"flipped-backup":      flipped(accepted.Backup, len(accepted.Backup)-1),
		"flipped-code":        flipped(accepted.Backup, 7),
		"flipped-certificate": flipped(a.Certificate.Bytes(), 100),
	} {
		if err := write(out, fmt.Sprintf("%s-%d", name, g), b); err != nil {
			return err
		}
	}
	return write(out, "rom.pem", c.spp.ROMKey().PEM())
}

func flipped(b []byte, at int) []byte {
	out := append([]byte(nil), b...)
	out[at] ^= 1
	return out
}

type checkCmd struct {
	Folder     string `arg:""`
	Generation int    `arg:""`
	Proof      string `arg:"" help:"What device prove --json printed."`
}

// Run computes the proof with the device's key, which the SPP would derive again.
func (c *checkCmd) Run(io console.IO) error {
	read := func(name string) []byte {
		b, err := os.ReadFile(name)
		failing{}.check(err)
		return b
	}
	var p proof
	failing{}.check(json.Unmarshal(read(c.Proof), &p))
	at := func(name string) []byte {
		return read(filepath.Join(c.Folder, fmt.Sprintf("%s-%d", name, c.Generation)))
	}
	claims, err := identity.ParseClaims(at("claims"))
	failing{}.check(err)
	if p.Record != claims.ChipID.RecordID() {
		return fmt.Errorf("the proof is of another record")
	}
	want := chiptest.MAC(at("key"), keypackage.AliveMessage(sha256.Sum256(at("claims")), [32]byte(unhex(p.Challenge))))
	if hex.EncodeToString(want) != p.Proof {
		return fmt.Errorf("the proof does not verify")
	}
	fmt.Fprintln(io.Out, "the proof verifies")
	return nil
}

func (f failing) check(err error) {
	if err != nil {
		f.Fatal(err)
	}
}
