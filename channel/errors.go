package channel

import (
	"errors"
	"fmt"
	"time"
)

// Errors of handshakes and channels. None carries what either side computed.
var (
	// ErrForm says that bytes of the peer are none of this protocol's.
	ErrForm = errors.New("the peer doesn't speak this protocol")
	// ErrRefused says that the peer didn't prove itself, or that the service didn't let
	// the device in; the reason isn't told.
	ErrRefused = errors.New("no channel comes about: a key doesn't fit, or the device isn't let in")
	// ErrTruncated says that the connection ended without the channel's end: the last
	// message may not have been the last.
	ErrTruncated = errors.New("the connection ended before the channel did")
	// ErrTampered says that a frame of an open channel doesn't open.
	ErrTampered = errors.New("what came was changed on its way")
	// ErrTooLarge says that a message is longer than Limits.Message.
	ErrTooLarge = errors.New("message too large")
	// ErrIdle says that nothing came for Limits.Idle, or not the rest within Limits.Frame.
	ErrIdle = errors.New("the peer was silent for too long")
	// ErrEnded says that this side has ended the channel already.
	ErrEnded = errors.New("this side has ended the channel")
	// ErrNoHello says that the peer broke off, or was silent, before its hello was there:
	// a health check, a scanner, a network that was lost.
	ErrNoHello = errors.New("no hello came")
	// ErrTurnedAway says that the service ended the connection before TLS was through: it
	// has no time for this source, no room, or no TLS. There is nothing to say it in; come
	// again later.
	ErrTurnedAway = errors.New("the service ended the connection before TLS was through: it has no time, or no TLS suites; come again later")
	// ErrClock says that a certificate isn't valid at this side's time. The TLS suites
	// need a clock; SuiteNoise needs none.
	ErrClock = errors.New("the peer's certificate isn't valid by the clock of this side")
	// ErrReflected says that the peer's ephemeral key is this side's own.
	ErrReflected = errors.New("the peer sends back what it was sent")
)

// BusyError says that the service has no time: the device asks again later. It's not
// authenticated, and no more than a hint.
type BusyError struct{ After time.Duration }

func (e *BusyError) Error() string {
	return fmt.Sprintf("the service is busy, ask again in %s", e.After)
}

// RetryAfter gives how long to wait.
func (e *BusyError) RetryAfter() time.Duration { return e.After }

// maxRetry bounds what a device is told to wait, and what it believes.
const maxRetry = 255 * time.Second

// busyFrame is the content of a busy frame: whole seconds, from 1.
func busyFrame(after time.Duration) []byte {
	after = min(max(after+time.Second-1, time.Second), maxRetry)
	return []byte{frameBusy, byte(after / time.Second)}
}

func parseBusy(b []byte) error {
	if len(b) != 2 || b[0] != frameBusy || b[1] == 0 {
		return fmt.Errorf("%w: a busy frame of %d bytes", ErrForm, len(b))
	}
	return &BusyError{After: time.Duration(b[1]) * time.Second}
}

// busy tells whether an error says that it is the service's own trouble, which no device
// learns anything from.
func busy(err error) (after time.Duration, ok bool) {
	var b interface{ RetryAfter() time.Duration }
	if errors.As(err, &b) {
		return b.RetryAfter(), true
	}
	return 0, false
}
