package softhsm

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/devicekeys/devicekeys/hsm"
)

// A Shim is a PKCS#11 module that stands before SoftHSM's and fails on request. A program
// whose configuration names [Shim.Module] as its module, and which is started with
// [Shim.Env] in its environment, runs on SoftHSM as ever; every one of its calls passes
// the shim, which counts it, delays it or answers an error, as the methods here say from
// outside while the program runs. Several processes may use one Shim: what is said holds
// for all of them, and the counts are of all together.
//
// It is for tests and drills: the shim sees every PIN. Safe for concurrent use by one
// process; two that set rules for one control file would overwrite each other's.
type Shim struct {
	module  string // the shim's file
	real    string // the module it forwards to
	control string // the control file
	state   *shimControl

	mu       sync.Mutex // while rules are set, and of attached
	attached bool
	before   [2]environment
}

// Rule says which calls fail, and how.
type Rule struct {
	// Function is the function's name, "C_Sign". Empty: every function.
	Function string
	// Code is what the calls answer, for instance [hsm.Code](pkcs11.CKR_DEVICE_ERROR).
	Code hsm.Code
	// From and To say which calls, counted from 1 at the moment when the rule is set; miekg
	// makes each call that has an output of variable length twice (see [hsm.Module.Calls]).
	// From 0 means 1; To 0 means From, so that the zero values fail the next call only.
	From, To uint64
	// After: the real call is made, and its answer is lost. Otherwise it isn't made.
	After bool
}

// Forever as [Rule].To fails all calls from From on, until [Shim.Clear].
const Forever = math.MaxUint64

// The layout of the control file, as in shim/control.h.
const (
	shimMagic   = 0x646b2d7368696d31
	shimVersion = 2
	shimRules   = 64
	shimTable   = 128
	anyFunction = shimTable - 1
)

type shimRule struct {
	armed, function, code, after, from, to, seen, _ atomic.Uint64
}

type shimControl struct {
	magic, version, functions, used, lost, epoch, sessions, busy, busiest, asked, told, objects, open atomic.Uint64

	calls, failed, delay, sizes, spent [shimTable]atomic.Uint64
	rules                              [shimRules]shimRule
}

// The variables of the environment that the shim reads.
const (
	shimModuleVariable  = "DEVICEKEYS_SHIM_MODULE"
	shimControlVariable = "DEVICEKEYS_SHIM_CONTROL"
)

// BuildShim compiles the shim into dir, unless an earlier call has, and makes a control
// file there, a new one for each call; [Shim.Close] removes it. It needs a C compiler:
// $CC, cc, gcc or clang. Building takes half a second.
//
// A crash leaves files in dir, which a later call uses or passes over.
func BuildShim(ctx context.Context, dir string) (*Shim, error) {
	s, err := buildShim(ctx, dir)
	if err != nil {
		return nil, fmt.Errorf("build the PKCS#11 shim in %q: %w", dir, err)
	}
	return s, nil
}

