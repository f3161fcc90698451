package hsm

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/miekg/pkcs11"
)

// library is the one initialised module of the process; Modules are references to it.
type library struct {
	cryptoki
	path     string // symbolic links resolved
	lockFile string
	signers  signers // crypto11's side
	signSlot *slot   // the slot of its token; nil: crypto11 isn't used
	signRef  TokenRef
	recovery recovery

	// mu is held while slots are looked up, logins made and tokens opened again.
	mu    sync.Mutex
	slots map[uint]*slot // every slot seen, by Cryptoki's id
	used  map[*slot]bool // those whose token the process needs
}

// process holds the library and how many Modules refer to it.
var process struct {
	sync.Mutex
	lib  *library
	refs int
	// contexts keeps each module file mapped for the life of the process. Unloading it
	// while threads of it may still unwind is how PKCS#11 programs crash at exit.
	contexts map[string]*pkcs11.Ctx
}

// newLibrary initialises the module: raw when there is no token for crypto11, else raw
// only to look up the token, then crypto11, then raw beside it. Needs process.Mutex.
func newLibrary(ctx context.Context, path string, cfg Config) (*library, error) {
	raw := process.contexts[path]
	if raw == nil {
		// New returns nil without a reason when the file isn't a PKCS#11 module.
		if raw = pkcs11.New(path); raw == nil {
			return nil, fmt.Errorf("hsm: %q can't be loaded as a PKCS#11 module: check that it is one, for this machine's architecture", path)
		}
		if process.contexts == nil {
			process.contexts = map[string]*pkcs11.Ctx{}
		}
		process.contexts[path] = raw
	}
	direct, ok := openDirect(path)
	if !ok {
		return nil, fmt.Errorf("hsm: %q gives no function list a second time: a fault of the module", path)
	}
	unlock, err := lockFile(ctx, cfg.LockFile)
	if err != nil {
		return nil, err
	}
	defer unlock()
	lib := &library{cryptoki: cryptoki{ctx: raw, direct: direct}, path: path, lockFile: cfg.LockFile, slots: map[uint]*slot{}, used: map[*slot]bool{}}
	lib.recovery.begin(lib)
	if err := lib.initialize(); err != nil {
		if codeOf(err) == pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED {
			return nil, fmt.Errorf("hsm: initialise %q: something else in this process did it already: %w", path, err)
		}
		return nil, fmt.Errorf("hsm: initialise %q: %w", path, err)
	}
	if cfg.SignToken == nil {
		return lib, nil
	}
	if err := lib.openSigner(ctx, cfg); err != nil {
		// openSigner leaves the module initialised only when it returns nil; a second
		// finalise is answered by CKR_CRYPTOKI_NOT_INITIALIZED and does no harm.
		_ = lib.finalize()
		return nil, err
	}
	return lib, nil
}

// openSigner hands the module over to crypto11 and attaches beside it. The token is
// looked up first, so that crypto11 is told a serial number: by label it would offer
// the PIN to the first of two tokens.
func (lib *library) openSigner(ctx context.Context, cfg Config) error {
	sl, err := lib.findSlot(ctx, cfg.SignToken.Token)
	if err != nil {
		return err
	}
	if err := sl.usable(cfg.Production, cfg.SignToken.PIN); err != nil {
		return err
	}
	serial := sl.info.Serial
	damaged, err := lib.scan()
	if err != nil {
		return err
	}
	if err := lib.finalize(); err != nil {
		return fmt.Errorf("hsm: hand the module over to crypto11: %w", err)
	}
	lib.slots = map[uint]*slot{}
	// The token was there a moment ago; see startTries.
	if err := lib.signers.configure(ctx, lib.path, serial, cfg.SignToken.PIN, startTries); err != nil {
		if damaged != nil && !errors.Is(err, ErrPIN) {
			// crypto11 looks for the token from slot to slot and gives up at the first error.
			return fmt.Errorf("hsm: open token %s for signing: beside it %w: %w", cfg.SignToken.Token, ErrDamaged, damaged)
		}
		return fmt.Errorf("hsm: open token %s for signing: %w", cfg.SignToken.Token, err)
	}
	if err := lib.attach(); err != nil {
		lib.signers.end()
		return err
	}
	if lib.signSlot, err = lib.findSlot(ctx, TokenRef{Serial: serial}); err != nil {
		lib.signers.end()
		return err
	}
	lib.signRef = cfg.SignToken.Token
	lib.signSlot.pin = cfg.SignToken.PIN // crypto11 has just logged in with it
	lib.signSlot.signer = true
	lib.used[lib.signSlot] = true
	return nil
}

// attach joins the module that crypto11 has initialised. That it is initialised already
// is expected here and nowhere else.
func (lib *library) attach() error {
	if err := lib.initialize(); err != nil && codeOf(err) != pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED {
		return fmt.Errorf("hsm: attach beside crypto11: %w", err)
	}
	return nil
}

// sameSignToken refuses a second Load that wants another signing token.
func (lib *library) sameSignToken(cfg Config) error {
	lib.mu.Lock()
	defer lib.mu.Unlock()
	c := cfg.SignToken
	switch {
	case c == nil:
		return nil
	case lib.signSlot == nil:
		return errors.New("hsm: load with a token for signing: this process loaded the module without one, and crypto11 must come first: name SignToken in the first Load")
	case lib.signRef != c.Token:
		return fmt.Errorf("hsm: load with token %s for signing: this process already signs with token %s", c.Token, lib.signRef)
	case !lib.signSlot.remembers(c.PIN):
		return fmt.Errorf("hsm: load with token %s for signing: not the PIN that this process logged in with: %w", c.Token, ErrPIN)
	}
	return lib.signSlot.usable(cfg.Production, c.PIN)
}
