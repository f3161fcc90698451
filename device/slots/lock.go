package slots

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// lock keeps two calls of Create out of one folder. It ends with the process,
// however that ends.
func lock(dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, slotsFolder, ".lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("create device slots: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = fmt.Errorf("another process is creating slots in %q: wait for it", dir)
		}
		return nil, errors.Join(fmt.Errorf("create device slots: %w", err), f.Close())
	}
	return func() { _ = f.Close() }, nil // closing a lock file has nothing to lose
}
