// Package programs builds the module's programs for tests that run them as a user does.
//
// Linking all of them takes the better part of a minute, and the tests of many packages want them: so they stand
// in one folder, bin/test, and one for each set of build tags, which stay. Go leaves a program alone that is up to
// date, so whoever comes first builds, everyone after that waits a second. Tests of packages that run at once take turns.
package programs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

const (
	// buildTime bounds a build from nothing on a loaded machine, with the wait for others that build.
	buildTime = 15 * time.Minute
	// lockPoll is the time between two looks whether they are done.
	lockPoll = 50 * time.Millisecond
)

// module is where the programs' packages are.
const module = "github.com/devicekeys/devicekeys/cmd/"

// Build builds programs by their names below cmd, all of them if none is given, with go build's tags ("" for none),
// and gives their folder. It fails the test if they don't build within 15 minutes. A kill in the middle leaves a program
// that isn't up to date, which the next call makes anew.
func Build(t testing.TB, tags string, names ...string) string {
	t.Helper()
	dir, err := build(t.Context(), tags, names)
	if err != nil {
		t.Fatalf("build programs: %v", err)
	}
	return dir
}

func build(ctx context.Context, tags string, names []string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, buildTime)
	defer cancel()
	root, err := root()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(root, "bin", "test", tags)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	unlock, err := lock(ctx, dir)
	if err != nil {
		return "", err
	}
	defer unlock()
	args := []string{"build", "-tags", tags, "-o", dir + string(filepath.Separator)}
	for _, name := range names {
		args = append(args, module+name)
	}
	if len(names) == 0 {
		args = append(args, module+"...")
	}
	out, err := exec.CommandContext(ctx, "go", args...).CombinedOutput()
	if err != nil {
		return "", errors.Join(err, errors.New(string(out)))
	}
	return dir, nil
}

// root finds the module's folder: tests run somewhere in it.
func root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		_, err := os.Stat(filepath.Join(dir, "go.mod"))
		if err == nil || !errors.Is(err, fs.ErrNotExist) || dir == filepath.Dir(dir) {
			return dir, err
		}
	}
}

// lock waits for others that build, until the context ends; the kernel lets go of it when the process dies.
func lock(ctx context.Context, dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil // which lets go of it
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return nil, errors.Join(err, f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("wait for others that build: %w", ctx.Err()), f.Close())
		case <-time.After(lockPoll):
		}
	}
}
