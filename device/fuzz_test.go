package device_test

import (
	"errors"
	"testing"

	"github.com/devicekeys/devicekeys/device"
	"github.com/devicekeys/devicekeys/device/chip"
	"github.com/devicekeys/devicekeys/device/chip/chiptest"
	"github.com/devicekeys/devicekeys/device/flash"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
)

// inMemory makes a shipped device that leaves nothing behind.
func inMemory(f testing.TB) (*device.Device, *flash.Image, chiptest.Assembly, device.Accepted) {
	c, err := chip.NewSoftware(identity.Development, 32, "")
	must(f, err)
	image := flash.NewMemory()
	d, err := device.Open(f.Context(), device.Config{Chip: c, Flash: image})
	must(f, err)
	spp := chiptest.NewSPP(f, identity.Development)
	must(f, d.WriteROM(f.Context(), spp.ROMKey()))
	m1, err := d.Hello(f.Context(), keypackage.SuiteUnattested)
	must(f, err)
	a := spp.Assemble(f, m1, chiptest.Order{Items: chiptest.Everything()})
	accepted, err := d.Accept(f.Context(), a.Package, nil)
	must(f, err)
	return d, image, a, accepted
}

// FuzzRestore gives a device any certificate and backup: it takes its own, and
// refuses the rest.
func FuzzRestore(f *testing.F) {
	d, _, a, accepted := inMemory(f)
	f.Add(a.Certificate.Bytes(), accepted.Backup)
	f.Add(a.Certificate.Bytes(), accepted.Backup[:60])
	f.Add([]byte{}, keypackage.BackupCode[:])
	f.Fuzz(func(t *testing.T, certificate, backup []byte) {
		err := d.Restore(t.Context(), certificate, backup)
		own := string(certificate) == string(a.Certificate.Bytes()) && string(backup) == string(accepted.Backup)
		var r *device.Refusal
		if own != (err == nil) || !own && !errors.As(err, &r) {
			t.Errorf("restored: %v", err)
		}
	})
}

// FuzzAccept gives a device any package: it answers no hello, so all are refused.
func FuzzAccept(f *testing.F) {
	d, _, a, _ := inMemory(f)
	f.Add(a.Package, []byte(nil))
	f.Add(a.Package[:100], a.Certificate.Bytes())
	f.Fuzz(func(t *testing.T, pkg, unlock []byte) {
		var r *device.Refusal
		if _, err := d.Accept(t.Context(), pkg, unlock); !errors.As(err, &r) {
			t.Errorf("accepted: %v", err)
		}
	})
}

// FuzzFlash boots from any content of flash, and lists any modules.
func FuzzFlash(f *testing.F) {
	d, image, _, _ := inMemory(f)
	content, err := image.Identity()
	must(f, err)
	content = append([]byte(nil), content...)
	must(f, d.LoadModules(f.Context(), []device.Module{}))
	modules, err := image.Modules()
	must(f, err)
	f.Add(content, append([]byte(nil), modules...))
	f.Add([]byte{0x83}, []byte{})
	f.Fuzz(func(t *testing.T, identity, modules []byte) {
		if len(identity) == 0 || image.WriteIdentity(identity) != nil || image.WriteModules(modules) != nil {
			return
		}
		var r *device.Refusal
		if _, err := d.Boot(t.Context()); (err == nil) != (string(identity) == string(content)) || err != nil && !errors.As(err, &r) {
			t.Errorf("booted: %v", err)
		}
		_, _ = d.Status(t.Context()) // malformed modules are an error, never a panic
	})
}
