package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
)

// maxFile bounds the files that are read back: PEM of a key or a certificate.
const maxFile = 64 << 10

// publicMode is the mode of what everyone may read.
const publicMode = 0o644

// exclusive locks a file that exists until the process ends or unlock is called: two set-ups at once would each make
// what the other is making. It doesn't wait. Then it clears the folder of public files of what a killed one left.
func exclusive(path, public string) (unlock func(), err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(console.Hint(fmt.Errorf("another set-up with %q is running: %w", path, err), "wait until it is done"), f.Close())
	}
	unlock = func() { f.Close() } // closing a file that was only read loses nothing, and unlocks it
	if err := removeStray(public); err != nil {
		unlock()
		return nil, err
	}
	return unlock, nil
}

// madeFiles are the files that a run made, for its result.
type madeFiles []string

// note adds a file if the run made it.
func (f *madeFiles) note(made bool, path string) {
	if made {
		*f = append(*f, path)
	}
}

// createFile makes a file with all of its content or not at all, and fails with fs.ErrExist where one is. A crash
// leaves at most a file named ".name.…", which nobody reads; the next setup removes it (removeStray).
func createFile(path string, content []byte) (err error) {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("write %q: %w", path, err)
	}
	defer func() { err = errors.Join(err, os.Remove(tmp.Name())) }()
	_, err = tmp.Write(content)
	if err == nil {
		err = tmp.Chmod(publicMode)
	}
	if err == nil {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err != nil {
		return fmt.Errorf("write %q: %w", path, err)
	}
	// Unlike a rename, a link doesn't replace what stands there.
	if err := os.Link(tmp.Name(), path); err != nil {
		return fmt.Errorf("write %q: %w", path, err)
	}
	return syncFolder(filepath.Dir(path))
}

// removeStray removes what a createFile that was killed left in a folder. Only the one who may write there calls it.
func removeStray(folder string) error {
	stray, err := filepath.Glob(filepath.Join(folder, ".*.pem.*"))
	if err != nil {
		return err
	}
	for _, f := range stray {
		if err := os.Remove(f); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove what a killed setup left: %w", err)
		}
	}
	return nil
}

func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// readFile reads a small file.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() // opened for reading: nothing to lose
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("read %q: it is above the limit of %d bytes", path, maxFile)
	}
	return b, err
}

// publish makes a file, or checks that the one there says the same. It reports whether it made it.
func publish(path string, content []byte) (made bool, err error) {
	err = createFile(path, content)
	if !errors.Is(err, fs.ErrExist) {
		return err == nil, err
	}
	old, err := readFile(path)
	if err != nil {
		return false, err
	}
	if !bytes.Equal(old, content) {
		return false, console.Hint(fmt.Errorf("%q says something else than the token: it is of another set-up", path), "move the file away, or name another folder; nothing is overwritten")
	}
	return false, nil
}
