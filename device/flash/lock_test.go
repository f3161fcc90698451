package flash_test

import (
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/devicekeys/devicekeys/device/flash"
)

// TestLockEndsWithClose: a closed image can be opened again at once, even while another process still has the
// descriptor, as a child has that was forked and not yet executed.
func TestLockEndsWithClose(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "flash")
	if err := flash.Create(path); err != nil {
		t.Fatal(err)
	}
	first, err := flash.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range descriptorsOf(t, path) {
		forked, err := unix.Dup(fd)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(forked)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := flash.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
}

// descriptorsOf gives this process's descriptors of a file, among the first.
func descriptorsOf(t *testing.T, path string) (all []int) {
	t.Helper()
	var want unix.Stat_t
	if err := unix.Stat(path, &want); err != nil {
		t.Fatal(err)
	}
	for fd := range 256 {
		var s unix.Stat_t
		if unix.Fstat(fd, &s) == nil && s.Ino == want.Ino && s.Dev == want.Dev {
			all = append(all, fd)
		}
	}
	if len(all) == 0 {
		t.Fatal("no descriptor of the image was found")
	}
	return all
}
