package station

import (
	"errors"
	"time"
)

// Why a call or a device had no result. A refusal of the SPP's is a
// *[RefusedError]. In each case the device stays as it is and running the
// station again takes it up.
var (
	// ErrUnreachable says that no SPP answered within callPatience.
	ErrUnreachable = errors.New("the SPP does not answer")
	// ErrAway says that the SPP answered, for callPatience, that something it
	// needs is away: a database, the HSM.
	ErrAway = errors.New("the SPP cannot carry the call out now")
	// ErrTrust says that station and SPP do not accept each other's certificate.
	ErrTrust = errors.New("station and SPP do not trust each other")
	// ErrParked says that the device waits for the registry: what the station
	// and the device had to do before is done and kept.
	ErrParked = errors.New("waits for the registry; run the station again")
	// ErrJournal says that the journal takes no page. No flash is erased
	// without one.
	ErrJournal = errors.New("the station's journal cannot be written")
	// ErrStopped says that the station was stopped before the device was done.
	ErrStopped = errors.New("the station was stopped; run it again to go on")
)

// RefusedError is the SPP's refusal of a call.
type RefusedError struct {
	Code    string // stable code of the cause, "unlisted-chip"
	Message string
	Hint    string        // what to do
	After   time.Duration // after what time the same call may succeed; 0: repeating it is no use
}

// Error gives the SPP's message and its code.
func (e *RefusedError) Error() string { return e.Message + " (" + e.Code + ")" }

// Refused gives the stable code.
func (e *RefusedError) Refused() string { return e.Code }

// Next gives the next step, "" where the SPP knows none.
func (e *RefusedError) Next() string { return e.Hint }

// undecided is what nobody refused and what was not done: one of the errors
// above, the trouble, the next step.
type undecided struct {
	kind   error
	detail string // "" where the error says it all
	next   string
}

func (e *undecided) Error() string {
	if e.detail == "" {
		return e.kind.Error()
	}
	return e.kind.Error() + ": " + e.detail
}
func (e *undecided) Unwrap() error { return e.kind }
func (e *undecided) Next() string  { return e.next }

// StopsLine tells whether an outcome's error stopped its whole line: the
// station's certificate, its quota, its journal, and not the device's own
// trouble.
func StopsLine(err error) bool { return reachOf(err) > stopsDevice }
