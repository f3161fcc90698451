package flash

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// imageMode keeps an image to its owner: its content is encrypted, but it
// names the device's identity in clear.
const imageMode = 0o600

// Create makes an empty image, which must not exist yet. A crash before it
// returns leaves no file, or one named path + ".new" that the next Create
// replaces.
func Create(path string) error {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		if err == nil {
			err = fs.ErrExist
		}
		return fmt.Errorf("create flash image %q: %w", path, err)
	}
	fresh := path + ".new"
	f, err := os.OpenFile(fresh, os.O_RDWR|os.O_CREATE|os.O_TRUNC, imageMode)
	if err != nil {
		return fmt.Errorf("create flash image: %w", err)
	}
	if err := errors.Join(f.Truncate(size), Format(f), f.Close()); err != nil {
		return fmt.Errorf("create flash image %q: %w", path, err)
	}
	if err := os.Rename(fresh, path); err != nil {
		return fmt.Errorf("create flash image: %w", err)
	}
	return syncFolder(filepath.Dir(path))
}

func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("create flash image: %w", err)
	}
	return errors.Join(d.Sync(), d.Close())
}

// Open opens an image and locks it for this process. Its error matches
// ErrInUse where another one has it, fs.ErrNotExist where there is none.
func Open(path string) (*Image, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("open flash image: %w", err)
	}
	// The lock ends with the descriptor, so a killed process leaves none.
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = fmt.Errorf("%w: wait for it, or stop it", ErrInUse)
		}
		return nil, errors.Join(fmt.Errorf("open flash image %q: %w", path, err), f.Close())
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() || info.Size() > size {
		return nil, errors.Join(fmt.Errorf("open flash image %q: %w", path, ErrImage), err, f.Close())
	}
	return On(locked{f})
}

// locked is an image's file with this process's lock on it.
type locked struct{ *os.File }

// Close ends the lock before the file: closing alone would leave it to a child that this
// process is just starting, until that has its program.
func (l locked) Close() error {
	return errors.Join(unix.Flock(int(l.Fd()), unix.LOCK_UN), l.File.Close())
}
