package chip_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/devicekeys/devicekeys/device/chip"
	"github.com/devicekeys/devicekeys/device/chip/chiptest"
	"github.com/devicekeys/devicekeys/identity"
)

func TestSoftware(t *testing.T) {
	t.Parallel()
	chiptest.Run(t, chiptest.Bench{
		New: func(t *testing.T, size int) chip.Chip {
			c, err := chip.NewSoftware(identity.Development, size, filepath.Join(t.TempDir(), "chip"))
			if err != nil {
				t.Fatal(err)
			}
			return c
		},
		Reopen: func(t *testing.T, c chip.Chip) chip.Chip {
			again, err := chip.OpenSoftware(c.(*chip.Software).Path())
			if err != nil {
				t.Fatal(err)
			}
			return again
		},
	})
}

func TestSoftwareInMemory(t *testing.T) {
	t.Parallel()
	chiptest.Run(t, chiptest.Bench{
		New: func(t *testing.T, size int) chip.Chip {
			c, err := chip.NewSoftware(identity.Development, size, "")
			if err != nil {
				t.Fatal(err)
			}
			return c
		},
		Reopen: func(t *testing.T, c chip.Chip) chip.Chip { return c },
	})
}

func TestSoftwareSaysWhatItIs(t *testing.T) {
	t.Parallel()
	c, err := chip.NewSoftware(identity.Development, 32, "")
	if err != nil {
		t.Fatal(err)
	}
	if !c.Describe().Software {
		t.Error("a software chip describes itself as something else")
	}
	if _, err := chip.NewSoftware(identity.Production, 32, ""); err == nil {
		t.Error("a software chip was made for production")
	}
	if _, err := chip.NewSoftware(identity.Development, 17, ""); err == nil {
		t.Error("a chip ID of 17 bytes was made")
	}
}

func TestSoftwareFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "chip")
	c, err := chip.NewSoftware(identity.Development, 32, path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode of the chip's file: %v, %v", info.Mode(), err)
	}
	if _, err := chip.NewSoftware(identity.Development, 32, path); err == nil {
		t.Error("an existing chip was overwritten")
	}
	if err := c.RaiseFloor(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	// A crash while the file is replaced leaves the new name half written: the
	// chip opens as it was.
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".new", whole[:len(whole)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := chip.OpenSoftware(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Lock(t.Context()); err != nil {
		t.Fatal(err)
	}
	if f, err := again.Fuses(t.Context()); err != nil || f != (chip.Fuses{Locked: true, Floor: 2}) {
		t.Errorf("fuses %+v, %v", f, err)
	}
	// A file that was cut off is refused, wherever it was cut.
	for n := range whole {
		if _, err := chip.ParseSoftwareState(whole[:n]); err == nil {
			t.Errorf("state cut to %d bytes was read", n)
		}
	}
}

func FuzzSoftwareState(f *testing.F) {
	path := filepath.Join(f.TempDir(), "chip")
	if _, err := chip.NewSoftware(identity.Development, 32, path); err != nil {
		f.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[:40])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		again, err := chip.ParseSoftwareState(b)
		if err == nil && !bytes.Equal(again, b) {
			t.Errorf("%x reads, and writes as %x", b, again)
		}
	})
}