// NewShim builds a shim for a test in a directory that goes with it. Without SoftHSM the
// test is skipped as by [New]; without a C compiler it fails, since nothing in this
// repository that speaks PKCS#11 can be built without one.
func NewShim(t testing.TB) *Shim {
	t.Helper()
	s, err := BuildShim(t.Context(), t.TempDir())
	if err != nil {
		missing(t, err, false)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func buildShim(ctx context.Context, dir string) (*Shim, error) {
	module, err := Module()
	if err != nil {
		return nil, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	s := &Shim{real: module}
	if s.module, err = compileShim(ctx, dir); err != nil {
		return nil, err
	}
	if s.control, s.state, err = makeControl(dir); err != nil {
		return nil, err
	}
	return s, nil
}

// Module is the shim's file: the module to load in place of SoftHSM's.
func (s *Shim) Module() string { return s.module }

// Env is what a child process needs in its environment beside SOFTHSM2_CONF:
//
//	cmd.Env = append(directory.Env(), shim.Env()...)
func (s *Shim) Env() []string {
	return []string{shimModuleVariable + "=" + s.real, shimControlVariable + "=" + s.control}
}

// environment is a variable's value before it was changed.
type environment struct {
	value string
	set   bool
}

// Attach sets the same variables in this process, whose module reads them when
// [hsm.Load] loads and initialises it. [Shim.Close] undoes it.
func (s *Shim) Attach() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.attached {
		return nil
	}
	for i, v := range []struct{ name, value string }{{shimModuleVariable, s.real}, {shimControlVariable, s.control}} {
		s.before[i].value, s.before[i].set = os.LookupEnv(v.name)
		if err := os.Setenv(v.name, v.value); err != nil {
			return fmt.Errorf("attach the PKCS#11 shim: %w", err)
		}
	}
	s.attached = true
	return nil
}

// Close removes the control file and undoes [Shim.Attach]. Call it after the programs
// have ended that use the shim: one that initialises its module later fails. The module's
// file stays.
func (s *Shim) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.attached {
		s.attached = false
		for i, name := range []string{shimModuleVariable, shimControlVariable} {
			restore := func() error { return os.Setenv(name, s.before[i].value) }
			if !s.before[i].set {
				restore = func() error { return os.Unsetenv(name) }
			}
			if err := restore(); err != nil {
				return fmt.Errorf("detach the PKCS#11 shim: %w", err)
			}
		}
	}
	// The mapping stays for the life of the process: a method may be using it.
	if err := os.Remove(s.control); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("close the PKCS#11 shim: %w", err)
	}
	return nil
}

// number gives a function's number in the control file.
func (s *Shim) number(name string) (int, error) {
	if name == "" {
		return anyFunction, nil
	}
	i := slices.Index(shimFunctions(), name)
	if i < 0 {
		return 0, fmt.Errorf("PKCS#11 v2.40 has no function %q: they are named as C_Sign is", name)
	}
	return i, nil
}

// Delay has every call of a function wait for d before it does anything, as one to an
// HSM across a network does; 0 switches it off. With function "" it holds for those
// that have no delay of their own.
func (s *Shim) Delay(function string, d time.Duration) error {
	i, err := s.number(function)
	if err != nil {
		return err
	}
	if d < 0 {
		return fmt.Errorf("a delay of %v: give a positive one, or 0 for none", d)
	}
	s.state.delay[i].Store(uint64(d.Microseconds()))
	return nil
}

