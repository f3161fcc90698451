package secret

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// MaxSize is the largest secret a file may hold, in bytes, its newline not
	// counted. PINs and passwords are far shorter; the bound keeps a wrong path
	// (a log, a device file) from being read whole.
	MaxSize = 1024

	// descriptorWait bounds the wait for the next bytes of a descriptor: enough for
	// a person at a terminal or a slow parent, not for ever.
	descriptorWait = time.Minute

	fileMode = 0o400

	descriptorPrefix = "fd:"
)

// ErrExist: [WriteFile] found something under the path and left it alone.
var ErrExist = fs.ErrExist

// ReadFile reads the secret at path: one line, its newline trimmed, at most
// [MaxSize] bytes. The file must be regular, of mode 0400 exactly and owned by the
// user of this process; root may read anyone's. A symbolic link is followed and what it
// points to is judged.
//
// A path "fd:N" (N = 0 or from 3) reads the open descriptor N to its end instead
// and closes it, so each can be read once; it must be a file, pipe, socket or
// terminal, and is waited for at most a minute. Its mode isn't asked: who passed it
// has already read it.
//
// Errors tell the next step and never show content.
func ReadFile(path string) (Secret, error) {
	if number, ok := strings.CutPrefix(path, descriptorPrefix); ok {
		return readDescriptor(number)
	}
	if path == "" {
		return Secret{}, errors.New("read secret: no file named: name a file of mode 0400 or a descriptor (fd:3)")
	}
	// O_NONBLOCK: opening a pipe by mistake must not hang; it is refused below.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return Secret{}, fmt.Errorf("read secret: %w", err)
	}
	defer f.Close()
	info, err := f.Stat() // of what was opened, not of what now bears the name
	if err != nil {
		return Secret{}, fmt.Errorf("read secret: %w", err)
	}
	if err := check(path, info, os.Geteuid()); err != nil {
		return Secret{}, err
	}
	s, err := readLine(f)
	if err != nil {
		return Secret{}, fmt.Errorf("read secret %q: %w", path, err)
	}
	return s, nil
}

// check refuses a file that others could have read or written.
func check(path string, info fs.FileInfo, euid int) error {
	if !info.Mode().IsRegular() {
		return fmt.Errorf("read secret %q: it is a %s, not a regular file: write the secret to a file of its own and run: chmod 0400 %s",
			path, kindOf(info.Mode()), path)
	}
	const all = fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky
	if mode := info.Mode() & all; mode != fileMode {
		return fmt.Errorf("read secret %q: its mode is %#o, not 0400: run: chmod 0400 %s", path, uint32(info.Mode().Perm()), path)
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("read secret %q: this system tells no owner of a file: pass the secret by a descriptor (fd:3)", path)
	}
	if euid != 0 && int(owner.Uid) != euid {
		return fmt.Errorf("read secret %q: it belongs to user %d, and this process runs as user %d: run: chown %d %s",
			path, owner.Uid, euid, euid, path)
	}
	return nil
}

func kindOf(m fs.FileMode) string {
	switch {
	case m.IsDir():
		return "directory"
	case m&fs.ModeNamedPipe != 0:
		return "pipe"
	case m&fs.ModeSocket != 0:
		return "socket"
	case m&fs.ModeDevice != 0:
		return "device"
	default:
		return "special file"
	}
}

// readDescriptor reads an inherited descriptor to its end and closes it.
func readDescriptor(number string) (Secret, error) {
	fail := func(err error) (Secret, error) {
		return Secret{}, fmt.Errorf("read secret from descriptor %q: %w", number, err)
	}
	n, err := strconv.ParseUint(number, 10, 16)
	if err != nil || n == 1 || n == 2 || strconv.FormatUint(n, 10) != number {
		return fail(errors.New("not a readable descriptor: use fd:0 or fd:3 and up"))
	}
	fd := int(n)
	// A wrong number may hit a descriptor of the Go runtime (its poller). That one has
	// no file type, so it is refused before anything is read from it or closed.
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fail(fmt.Errorf("%w: open it for this process, as in: program 3<file", err))
	}
	switch uint32(st.Mode) & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFIFO, unix.S_IFSOCK, unix.S_IFCHR:
	default:
		return fail(errors.New("it is neither file, pipe, socket nor terminal: open it for this process, as in: program 3<file"))
	}
	defer unix.Close(fd)
	s, err := readLine(polled(fd))
	if err != nil {
		return fail(err)
	}
	return s, nil
}

