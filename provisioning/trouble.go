package provisioning

import (
	"context"
	"errors"
	"time"

	"github.com/devicekeys/devicekeys/database"
)

// retryAfter is what a station is told to wait when something is away: a
// Postgres failover or a lost HSM session takes seconds, and stations in their
// dozens shall not hammer meanwhile.
const retryAfter = 2 * time.Second

// keyError marks an error of the HSM: nothing else tells it from a database's.
type keyError struct{ err error }

func (e *keyError) Error() string { return e.err.Error() }
func (e *keyError) Unwrap() error { return e.err }

// inHSM marks err, which may be nil.
func inHSM(err error) error {
	if err == nil {
		return nil
	}
	return &keyError{err}
}

// trouble is the one place where errors of stores and HSM become answers to a
// station: it learns what is away and when to ask again, the log the rest.
func trouble(ctx context.Context, err error) *Refusal {
	var r *Refusal
	var key *keyError
	var open *openError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &r):
		return r
	case errors.As(err, &open):
		return refuse(CodeHSM, "send the request again; if it stays so, look at the SPP's log: the HSM is gone, or refused the PIN",
			"the HSM is away").because(err).after(open.retry)
	case ctx.Err() != nil:
		return refuse(CodeTimeout, "send the request again; if it stays so, look at the SPP's log: HSM or database are slow",
			"the call took longer than it may").because(err).after(retryAfter)
	case errors.As(err, &key):
		return refuse(CodeHSM, "send the request again; if it stays so, look at the SPP's log: the HSM may be gone",
			"the HSM did not do its part").because(err).after(retryAfter)
	case errors.Is(err, context.DeadlineExceeded):
		// Whatever else the error says (Postgres: "canceling statement"), time ended it.
		return refuse(CodeTimeout, "send the request again; if it stays so, look at the SPP's log: the database is slow",
			"the call took longer than it may").because(err).after(retryAfter)
	case database.Transient(err):
		return refuse(CodeDatabase, "send the request again; if it stays so, look at the SPP's log: Postgres may be down, or its disk full",
			"the database is away or has no room").because(err).after(retryAfter)
	}
	return refuse(CodeInternal, "look at the SPP's log", "the SPP failed").because(err)
}
