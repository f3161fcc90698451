package station

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"time"

	"connectrpc.com/connect"

	provisioningrpc "github.com/devicekeys/devicekeys/provisioning/rpc"
)

// Bounds of waiting for the SPP. A call is repeated only where repeating can
// help, and every call of the service may be repeated.
const (
	// callTimeout is one attempt's: above the 18 s that the SPP itself gives
	// its longest call, publish.
	callTimeout = 30 * time.Second
	// callPatience is a call's with all its attempts: a restarted SPP or a
	// short loss of the network does not stop a device in its fixture.
	callPatience = 2 * time.Minute
	// retryFirst and retryMost bound the pause between attempts; each pause is
	// drawn between half and the whole of it, so that stations do not return in
	// step. Where the SPP says after what time to try again, that is the least.
	retryFirst = 100 * time.Millisecond
	retryMost  = 5 * time.Second
)

// bounds are those of one client: the constants above, shorter in tests.
type bounds struct{ attempt, patience, first, most time.Duration }

// Client speaks to the SPP. It is safe for concurrent use.
type Client struct {
	rpc    provisioningrpc.AssemblyServiceClient
	bounds bounds
}

// NewClient makes a client of the SPP at base ("https://spp.plant:7443"), over
// an HTTP client that shows the station's certificate.
func NewClient(hc *http.Client, base string) *Client {
	return &Client{provisioningrpc.NewAssemblyServiceClient(hc, base), bounds{callTimeout, callPatience, retryFirst, retryMost}}
}

// call makes one call, repeated while it may help.
func call[Req, Res any](ctx context.Context, c *Client, f func(context.Context, *connect.Request[Req]) (*connect.Response[Res], error), req *Req) (*Res, error) {
	deadline := time.Now().Add(c.bounds.patience)
	pause := c.bounds.first
	for {
		attempt, cancel := context.WithTimeout(ctx, c.bounds.attempt)
		res, err := f(attempt, connect.NewRequest(req))
		cancel()
		if err == nil {
			return res.Msg, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		a := answerOf(err)
		if !a.again {
			return nil, a.err
		}
		wait := max(pause/2+rand.N(pause/2+1), a.after)
		if time.Now().Add(wait).After(deadline) {
			return nil, a.givenUp(c.bounds.patience)
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil, context.Cause(ctx)
		case <-timer.C:
		}
		pause = min(2*pause, c.bounds.most)
	}
}

// answer is what a failed attempt means.
type answer struct {
	err   error
	said  bool          // the SPP gave this answer, with its detail
	again bool          // the same call may succeed later
	after time.Duration // the least time until then, as the SPP says
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
		if detail, ok := v.(*provisioningrpc.Refusal); ok && err == nil {
			r.Code, r.Hint = detail.GetCode(), detail.GetNext()
			after := time.Duration(detail.GetRetryAfterMs()) * time.Millisecond
			return answer{err: r, said: true, again: after > 0, after: after}
		}
	}
	if distrusted(err) {
		return answer{err: &unanswered{ErrTrust, c.Message(), "see that the station's certificate is valid and for this SPP, and that spp.ca is the CA of the SPP's certificate"}}
	}
	switch c.Code() {
	case connect.CodeUnavailable, connect.CodeDeadlineExceeded, connect.CodeAborted:
		return answer{err: r, again: true}
	case connect.CodeUnknown, connect.CodeCanceled, connect.CodeInternal:
		// Without the SPP's word these are a connection that was cut in the middle.
		return answer{err: r, again: !connect.IsWireError(err)}
	}
	return answer{err: r}
}

// givenUp is the error after the last attempt.
func (a answer) givenUp(patience time.Duration) error {
	if r, ok := a.err.(*RefusedError); ok && a.said {
		return &unanswered{ErrAway, fmt.Sprintf("for %s: %s", patience, r.Message), r.Hint}
	}
	return &unanswered{ErrUnreachable, fmt.Sprintf("for %s: %v", patience, a.err),
		"see that the SPP runs at the configured url and that the network is up, then run the station again"}
}

// distrusted tells whether a TLS handshake failed for good: this side refused
// the other's certificate, the other side refused this one's ("remote error"
// is how crypto/tls marks an alert), or the other side does not speak TLS.
func distrusted(err error) bool {
	var certificate *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var op *net.OpError
	return errors.As(err, &certificate) || errors.As(err, &record) || errors.Is(err, http.ErrSchemeMismatch) ||
		errors.As(err, &op) && op.Op == "remote error"
}

// Modules asks for the product line's software modules and the ROM key.
func (c *Client) Modules(ctx context.Context) (*provisioningrpc.ModulesResponse, error) {
	return call(ctx, c, c.rpc.Modules, &provisioningrpc.ModulesRequest{})
}

// Challenge asks for the bytes that a device's next proof is over.
func (c *Client) Challenge(ctx context.Context, record []byte) ([]byte, error) {
	res, err := call(ctx, c, c.rpc.Challenge, &provisioningrpc.ChallengeRequest{RecordId: record})
	return res.GetChallenge(), err
}

// Prove brings a device's proof that it holds its keys; the SPP's HSM checks
// it and answers with the generation they are of.
func (c *Client) Prove(ctx context.Context, record, challenge, mac []byte) (uint32, error) {
	res, err := call(ctx, c, c.rpc.Prove, &provisioningrpc.ProveRequest{RecordId: record, Challenge: challenge, Mac: mac})
	return res.GetGeneration(), err
}
