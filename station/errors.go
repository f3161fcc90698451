package station

import "errors"

// Why a call or a device had no result. A refusal of the SPP's is a
// *[RefusedError]. In each case the device stays as it is and running the
// station again takes it up.
var (
	// ErrUnreachable says that the SPP did not answer within callPatience.
	ErrUnreachable = errors.New("the SPP does not answer")
	// ErrAway says that the SPP answered, for callPatience, that something it
	// needs is away: the registry, a database, the HSM.
	ErrAway = errors.New("the SPP cannot carry the call out now")
	// ErrTrust says that station and SPP do not accept each other's certificate.
	ErrTrust = errors.New("station and SPP do not trust each other")
	// ErrStopped says that the station was stopped before the device was done.
	ErrStopped = errors.New("the station was stopped; run it again to go on")
)

// RefusedError is the SPP's refusal of a call: repeating it is no use.
type RefusedError struct {
	Code    string // stable code of the cause, "unlisted-chip"
	Message string
	Hint    string // what to do
}

// Error gives the SPP's message.
func (e *RefusedError) Error() string { return e.Message }

// Refused gives the stable code.
func (e *RefusedError) Refused() string { return e.Code }

// Next gives the next step, "" where the SPP knows none.
func (e *RefusedError) Next() string { return e.Hint }

// unanswered is a call that nobody decided: one of the errors above, the last
// attempt's trouble, the next step.
type unanswered struct {
	kind   error
	detail string
	next   string
}

func (e *unanswered) Error() string { return e.kind.Error() + ": " + e.detail }
func (e *unanswered) Unwrap() error { return e.kind }
func (e *unanswered) Next() string  { return e.next }
