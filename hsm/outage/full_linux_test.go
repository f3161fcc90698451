package outage_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/untested"
)

// smallDisk puts a token's folder on a file system of its own of some kilobytes, which
// needs root. The token mustn't be open.
func smallDisk(t *testing.T, path string, kilobytes int) {
	t.Helper()
	kept := path + ".kept"
	if err := os.Rename(path, kept); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", path, "tmpfs", 0, fmt.Sprintf("size=%dk,mode=0700", kilobytes)); err != nil {
		if err := errors.Join(os.Remove(path), os.Rename(kept, path)); err != nil {
			t.Fatal(err)
		}
		untested.Except(t, "a full disk under a token directory: mounting a small file system needs root: %v", err)
	}
	t.Cleanup(func() {
		if err := errors.Join(unix.Unmount(path, unix.MNT_DETACH), os.RemoveAll(kept)); err != nil {
			t.Error(err)
		}
	})
	if err := os.CopyFS(path, os.DirFS(kept)); err != nil {
		t.Fatal(err)
	}
}

// fill fills the disk to its last byte, in a file whose path is the result.
func fill(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Create(filepath.Join(path, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 512))
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	return f.Name()
}

// The disk of a token is full: making keys fails cleanly, the keys that are there go on
// working, a lost token is opened again, and with space everything works again. A key
// that was half made is never used.
func TestDiskFull(t *testing.T) {
	c := fresh(t)
	tok, err := module.Open(t.Context(), c, hsm.Options{})
	if err != nil {
		t.Fatal(err)
	}
	path := tokenPath(t, tok.Info().Serial)
	if err := tok.Close(); err != nil {
		t.Fatal(err)
	}
	smallDisk(t, path, 256)
	tok = open(t, c, hsm.Options{})
	k := newKeys(t, tok)
	ctx := t.Context()
	work := func(when string) {
		t.Helper()
		for _, a := range acts {
			if err := a.try(ctx, k); err != nil {
				t.Errorf("%s: %s: %v", when, a.name, err)
			}
		}
		if err := tok.Check(ctx); err != nil {
			t.Errorf("%s: health: %v", when, err)
		}
	}
	work("before")
	kinds := []hsm.Kind{hsm.MasterKey, hsm.AuditKey, hsm.ChipKey, hsm.PoolSealKey, hsm.TLSKey}
	for round := range 3 {
		filler := fill(t, path)
		if round > 0 { // from now on with a little room, in which a key is made by half
			if err := os.Truncate(filler, filesize(t, filler)-int64(round)*4096); err != nil {
				t.Fatal(err)
			}
		}
		var refused int
		for i, kind := range kinds {
			spec := hsm.Spec{Kind: kind, Label: fmt.Sprintf("new-%d-%d", round, i), Token: true}
			made, err := tok.Generate(ctx, spec)
			if err == nil {
				continue // it had room
			}
			refused++
			t.Logf("round %d: %v", round, err)
			if made != nil || !tolerable(err) {
				t.Errorf("make a %s: class %v: %v", kind, hsm.Classify(err), err)
			}
			if found, err := tok.Find(ctx, spec); err == nil {
				t.Errorf("the %s that could not be made is found: %v", kind, found)
			}
		}
		if refused == 0 {
			t.Error("a full disk took all keys")
		}
		if err := tok.PutData(ctx, hsm.Data{Application: "a", Label: "new", Value: make([]byte, 16<<10)}); err == nil {
			t.Error("a full disk took 16 KiB")
		}
		work("full")
		shim.Drop()
		eventually(t, "the token, lost on a full disk", func() error { return tok.Check(ctx) })
		work("lost and back on a full disk")
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
		swept, err := tok.Sweep(ctx)
		if err != nil {
			t.Errorf("sweep: %v", err)
		}
		t.Logf("round %d: swept %q", round, swept)
		for i, kind := range kinds {
			spec := hsm.Spec{Kind: kind, Label: fmt.Sprintf("new-%d-%d", round, i), Token: true}
			key, err := tok.Find(ctx, spec)
			if errors.Is(err, hsm.ErrNoKey) {
				key, err = tok.Generate(ctx, spec)
			}
			if err != nil {
				t.Errorf("with space, a %s: %v", kind, err)
				continue
			}
			if err := key.Destroy(ctx); err != nil {
				t.Error(err)
			}
		}
		work("with space")
	}
}

func filesize(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}
