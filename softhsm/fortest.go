package softhsm

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/secret"
	"github.com/devicekeys/devicekeys/untested"
)

const (
	// testBound bounds each act on a test's tokens: far more than it takes on a loaded
	// machine, less than go test's own limit.
	testBound = time.Minute

	// slotBound is what the making of one more slot may add to that.
	slotBound = time.Second

	// abandonedAge is how old the mark of a dead process's directory must be: the owner of a
	// new one may be about to lock it.
	abandonedAge = time.Minute

	// testPrefix begins the name of each directory of a test process.
	testPrefix = "softhsm-test-"
)

// HSM is the SoftHSM of this test process. All tests share it; tokens are each test's
// own.
type HSM struct {
	Directory *Directory
	Hsm       *hsm.Module

	// SignToken is the token that the module was loaded with for crypto11, so that
	// [hsm.Token.Signer] works on it. Tests share it too: give your keys unique labels.
	SignToken Token

	alive *os.File // locked as long as this process lives
}

// Option changes what [New] gives.
type Option func(*options)

type options struct{ require bool }

// Required has New fail, not skip, without SoftHSM, also where CI isn't set.
func Required() Option { return func(o *options) { o.require = true } }

// shared is the HSM of this process while a test uses it.
var shared struct {
	sync.Mutex
	hsm   *HSM
	users int  // tests, and Main
	main  bool // Main runs and becomes a user once there is an HSM
}

// New returns the SoftHSM of this test process: its directory is attached and the module
// loaded by the first test that asks, and closed and removed at the end of the last one that
// uses it. It is safe in parallel tests.
//
// Without SoftHSM the test is skipped, and fails where CI=true.
func New(t testing.TB, opts ...Option) *HSM {
	t.Helper()
	var o options
	for _, opt := range opts {
		opt(&o)
	}
	shared.Lock()
	defer shared.Unlock()
	if shared.hsm == nil {
		h, err := open()
		if err != nil {
			missing(t, err, o.require)
		}
		shared.hsm = h
		if shared.main {
			shared.users++
		}
	}
	shared.users++
	t.Cleanup(func() {
		if err := release(); err != nil {
			t.Error(err)
		}
	})
	return shared.hsm
}

// missing ends the test: skipped without SoftHSM, failed for any other reason, where
// CI=true, and where it is required.
func missing(t testing.TB, err error, required bool) {
	t.Helper()
	if errors.Is(err, ErrNotInstalled) && !required {
		untested.Skip(t, "%v", err)
	}
	t.Fatal(err)
}

// Main runs the tests and keeps one HSM for all of them, for a package with many tests that
// don't run in parallel:
//
//	func TestMain(m *testing.M) { os.Exit(softhsm.Main(m)) }
func Main(m *testing.M) (code int) {
	shared.Lock()
	shared.main = true
	shared.Unlock()
	code = m.Run()
	shared.Lock()
	shared.main = false
	used := shared.hsm != nil
	shared.Unlock()
	if used {
		if err := release(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return max(code, 1)
		}
	}
	return code
}

// release is the end of one use.
func release() error {
	shared.Lock()
	defer shared.Unlock()
	shared.users--
	if shared.users > 0 {
		return nil
	}
	h := shared.hsm
	shared.hsm = nil
	return h.close()
}

// open makes a directory and loads the module on it.
func open() (_ *HSM, err error) {
	if _, err := Module(); err != nil {
		return nil, err
	}
	removeAbandoned()
	path, err := os.MkdirTemp("", testPrefix)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(path))
		}
	}()
	h := &HSM{}
	if h.alive, err = markAlive(path); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			h.alive.Close()
		}
	}()
	if h.Directory, err = NewDirectory(path); err != nil {
		return nil, err
	}
	if err := h.Directory.Attach(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.Directory.Detach())
		}
	}()
	return h, h.load()
}

// load loads the module: crypto11 must come first, and it wants a token, so that is made in
// a round of its own.
func (h *HSM) load() error {
	ctx, cancel := context.WithTimeout(context.Background(), testBound)
	defer cancel()
	cfg := h.Directory.Config()
	first, err := hsm.Load(ctx, cfg)
	if err != nil {
		return err
	}
	tokens, err := Slots(ctx, first, "sign", 1, nil)
	if err := errors.Join(err, first.Close()); err != nil {
		return err
	}
	h.SignToken = tokens[0]
	credentials := h.SignToken.Credentials()
	cfg.SignToken = &credentials
	h.Hsm, err = hsm.Load(ctx, cfg)
	return err
}

// close undoes open.
func (h *HSM) close() error {
	return errors.Join(h.Hsm.Close(), h.Directory.Detach(), os.RemoveAll(h.Directory.Path()), h.alive.Close())
}

// Token makes a token for a test, with random PINs and a label that begins with name (up to
// 20 bytes). Failures end the test.
func (h *HSM) Token(t testing.TB, name string) Token {
	t.Helper()
	return h.make(t, name, 1, nil)[0]
}

// make makes tokens labelled name, a random word, and a number.
func (h *HSM) make(t testing.TB, name string, n int, progress func(int)) []Token {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testBound+time.Duration(n)*slotBound)
	defer cancel()
	tokens, err := Slots(ctx, h.Hsm, name+"-"+strings.ToLower(rand.Text()[:5]), n, progress)
	if err != nil {
		t.Fatal(err)
	}
	return tokens
}

// Open opens a token, with sessions for a few goroutines, until the end of the test.
func (h *HSM) Open(t testing.TB, token Token) *hsm.Token {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testBound)
	defer cancel()
	opened, err := h.Hsm.Open(ctx, token.Credentials(), hsm.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := opened.Close(); err != nil {
			t.Error(err)
		}
	})
	return opened
}

// Slots makes n tokens, as for n devices. Progress functions are told how many are made.
func (h *HSM) Slots(t testing.TB, n int, progress ...func(made int)) []Token {
	t.Helper()
	return h.make(t, "slot", n, func(made int) {
		for _, f := range progress {
			f(made)
		}
	})
}

// NewDirectory makes another token directory, for a child process of the test, removed at
// its end.
func (h *HSM) NewDirectory(t testing.TB) *Directory {
	t.Helper()
	d, err := NewDirectory(filepath.Join(t.TempDir(), "softhsm"))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// Token makes a token with random PINs in the directory; see InitToken. For tests.
func (d *Directory) Token(t testing.TB, label string) Token {
	t.Helper()
	token, err := d.InitToken(label, secret.Random(pinBytes), secret.Random(pinBytes))
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// aliveFile is locked by the process whose directory it stands in.
const aliveFile = "alive"

func markAlive(path string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(path, aliveFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %q: %w", f.Name(), err), f.Close())
	}
	return f, nil
}

// removeAbandoned removes directories of test processes that died before they could:
// those of ours whose mark nobody has locked.
func removeAbandoned() {
	found, _ := filepath.Glob(filepath.Join(os.TempDir(), testPrefix+"*")) // fails only on a bad pattern
	for _, path := range found {
		f, err := os.OpenFile(filepath.Join(path, aliveFile), os.O_RDWR, 0)
		if err != nil {
			continue // not ours, or just being made or removed
		}
		info, err := f.Stat()
		if err == nil && ownedByUs(info) && time.Since(info.ModTime()) > abandonedAge && syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			os.RemoveAll(path) // if it fails the next test process tries again
		}
		f.Close()
	}
}

func ownedByUs(info os.FileInfo) bool {
	s, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(s.Uid) == os.Geteuid()
}
