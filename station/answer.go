package station

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"time"

	"connectrpc.com/connect"

	provisioningrpc "github.com/devicekeys/devicekeys/provisioning/rpc"
)

// The SPP's codes that a station acts on; all others it only passes on.
const (
	codeUnknownDevice = "unknown-device" // never begun
	codePublication   = "publication"    // the entry is safe at the SPP and waits for the registry

	// Something of this SPP's is away: another one may have it.
	codeStopping = "stopping"
	codeHSM      = "hsm"
	codeDatabase = "database"
	codeTimeout  = "timeout"

	// The station may not, whatever the device.
	codeStation = "station"
	codeExpired = "station-expired"
	codeRevoked = "station-revoked"
	codeLine    = "line"

	// The station may begin no device; those begun go on.
	codeQuota     = "quota"
	codePoolEmpty = "pool-empty"

	// CodeChallenge says that a proof is over a challenge that this SPP did not
	// give, or gave too long ago.
	CodeChallenge = "challenge"
)

// answer is what a failed attempt means.
type answer struct {
	err        error
	said       bool          // the SPP gave this answer, with its detail
	gone       bool          // the SPP is away or lacks what it needs: another one may do
	again      bool          // the same call may succeed later
	after      time.Duration // the least time until then, as the SPP says
	distrusted bool          // the two sides refuse each other's certificate
}

// answerOf sorts the error of an attempt. Where the SPP answered, its detail
// decides; where it did not, the same call is made again, except when the two
// sides do not trust each other's certificates: waiting changes nothing there.
func answerOf(err error) answer {
	var c *connect.Error
	if !errors.As(err, &c) {
		return answer{err: err}
	}
	r := &RefusedError{Code: c.Code().String(), Message: c.Message()}
	for _, d := range c.Details() {
		v, err := d.Value()
		// A detail without a code is none: the error's own code says more.
		if detail, ok := v.(*provisioningrpc.Refusal); ok && err == nil && detail.GetCode() != "" {
			r.Code, r.Hint = detail.GetCode(), detail.GetNext()
			r.After = time.Duration(min(max(detail.GetRetryAfterMs(), 0), maxAfter.Milliseconds())) * time.Millisecond
			return answerSaid(r)
		}
	}
	if distrusted(err) {
		return answer{gone: true, distrusted: true, err: &undecided{ErrTrust, c.Message(),
			"see that the station's certificate is valid and for this SPP, and that spp.ca is the CA of the SPP's certificate"}}
	}
	switch c.Code() {
	case connect.CodeUnavailable, connect.CodeDeadlineExceeded, connect.CodeAborted:
		return answer{err: r, gone: true}
	case connect.CodeUnknown, connect.CodeCanceled, connect.CodeInternal:
		// Without the SPP's word these are a connection that was cut in the middle.
		return answer{err: r, gone: !connect.IsWireError(err)}
	}
	return answer{err: r}
}

// maxAfter bounds what an SPP may ask a station to wait: whoever waits longer
// is better told so.
const maxAfter = time.Hour

// answerSaid sorts a refusal by its code.
func answerSaid(r *RefusedError) answer {
	a := answer{err: r, said: true, after: r.After}
	switch r.Code {
	case codePublication:
		// Nobody waits for the registry in a call: the device is parked.
	case codeStopping, codeHSM, codeDatabase, codeTimeout:
		a.gone = a.after > 0
	default:
		a.again = a.after > 0
	}
	return a
}

// distrusted tells whether a TLS handshake failed for good: this side refused
// the other's certificate, the other side refused this one's ("remote error"
// is how crypto/tls marks an alert), or the other side does not speak TLS. An
// internal error of the other side is no distrust: its TLS key is in a token
// that may be away for a moment.
func distrusted(err error) bool {
	var certificate *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var op *net.OpError
	return errors.As(err, &certificate) || errors.As(err, &record) || errors.Is(err, http.ErrSchemeMismatch) ||
		errors.As(err, &op) && op.Op == "remote error" && op.Err.Error() != internalAlert
}

// internalAlert is the alert internal_error (RFC 8446 §6.2) as crypto/tls, which
// keeps the type of its alerts to itself, has it in words.
const internalAlert = "tls: internal error"

// isCode tells whether an error is the SPP's refusal with this code.
func isCode(err error, code string) bool {
	var r *RefusedError
	return errors.As(err, &r) && r.Code == code
}

// reach is how much of a line's work an error stops.
type reach int

const (
	stopsNothing reach = iota // no error
	stopsDevice               // this one; the line goes on
	stopsBegin                // no other device is begun
	stopsStation              // nothing of this station's gets through
)

// reachOf sorts an error of a device.
func reachOf(err error) reach {
	var r *RefusedError
	switch {
	case err == nil:
		return stopsNothing
	case errors.Is(err, ErrTrust):
		return stopsStation
	case errors.Is(err, ErrJournal):
		return stopsBegin
	case !errors.As(err, &r):
		return stopsDevice
	}
	switch r.Code {
	case codeStation, codeExpired, codeRevoked, codeLine:
		return stopsStation
	case codeQuota, codePoolEmpty:
		return stopsBegin
	}
	return stopsDevice
}

// afterOf tells after what time a refused call may succeed, as the SPP says.
func afterOf(err error) time.Duration {
	var r *RefusedError
	if errors.As(err, &r) {
		return r.After
	}
	return 0
}
