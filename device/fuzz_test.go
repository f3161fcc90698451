package device_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/devicekeys/devicekeys/device"
	"github.com/devicekeys/devicekeys/device/chip"
	"github.com/devicekeys/devicekeys/device/chip/chiptest"
	"github.com/devicekeys/devicekeys/device/flash"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
)

// made is a device with all it was given.
type made struct {
	Chip                                  string // the chip's file
	Certificate, Backup, Package, Content []byte
	Modules                               []byte

	// Another device, locked, with the next package that it may take and the statement that says so.
	LockedChip   string
	Next, Unlock []byte
}

// sharedDevice names the file of the device that a fuzzer's processes share:
// each runs the target from its beginning, and where each made a device of its
// own, the seeds of one would be nothing to the other.
const sharedDevice = "DEVICEKEYS_FUZZ_DEVICE"

// shared gives a device that left the line, and what it was made of. It
// ends with the target.
func shared(f *testing.F) (*device.Device, *flash.Image, made) {
	f.Helper()
	path := os.Getenv(sharedDevice)
	if path == "" {
		dir := f.TempDir()
		path = filepath.Join(dir, "made")
		b, err := json.Marshal(build(f, filepath.Join(dir, "chip")))
		must(f, err)
		must(f, os.WriteFile(path, b, 0o600))
		f.Setenv(sharedDevice, path)
	}
	var m made
	b, err := os.ReadFile(path)
	must(f, err)
	must(f, json.Unmarshal(b, &m))
	c, err := chip.OpenSoftware(m.Chip)
	must(f, err)
	image := flash.NewMemory()
	must(f, image.WriteIdentity(m.Content))
	d, err := device.Open(f.Context(), device.Config{Chip: c, Flash: image})
	must(f, err)
	return d, image, m
}

func build(f testing.TB, path string) made {
	f.Helper()
	c, err := chip.NewSoftware(identity.Development, 32, path)
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
	m := made{Chip: path, Certificate: a.Certificate.Bytes(), Backup: accepted.Backup, Package: a.Package}
	content, err := image.Identity()
	must(f, err)
	m.Content = append(m.Content, content...)
	must(f, d.LoadModules(f.Context(), []device.Module{}))
	modules, err := image.Modules()
	must(f, err)
	m.Modules = append(m.Modules, modules...)

	m.LockedChip = path + "-locked"
	other, err := chip.NewSoftware(identity.Development, 16, m.LockedChip)
	must(f, err)
	must(f, other.WriteROMKey(f.Context(), spp.ROMKey()))
	must(f, other.RaiseFloor(f.Context(), 1))
	must(f, other.Lock(f.Context()))
	d, err = device.Open(f.Context(), device.Config{Chip: other, Flash: flash.NewMemory()})
	must(f, err)
	m1, err = d.Hello(f.Context(), keypackage.SuiteUnattested)
	must(f, err)
	m.Next = spp.Assemble(f, m1, chiptest.Order{Items: chiptest.Everything(), Generation: 2}).Package
	m.Unlock, err = identity.SignUnlock(f.Context(), spp, identity.Unlock{Realm: identity.Development, Record: other.ID().RecordID(), Next: 2})
	must(f, err)
	return m
}

// changed gives b with one bit another.
func changed(b []byte, at int) []byte {
	out := append([]byte(nil), b...)
	out[at] ^= 1
	return out
}

// FuzzRestore gives a device any certificate and backup: it takes its own, and
// refuses the rest.
func FuzzRestore(f *testing.F) {
	d, _, m := shared(f)
	f.Add(m.Certificate, m.Backup)
	f.Add(m.Certificate, m.Backup[:60])
	f.Add(m.Certificate, changed(m.Backup, len(m.Backup)-1))
	f.Add(m.Certificate, changed(m.Backup, 30)) // in its manifest
	f.Add(m.Certificate, m.Package)
	f.Add(changed(m.Certificate, 60), m.Backup)
	f.Add([]byte{}, keypackage.BackupCode[:])
	f.Fuzz(func(t *testing.T, certificate, backup []byte) {
		err := d.Restore(t.Context(), certificate, backup)
		own := string(certificate) == string(m.Certificate) && string(backup) == string(m.Backup)
		var r *device.Refusal
		if own != (err == nil) || !own && !errors.As(err, &r) {
			t.Errorf("restored: %v", err)
		}
	})
}

