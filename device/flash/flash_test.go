package flash_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"pgregory.net/rapid"

	"github.com/devicekeys/devicekeys/device/flash"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newImage makes an image in a file.
func newImage(t testing.TB) (*flash.Image, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "flash.img")
	must(t, flash.Create(path))
	f, err := flash.Open(path)
	must(t, err)
	t.Cleanup(func() { _ = f.Close() }) // most tests close it themselves
	return f, path
}

func TestIdentityArea(t *testing.T) {
	t.Parallel()
	f, path := newImage(t)
	if _, err := f.Identity(); !errors.Is(err, flash.ErrEmpty) {
		t.Errorf("a new image: %v, want ErrEmpty", err)
	}
	must(t, f.WriteModules([]byte("modules")))
	for _, content := range [][]byte{[]byte("first"), []byte("second"), {0}, bytes.Repeat([]byte{7}, flash.MaxIdentity), []byte("last")} {
		must(t, f.WriteIdentity(content))
		if got, err := f.Identity(); err != nil || !bytes.Equal(got, content) {
			t.Errorf("read %d bytes, %v; wrote %d", len(got), err, len(content))
		}
	}
	for _, n := range []int{0, flash.MaxIdentity + 1} {
		if err := f.WriteIdentity(make([]byte, n)); err == nil {
			t.Errorf("content of %d bytes was written", n)
		}
	}
	must(t, f.Close())
	f, err := flash.Open(path)
	must(t, err)
	if got, err := f.Identity(); err != nil || string(got) != "last" {
		t.Errorf("after opening again: %q, %v", got, err)
	}
	must(t, f.Erase())
	if _, err := f.Identity(); !errors.Is(err, flash.ErrEmpty) {
		t.Errorf("an erased image: %v, want ErrEmpty", err)
	}
	if got, err := f.Modules(); err != nil || string(got) != "modules" {
		t.Errorf("modules after erasing: %q, %v", got, err)
	}
	must(t, f.Close())
	whole, err := os.ReadFile(path)
	must(t, err)
	if bytes.Contains(whole, []byte("last")) || bytes.Contains(whole, []byte("second")) {
		t.Error("erased content is still in the image")
	}
}

// powerCut gives the images that a write could leave when power fails: cut
// after each byte, pages in another order, and each byte half programmed.
func powerCut(before, after []byte, each func(what string, image []byte)) {
	var changed []int
	for i := range before {
		if before[i] != after[i] {
			changed = append(changed, i)
		}
	}
	image := bytes.Clone(before)
	for _, i := range changed { // in order, byte by byte
		each(fmt.Sprintf("cut before byte %d", i), image)
		image[i] = after[i]
	}
	copy(image, after)
	for _, i := range changed { // one byte lost
		image[i] = before[i]
		each(fmt.Sprintf("byte %d not written", i), image)
		image[i] = after[i] ^ 0x40
		if image[i] != after[i] && image[i] != before[i] {
			each(fmt.Sprintf("byte %d half programmed", i), image)
		}
		image[i] = after[i]
	}
	r := rand.New(rand.NewPCG(1, 2))
	for n := range 200 { // any subset of 512-byte sectors
		copy(image, before)
		for at := 0; at < len(image); at += 512 {
			if r.IntN(2) == 0 {
				end := min(at+512, len(image))
				copy(image[at:end], after[at:end])
			}
		}
		each(fmt.Sprintf("sectors in another order, %d", n), image)
	}
}

// image is storage over bytes that the test owns.
type image struct{ *bytes.Reader }

func (image) WriteAt([]byte, int64) (int, error) { return 0, errors.New("read only") }
func (image) Sync() error                        { return nil }
func (image) Close() error                       { return nil }

// read opens raw bytes as an image and reads its identity area.
func read(t *testing.T, raw []byte) ([]byte, error) {
	t.Helper()
	f, err := flash.On(image{bytes.NewReader(raw)})
	must(t, err)
	return f.Identity()
}

// identityArea is the part of an image that WriteIdentity and Erase touch.
const identityArea = flash.HeaderSize + 2*flash.SlotSize