// Fail sets a rule. Rules add up, 64 at most. Every rule counts the calls of its
// function; where several apply to one call, one of them decides. A rule whose last call
// has been made gives its place free.
func (s *Shim) Fail(r Rule) error {
	i, err := s.number(r.Function)
	if err != nil {
		return err
	}
	if r.From == 0 {
		r.From = 1
	}
	if r.To == 0 {
		r.To = r.From
	}
	if r.To < r.From || r.Code == 0 {
		return fmt.Errorf("a rule for calls %d to %d with code %d: give a code that isn't 0, and calls in ascending order", r.From, r.To, uint(r.Code))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for n := range s.state.rules {
		w := &s.state.rules[n]
		if w.armed.Load() == 1 && w.seen.Load() < w.to.Load() {
			continue
		}
		w.armed.Store(0)
		w.function.Store(uint64(i))
		w.code.Store(uint64(r.Code))
		w.after.Store(0)
		if r.After {
			w.after.Store(1)
		}
		w.from.Store(r.From)
		w.to.Store(r.To)
		w.seen.Store(0)
		if s.state.used.Load() <= uint64(n) {
			s.state.used.Store(uint64(n) + 1)
		}
		w.armed.Store(1) // last: from here on the shim reads the rest
		return nil
	}
	return fmt.Errorf("%d rules are in force and there is no place for more: clear them first", shimRules)
}

// Lose takes the token away, or puts it back. While it is away every call but
// C_Initialize, C_Finalize and C_GetInfo answers CKR_TOKEN_NOT_PRESENT. When it is back,
// the sessions that were open before are invalid, nobody is logged in, and session
// objects are gone.
func (s *Shim) Lose(on bool) {
	if on {
		s.LoseAs(pkcs11.CKR_TOKEN_NOT_PRESENT)
		return
	}
	s.state.lost.Store(0)
}

// LoseAs is Lose(true) with another code for the answers, for instance
// CKR_DEVICE_REMOVED.
func (s *Shim) LoseAs(code hsm.Code) {
	s.state.epoch.Add(1)
	s.state.lost.Store(uint64(code))
}

// Drop loses all sessions and logins at once, while the token itself stays: what an HSM
// does that restarted between two calls.
func (s *Shim) Drop() { s.state.epoch.Add(1) }

// Sessions limits how many sessions a process may have open at once; more are refused
// with CKR_SESSION_COUNT. Those open already stay. 0 lifts the limit.
func (s *Shim) Sessions(n int) { s.state.sessions.Store(uint64(max(n, 0))) }

// Counts tells how often each function was called, failed calls included. Functions
// never called are left out. C_GetFunctionList isn't counted.
func (s *Shim) Counts() map[string]uint64 { return s.table(&s.state.calls) }

// Failed tells how many calls of each function the shim has failed.
func (s *Shim) Failed() map[string]uint64 { return s.table(&s.state.failed) }

// SizeQueries tells how many of the calls only asked how long their output would be, as
// C_Sign does without a buffer.
func (s *Shim) SizeQueries() map[string]uint64 { return s.table(&s.state.sizes) }

// Spent tells how long the calls of each function took that have ended, as their caller
// sees it: with the delays that the shim makes.
func (s *Shim) Spent() map[string]time.Duration {
	spent := map[string]time.Duration{}
	for name, n := range s.table(&s.state.spent) {
		spent[name] = time.Duration(n)
	}
	return spent
}

// Busiest tells how many calls were under way at once, at most. A call in which its process
// was killed is under way for ever.
func (s *Shim) Busiest() int { return int(s.state.busiest.Load()) }

// censusPoll is the pause between two looks at whether a census was taken.
const censusPoll = 10 * time.Millisecond

// Census tells how many session objects and sessions a process has that uses the shim; of
// several processes, one of them. The process counts at its next call, so make sure that
// there is one; Census waits for it until ctx ends. The session that counts isn't counted.
func (s *Shim) Census(ctx context.Context) (objects, sessions int, err error) {
	asked := s.state.asked.Add(1)
	for s.state.told.Load() < asked {
		select {
		case <-ctx.Done():
			return 0, 0, fmt.Errorf("count the objects of a token: no process made a call, or it couldn't count: %w", context.Cause(ctx))
		case <-time.After(censusPoll):
		}
	}
	return int(s.state.objects.Load()), int(s.state.open.Load()), nil
}

func (s *Shim) table(words *[shimTable]atomic.Uint64) map[string]uint64 {
	counts := map[string]uint64{}
	for i, name := range shimFunctions() {
		if n := words[i].Load(); n > 0 {
			counts[name] = n
		}
	}
	return counts
}

// Clear ends all faults: rules, delays, the limit on sessions, and a token away is put
// back. The counts stay.
func (s *Shim) Clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n := range s.state.rules {
		s.state.rules[n].armed.Store(0)
	}
	for i := range s.state.delay {
		s.state.delay[i].Store(0)
	}
	s.state.sessions.Store(0)
	s.state.lost.Store(0)
}

// Reset is Clear, and counts begin at 0 again.
func (s *Shim) Reset() {
	s.Clear()
	for i := range s.state.calls {
		s.state.calls[i].Store(0)
		s.state.failed[i].Store(0)
		s.state.sizes[i].Store(0)
		s.state.spent[i].Store(0)
	}
	s.state.busiest.Store(s.state.busy.Load())
}
