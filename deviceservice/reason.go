package deviceservice

import (
	"errors"
	"fmt"
	"time"

	"github.com/devicekeys/devicekeys/channel"
)

// Reason says why a peer was refused. It is for metrics and logs; the peer is never told.
type Reason string

// The reasons.
const (
	ReasonRealm      Reason = "realm"          // of another realm
	ReasonKey        Reason = "key"            // a key that the records don't have for it
	ReasonWay        Reason = "way"            // a way that its product line may not use
	ReasonUnknown    Reason = "unknown"        // never issued
	ReasonInactive   Reason = "inactive"       // quarantined, scrapped or burned
	ReasonSuperseded Reason = "superseded"     // a later generation is in the field
	ReasonAhead      Reason = "ahead"          // a generation that is not in the field yet
	ReasonAway       Reason = "records-away"   // what was issued can't be read now
	ReasonBusy       Reason = "busy"           // too many at once
	ReasonHSM        Reason = "hsm"            // the HSM failed
	ReasonNoKey      Reason = "no-wrapped-key" // a key that should be fetched isn't there
	ReasonCert       Reason = "certificate"    // not the device's certificate
	ReasonStranger   Reason = "stranger"       // no certificate of the device CA
	ReasonProof      Reason = "proof"          // it does not hold the key, or the handshake broke off after the hello
	ReasonNoHello    Reason = "no-hello"       // nothing came, or it broke off before a hello: health checks, scanners
	ReasonForm       Reason = "form"           // bytes that are none of the channel's
	ReasonLimited    Reason = "limited"        // its source, or whoever says its identity, comes too often
)

// Refusal is why Admit refuses a peer.
type Refusal struct {
	Reason Reason
	Err    error // nil where the reason says it all
}

func (r *Refusal) Error() string {
	if r.Err == nil {
		return "refused: " + string(r.Reason)
	}
	return fmt.Sprintf("refused: %s: %v", r.Reason, r.Err)
}

func (r *Refusal) Unwrap() error { return r.Err }

func refuse(reason Reason, err error) error {
	r := &Refusal{reason, err}
	if reason == ReasonAway {
		return &awayError{r}
	}
	return r
}

// awayError is the one refusal that the peer is told, as a time to come again (channel.BusyError): what was issued can't
// be read. It tells of an identity only whether it was asked for within the records' age, issued or not. A full HSM is
// not told: only who was issued gets that far.
type awayError struct{ refusal *Refusal }

func (e *awayError) Error() string { return e.refusal.Error() }
func (e *awayError) Unwrap() error { return e.refusal }

// RetryAfter is what makes the channel tell it.
func (e *awayError) RetryAfter() time.Duration { return retryAfter }

// reasonOf gives the reason of an error of a handshake: what Admit said, or the channel.
func reasonOf(err error) Reason {
	var (
		r    *Refusal
		busy *channel.BusyError
	)
	switch {
	case errors.As(err, &r):
		return r.Reason
	case errors.As(err, &busy):
		return ReasonLimited
	case errors.Is(err, channel.ErrStranger):
		return ReasonStranger
	case errors.Is(err, channel.ErrClock):
		return ReasonCert
	case errors.Is(err, channel.ErrForm):
		return ReasonForm
	case errors.Is(err, channel.ErrNoHello):
		return ReasonNoHello
	}
	return ReasonProof
}