// TestPowerCut cuts the power at every byte of a write and of an erasure.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	old, middle, young := bytes.Repeat([]byte("old "), 30), bytes.Repeat([]byte("mid "), 40), bytes.Repeat([]byte("new "), 50)
	for _, c := range []struct {
		name  string
		setup func(f *flash.Image) error
		act   func(f *flash.Image) error
		allow [][]byte // contents that may be read in between; nil stands for ErrEmpty or ErrTorn
	}{
		{"first write", nil, func(f *flash.Image) error { return f.WriteIdentity(young) }, [][]byte{nil, young}},
		{"second write", func(f *flash.Image) error { return f.WriteIdentity(old) },
			func(f *flash.Image) error { return f.WriteIdentity(young) }, [][]byte{old, young}},
		{"third write", func(f *flash.Image) error { return errors.Join(f.WriteIdentity(old), f.WriteIdentity(middle)) },
			func(f *flash.Image) error { return f.WriteIdentity(young) }, [][]byte{middle, young}},
		{"fourth write", func(f *flash.Image) error {
			return errors.Join(f.WriteIdentity(young), f.WriteIdentity(old), f.WriteIdentity(middle))
		}, func(f *flash.Image) error { return f.WriteIdentity(young[:60]) }, [][]byte{middle, young[:60]}},
		// What had been replaced never comes back.
		{"erasure", func(f *flash.Image) error { return errors.Join(f.WriteIdentity(old), f.WriteIdentity(middle)) },
			func(f *flash.Image) error { return f.Erase() }, [][]byte{middle, nil}},
		{"erasure, other slot", func(f *flash.Image) error {
			return errors.Join(f.WriteIdentity(young), f.WriteIdentity(old), f.WriteIdentity(middle))
		}, func(f *flash.Image) error { return f.Erase() }, [][]byte{middle, nil}},
		{"erasure of one slot", func(f *flash.Image) error { return f.WriteIdentity(old) },
			func(f *flash.Image) error { return f.Erase() }, [][]byte{old, nil}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := &recorder{bytes: make([]byte, identityArea)}
			must(t, flash.Format(r))
			f, err := flash.On(r)
			must(t, err)
			if c.setup != nil {
				must(t, c.setup(f))
			}
			r.durable = [][]byte{bytes.Clone(r.bytes)}
			must(t, c.act(f))
			if len(r.durable) < 2 || !bytes.Equal(r.durable[len(r.durable)-1], r.bytes) {
				t.Fatal("something was written and not made durable")
			}
			for i := range r.durable[1:] {
				powerCut(r.durable[i], r.durable[i+1], func(what string, raw []byte) {
					got, err := read(t, raw)
					if err != nil && !errors.Is(err, flash.ErrEmpty) && !errors.Is(err, flash.ErrTorn) {
						t.Errorf("%s: %v", what, err)
					}
					for _, allowed := range c.allow {
						if err == nil && allowed != nil && bytes.Equal(got, allowed) || err != nil && allowed == nil {
							return
						}
					}
					t.Errorf("%s: %.12q, %v", what, got, err)
				})
			}
		})
	}
}

// recorder is storage that keeps what was durable after each Sync: between two
// of them, power may fail at any byte.
type recorder struct {
	bytes   []byte
	durable [][]byte
}

func (r *recorder) ReadAt(b []byte, at int64) (int, error) {
	return bytes.NewReader(r.bytes).ReadAt(b, at)
}
func (r *recorder) WriteAt(b []byte, at int64) (int, error) { return copy(r.bytes[at:], b), nil }
func (r *recorder) Close() error                            { return nil }
func (r *recorder) Sync() error {
	r.durable = append(r.durable, bytes.Clone(r.bytes))
	return nil
}

// TestTornIsMended writes and erases over every kind of damage.
func TestTornIsMended(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(b []byte){
		"slot A": func(b []byte) { b[flash.HeaderSize+80] ^= 1 },
		"slot B": func(b []byte) { b[flash.HeaderSize+flash.SlotSize+80] ^= 1 },
		"both":   func(b []byte) { b[flash.HeaderSize+80] ^= 1; b[flash.HeaderSize+flash.SlotSize+80] ^= 1 },
		"noise":  func(b []byte) { copy(b[flash.HeaderSize:identityArea], bytes.Repeat([]byte{0xa5}, 2*flash.SlotSize)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, path := newImage(t)
			must(t, f.WriteIdentity([]byte("a record of some length")))
			must(t, f.WriteIdentity([]byte("another record of some length")))
			must(t, f.Close())
			b, err := os.ReadFile(path)
			must(t, err)
			damage(b)
			must(t, os.WriteFile(path, b, 0o600))
			f, err = flash.Open(path)
			must(t, err)
			if (name == "both" || name == "noise") != isTorn(f) {
				t.Errorf("torn: %t", isTorn(f))
			}
			must(t, f.WriteIdentity([]byte("mended")))
			if got, err := f.Identity(); err != nil || string(got) != "mended" {
				t.Errorf("%q, %v", got, err)
			}
			must(t, f.Erase())
			if _, err := f.Identity(); !errors.Is(err, flash.ErrEmpty) {
				t.Errorf("after erasing: %v", err)
			}
			must(t, f.Close())
		})
	}
}