// FuzzAccept gives any package, and any unlock statement, to a device that waits for a package and to one that is locked and waits. None
// answers the hello that the device said, so none is accepted; the locked one gets as far as to see that only with its own statement.
func FuzzAccept(f *testing.F) {
	d, _, m := shared(f)
	c, err := chip.OpenSoftware(m.LockedChip)
	must(f, err)
	locked, err := device.Open(f.Context(), device.Config{Chip: c, Flash: flash.NewMemory()})
	must(f, err)
	for _, isLocked := range []bool{false, true} {
		f.Add(isLocked, m.Package, []byte(nil))
		f.Add(isLocked, m.Package[:100], m.Certificate)
		f.Add(isLocked, changed(m.Package, 30), []byte(nil))
		f.Add(isLocked, m.Backup, []byte(nil))
		f.Add(isLocked, m.Next, m.Unlock)
		f.Add(isLocked, m.Next, changed(m.Unlock, len(m.Unlock)-1))
		f.Add(isLocked, m.Next, m.Unlock[:20])
		f.Add(isLocked, m.Next, []byte(nil))
		f.Add(isLocked, changed(m.Next, len(m.Next)-1), m.Unlock)
	}
	waiting := map[*device.Device]bool{}
	f.Fuzz(func(t *testing.T, isLocked bool, pkg, unlock []byte) {
		to := d
		if isLocked {
			to = locked
		}
		if !waiting[to] {
			_, err := to.Hello(t.Context(), keypackage.SuiteUnattested)
			must(t, err)
			waiting[to] = true
		}
		var r *device.Refusal
		if _, err := to.Accept(t.Context(), pkg, unlock); !errors.As(err, &r) {
			t.Fatalf("accepted: %v", err)
		}
		// What fails in the transfer has used the hello up.
		deep := r.Reason == device.ReasonEntry
		waiting[to] = !deep
		if own := string(unlock) == string(m.Unlock); isLocked && string(pkg) == string(m.Next) && own != deep {
			t.Errorf("its own unlock statement: %t, and refused for %s", own, r.Reason)
		}
		if isLocked && len(unlock) == 0 && deep {
			t.Error("a locked device tried a package without a statement")
		}
		if string(pkg) == string(m.Package) && !isLocked && !deep {
			t.Errorf("the package of another hello is refused for %s before the transfer", r.Reason)
		}
	})
}

// FuzzFlash boots from any content of flash, and lists any modules.
func FuzzFlash(f *testing.F) {
	d, image, m := shared(f)
	f.Add(m.Content, m.Modules)
	f.Add(changed(m.Content, len(m.Content)-1), m.Modules[:len(m.Modules)-1])
	f.Add(m.Content[:len(m.Content)/2], m.Modules)
	f.Add([]byte{0x83}, []byte{})
	f.Fuzz(func(t *testing.T, identity, modules []byte) {
		if len(identity) == 0 || image.WriteIdentity(identity) != nil || image.WriteModules(modules) != nil {
			return
		}
		var r *device.Refusal
		if _, err := d.Boot(t.Context()); (err == nil) != (string(identity) == string(m.Content)) || err != nil && !errors.As(err, &r) {
			t.Errorf("booted: %v", err)
		}
		certificate, backup, err := d.Stored(t.Context())
		if err == nil && len(certificate)+len(backup) > len(identity) {
			t.Errorf("of %d bytes %d and %d are read", len(identity), len(certificate), len(backup))
		}
		_, _ = d.Status(t.Context()) // malformed modules are an error, never a panic
	})
}
