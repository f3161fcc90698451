package hsm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// lockWait bounds the wait for the lock file. Whoever holds it initialises a module
	// (1.6 s with 5000 tokens on a slow machine) and logs in; ten of them may queue.
	lockWait = 20 * time.Second
	// lockPause is the time between two tries.
	lockPause = 10 * time.Millisecond
)

// lockFile takes an exclusive flock on path and returns the function that lets it go.
// The kernel lets go of it when the process dies, so a crash leaves nothing behind but
// the empty file. An empty path locks nothing.
func lockFile(ctx context.Context, path string) (unlock func(), err error) {
	if path == "" {
		return func() {}, nil
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("hsm: open lock file: %w", err)
	}
	deadline := time.NewTimer(lockWait)
	defer deadline.Stop()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil // closing releases the lock
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, fmt.Errorf("hsm: lock %q: %w", path, err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("hsm: wait for lock file %q: %w", path, ctx.Err())
		case <-deadline.C:
			f.Close()
			return nil, fmt.Errorf("hsm: lock file %q is held by another process for more than %v: %w", path, lockWait, ErrBusy)
		case <-time.After(lockPause):
		}
	}
}