func isTorn(f *flash.Image) bool {
	_, err := f.Identity()
	return errors.Is(err, flash.ErrTorn)
}

func TestModulesArea(t *testing.T) {
	t.Parallel()
	f, path := newImage(t)
	if _, err := f.Modules(); !errors.Is(err, flash.ErrEmpty) {
		t.Errorf("a new image: %v", err)
	}
	must(t, f.WriteModules(bytes.Repeat([]byte{1}, flash.MaxModules)))
	must(t, f.WriteModules([]byte("short")))
	if got, err := f.Modules(); err != nil || string(got) != "short" {
		t.Errorf("%q, %v", got, err)
	}
	if err := f.WriteModules(make([]byte, flash.MaxModules+1)); err == nil {
		t.Error("more than fits was written")
	}
	must(t, f.Close())
	b, err := os.ReadFile(path)
	must(t, err)
	b[identityArea+flash.RecordHead] ^= 1
	must(t, os.WriteFile(path, b, 0o600))
	f, err = flash.Open(path)
	must(t, err)
	if _, err := f.Modules(); !errors.Is(err, flash.ErrTorn) {
		t.Errorf("a changed byte: %v, want ErrTorn", err)
	}
	must(t, f.Close())
}

func TestOpen(t *testing.T) {
	t.Parallel()
	f, path := newImage(t)
	if _, err := flash.Open(path); !errors.Is(err, flash.ErrInUse) {
		t.Errorf("opening twice: %v, want ErrInUse", err)
	}
	must(t, f.Close())
	again, err := flash.Open(path)
	must(t, err)
	must(t, again.Close())
	if err := flash.Create(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("creating over an image: %v, want fs.ErrExist", err)
	}
	if _, err := flash.Open(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("opening nothing: %v", err)
	}
	for name, content := range map[string][]byte{"empty": nil, "text": []byte("hello"), "large": make([]byte, flash.Size+1)} {
		other := filepath.Join(t.TempDir(), name)
		must(t, os.WriteFile(other, content, 0o600))
		if _, err := flash.Open(other); !errors.Is(err, flash.ErrImage) {
			t.Errorf("opening a file that is %s: %v, want ErrImage", name, err)
		}
	}
	// A Create that was cut off is replaced.
	half := filepath.Join(t.TempDir(), "half")
	must(t, os.WriteFile(half+".new", []byte("dk-fl"), 0o600))
	must(t, flash.Create(half))
}

// TestMemory shows that an image in memory is one in a file.
func TestMemory(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		f := flash.NewMemory()
		var want []byte
		r.Repeat(map[string]func(*rapid.T){
			"write": func(r *rapid.T) {
				want = rapid.SliceOfN(rapid.Byte(), 1, 300).Draw(r, "content")
				must(t, f.WriteIdentity(want))
			},
			"erase":   func(*rapid.T) { want = nil; must(t, f.Erase()) },
			"modules": func(*rapid.T) { must(t, f.WriteModules([]byte("m"))) },
			"": func(r *rapid.T) {
				got, err := f.Identity()
				if want == nil && !errors.Is(err, flash.ErrEmpty) || want != nil && (err != nil || !bytes.Equal(got, want)) {
					r.Fatalf("read %x, %v; want %x", got, err, want)
				}
			},
		})
	})
}

func FuzzRecord(f *testing.F) {
	f.Add(flash.EncodeRecord(1, []byte("content")))
	f.Add(flash.EncodeRecord(1<<40, nil))
	f.Add([]byte{})
	f.Add(make([]byte, 200))
	f.Fuzz(func(t *testing.T, b []byte) {
		sequence, content, err := flash.DecodeRecord(b)
		if err != nil {
			if !errors.Is(err, flash.ErrEmpty) && !errors.Is(err, flash.ErrTorn) {
				t.Errorf("unexpected error %v", err)
			}
			return
		}
		if again := flash.EncodeRecord(sequence, content); !bytes.HasPrefix(b, again) {
			t.Errorf("%x reads as sequence %d, content %x", b, sequence, content)
		}
	})
}
