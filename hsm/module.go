package hsm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/devicekeys/devicekeys/secret"
)

// Config says which module a process uses, and how.
type Config struct {
	// Path is the module's file, for instance libsofthsm2.so. Required; package softhsm
	// has Module to find SoftHSM's.
	Path string
	// SignToken is the token whose keys [Token.Signer] offers to TLS and X.509, through
	// crypto11. Nil: crypto11 isn't used.
	SignToken *Credentials
	// LockFile is locked (flock) while the module is initialised, while a token is made
	// and while one is logged in to, so that processes sharing a token directory don't
	// meet a token file half rewritten. Empty: no lock. The first Load's counts.
	LockFile string
	// Production refuses what is fit for development only: tokens whose manufacturer is
	// "SoftHSM project", token labels that begin with "dev-", PINs that are defaults.
	Production bool
}

// TokenRef names a token by its label, its serial number, or both (then both must
// match). Never by slot number: those change. Two tokens of one label are an error.
type TokenRef struct {
	Label  string // up to 32 bytes
	Serial string // up to 16 bytes
}

func (r TokenRef) String() string {
	switch {
	case r.Serial == "":
		return fmt.Sprintf("labelled %q", r.Label)
	case r.Label == "":
		return fmt.Sprintf("of serial number %q", r.Serial)
	default:
		return fmt.Sprintf("labelled %q of serial number %q", r.Label, r.Serial)
	}
}

// Credentials are a token and its user PIN.
type Credentials struct {
	Token TokenRef
	PIN   secret.Secret
}

// Module is the process's PKCS#11 module. Safe for concurrent use.
type Module struct {
	lib        *library
	production bool

	mu     sync.Mutex
	tokens map[*Token]bool // opened through this handle and not yet closed
	closed bool
}

// Load initialises the module at cfg.Path, or returns another handle to it when this
// process has it already: a process has one module, so another path is an error, as is
// another SignToken than the first Load gave. The context bounds the wait for the lock
// file and the retries, not a call inside the module.
func Load(ctx context.Context, cfg Config) (*Module, error) {
	path, err := modulePath(cfg.Path)
	if err != nil {
		return nil, err
	}
	process.Lock()
	defer process.Unlock()
	if lib := process.lib; lib != nil {
		if lib.path != path {
			return nil, fmt.Errorf("hsm: load %q: this process already uses %q, and a process has one PKCS#11 module: close it first", path, lib.path)
		}
		if err := lib.sameSignToken(cfg); err != nil {
			return nil, err
		}
	} else {
		lib, err := newLibrary(ctx, path, cfg)
		if err != nil {
			return nil, err
		}
		process.lib = lib
	}
	process.refs++
	return &Module{lib: process.lib, production: cfg.Production, tokens: map[*Token]bool{}}, nil
}

func modulePath(path string) (string, error) {
	if path == "" {
		return "", errors.New("hsm: no PKCS#11 module named: set its path; for SoftHSM install package softhsm2 and take the path from softhsm.Module")
	}
	resolved, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", fmt.Errorf("hsm: find PKCS#11 module: %w: check the path, or install the module", err)
	}
	if info, err := os.Stat(resolved); err != nil || !info.Mode().IsRegular() {
		return "", fmt.Errorf("hsm: PKCS#11 module %q is not a file", resolved)
	}
	return filepath.Abs(resolved)
}

// Close closes the tokens opened through this handle; the last handle also finalises
// the module: tokens first, then crypto11. Safe to call twice.
func (m *Module) Close() error {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return nil
	}
	m.closed = true
	tokens := m.tokens
	m.tokens = nil
	m.mu.Unlock()
	var errs []error
	for t := range tokens {
		errs = append(errs, t.Close())
	}
	process.Lock()
	defer process.Unlock()
	if process.refs--; process.refs > 0 {
		return errors.Join(errs...)
	}
	process.lib = nil
	m.lib.recovery.end()
	m.lib.signers.shut(ErrClosed)
	errs = append(errs, m.lib.signers.drain(closeWait), m.lib.shutDown())
	return errors.Join(errs...)
}

// Calls tells how often each PKCS#11 function was called so far by this process
// through this package, crypto11's signatures included (its other calls are not).
// Functions never called are left out.
func (m *Module) Calls() map[string]uint64 {
	calls := map[string]uint64{}
	for f := range m.lib.calls {
		if n := m.lib.calls[f].Load(); n > 0 {
			calls[functionNames[f]] = n
		}
	}
	return calls
}