// polled reads a descriptor, blocking or not, waiting at most descriptorWait for
// each piece.
type polled int

func (p polled) Read(b []byte) (int, error) {
	until := time.Now().Add(descriptorWait)
	for {
		left := time.Until(until)
		if left <= 0 {
			return 0, fmt.Errorf("nothing came within %s: whoever passes the descriptor has to write the secret and close it", descriptorWait)
		}
		ready, err := unix.Poll([]unix.PollFd{{Fd: int32(p), Events: unix.POLLIN}}, int(left.Milliseconds())+1)
		if err != nil && err != unix.EINTR {
			return 0, err
		}
		if err != nil || ready == 0 {
			continue
		}
		n, err := unix.Read(int(p), b)
		switch {
		case err == unix.EINTR || err == unix.EAGAIN:
			continue
		case err != nil:
			return 0, err
		case n == 0:
			return 0, io.EOF
		}
		return n, nil
	}
}

// readLine reads r to its end and takes its one line.
func readLine(r io.Reader) (Secret, error) {
	content, err := io.ReadAll(io.LimitReader(r, MaxSize+3)) // newline of two bytes, and one to see excess
	if err != nil {
		return Secret{}, err
	}
	return parse(content)
}

// parse takes the one line of a secret file.
func parse(content []byte) (Secret, error) {
	line := content
	if l, ok := bytes.CutSuffix(line, []byte("\n")); ok {
		line = bytes.TrimSuffix(l, []byte("\r"))
	}
	if err := checkLine(line); err != nil {
		return Secret{}, err
	}
	return New(line), nil
}

// checkLine tells what is wrong with a secret as the line of a file.
func checkLine(line []byte) error {
	switch {
	case len(line) == 0:
		return errors.New("it is empty: write the secret to it, on one line")
	case len(line) > MaxSize:
		return fmt.Errorf("it is longer than %d bytes: is this the right file?", MaxSize)
	case bytes.ContainsAny(line, "\n\r\x00"):
		return errors.New("it has more than one line, or a zero byte: it must be the secret alone, on one line")
	}
	return nil
}

// WriteFile writes s and a newline to a new file of mode 0400 at path, in a folder that
// exists, and makes it durable. It never overwrites: errors.Is(err, [ErrExist]).
//
// The content goes to a temporary name first and is linked to path when it is
// complete. A crash before the link leaves a hidden file of mode 0400 beside path, which
// nothing reads and anyone may delete; path itself is either absent or whole.
func WriteFile(path string, s Secret) error {
	if err := writeFile(path, s); err != nil {
		return fmt.Errorf("write secret %q: %w", path, err)
	}
	return nil
}

func writeFile(path string, s Secret) (err error) {
	if strings.HasPrefix(path, descriptorPrefix) {
		return fmt.Errorf("a name that begins with %q means a descriptor: name a file, as in %q", descriptorPrefix, "./"+path)
	}
	if err := checkLine(s.bytes()); err != nil {
		return err
	}
	folder, name := filepath.Split(path)
	if folder == "" {
		folder = "."
	}
	f, err := os.CreateTemp(folder, "."+name+".new-") // 0600, O_EXCL
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(f.Name())) }()
	defer f.Close()
	if _, err := f.Write(append(s.Bytes(), '\n')); err != nil {
		return err
	}
	if err := f.Chmod(fileMode); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("%w: a secret is never overwritten; choose another name or remove the file if nothing needs it", ErrExist)
		}
		return err
	}
	// A crash before this sync may lose the name, never give it half the content.
	d, err := os.Open(folder)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
