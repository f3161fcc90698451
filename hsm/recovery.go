package hsm

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/pkcs11"
)

const (
	// reopenPause is the least time between two looks at a token that may be lost: a
	// token that is well answers within a millisecond, so looking costs nothing, and a
	// line that stands still notices no quarter of a second.
	reopenPause = 250 * time.Millisecond
	// reopenPauseMax bounds the time between two tries to open a lost token again. It
	// doubles up to there: an HSM that starts isn't to be flooded with logins.
	reopenPauseMax = 10 * time.Second
	// reopenWait bounds the wait for calls under way to return and for the lock file, in
	// one try.
	reopenWait = 5 * time.Second
)

// recovery opens lost tokens again: one goroutine for the library, which runs only while
// some token may be lost, looks at each at most every reopenPause, and pauses longer
// after each failure. Calls tell it what they met (observe); they don't wait for it.
type recovery struct {
	lib *library
	// reopened counts the tokens opened again.
	reopened atomic.Uint64

	ctx  context.Context // ends with the library
	stop context.CancelFunc
	wake chan struct{} // tells the goroutine of a new entry in due
	done sync.WaitGroup

	mu      sync.Mutex
	due     map[*slot]time.Time // tokens to look at, and when
	running bool
	ended   bool
}

func (r *recovery) begin(lib *library) {
	r.lib = lib
	r.ctx, r.stop = context.WithCancel(context.Background())
	r.wake = make(chan struct{}, 1)
	r.due = map[*slot]time.Time{}
}

// end waits for the goroutine, which stops at the end of the try it is in.
func (r *recovery) end() {
	r.mu.Lock()
	r.ended = true
	r.mu.Unlock()
	r.stop()
	r.done.Wait()
}

// observe has a slot looked at when err says that its token may be lost.
func (r *recovery) observe(sl *slot, err error) {
	if suspicious(err) {
		r.suspect(sl)
	}
}

// suspicious tells of an error that a lost token may have caused. What data from outside
// can cause is none.
func suspicious(err error) bool {
	switch Classify(err) {
	case DataFault:
		return false
	case Reinitialise:
		return true
	}
	// Sessions and objects also die one by one; but when a token is lost this may be all
	// that the module says.
	switch uint(codeOf(err)) {
	case pkcs11.CKR_SESSION_HANDLE_INVALID, pkcs11.CKR_SESSION_CLOSED,
		pkcs11.CKR_OBJECT_HANDLE_INVALID, pkcs11.CKR_KEY_HANDLE_INVALID,
		pkcs11.CKR_WRAPPING_KEY_HANDLE_INVALID, pkcs11.CKR_UNWRAPPING_KEY_HANDLE_INVALID:
		return true
	}
	return false
}

// suspect has a slot looked at, now or as soon as it may be.
func (r *recovery) suspect(sl *slot) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, known := r.due[sl]; known || r.ended {
		return
	}
	r.due[sl] = sl.tried.Add(max(sl.pause, reopenPause))
	if !r.running {
		r.running = true
		r.done.Go(r.run)
		return
	}
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *recovery) run() {
	for {
		sl, wait := r.next()
		switch {
		case sl == nil:
			return
		case wait <= 0:
			r.settle(sl, r.lib.recover(r.ctx, sl))
			continue
		}
		select {
		case <-r.ctx.Done():
		case <-r.wake:
		case <-time.After(wait):
		}
	}
}

// next gives the slot that is due first and the time until then; nil ends the goroutine.
func (r *recovery) next() (*slot, time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var first *slot
	for sl, at := range r.due {
		if first == nil || at.Before(r.due[first]) {
			first = sl
		}
	}
	if first == nil || r.ended {
		r.running = false
		return nil, 0
	}
	return first, time.Until(r.due[first])
}

// settle notes what came of a look at a slot, and when the next one is due.
func (r *recovery) settle(sl *slot, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	sl.tried = time.Now()
	if err == nil || errors.Is(err, ErrPIN) {
		sl.pause = 0
		delete(r.due, sl)
		return
	}
	sl.pause = min(max(2*sl.pause, reopenPause), reopenPauseMax)
	r.due[sl] = sl.tried.Add(sl.pause)
}
