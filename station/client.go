package station

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"time"

	"connectrpc.com/connect"

	provisioningrpc "github.com/devicekeys/devicekeys/provisioning/rpc"
)

// Bounds of waiting for the SPP. A call is repeated only where repeating can
// help, and every call of the service may be repeated, at the same SPP or at
// another one: they share their databases.
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
	// retryMost is also about how long a restarted SPP waits for its stations.
	retryFirst = 100 * time.Millisecond
	retryMost  = 2 * time.Second
	// probeEvery is about how often an SPP that was left for the next one is
	// looked at again: seldom enough that a dead one costs nothing.
	probeEvery = 15 * time.Second
	// probeTimeout bounds such a look. Nothing waits for it.
	probeTimeout = 5 * time.Second
)

// maxAnswer bounds an SPP's answer, in bytes: a package with its unlock statement has under 70 KiB, a list of modules less.
const maxAnswer = 1 << 20

// bounds are those of one client: the constants above, shorter in tests.
type bounds struct{ attempt, patience, first, most, probe time.Duration }

// Client speaks to the SPP, which may be several processes on the same
// databases: it stays with the one that answers, goes on with the next in
// order when that one is gone, and returns when it is back. It is safe for
// concurrent use.
type Client struct {
	// Logger, where set before the first call, is told of changes from one SPP
	// to another.
	Logger *slog.Logger

	spps   *spps
	bounds bounds
}

// NewClient makes a client of the SPPs at these addresses
// ("https://spp.plant:7443"), at least one, the preferred one first, over an
// HTTP client that shows the station's certificate.
func NewClient(hc *http.Client, bases ...string) *Client {
	c := &Client{spps: &spps{}, bounds: bounds{callTimeout, callPatience, retryFirst, retryMost, probeEvery}}
	for _, base := range bases {
		c.spps.all = append(c.spps.all, &spp{base: base, rpc: provisioningrpc.NewAssemblyServiceClient(hc, base, connect.WithReadMaxBytes(maxAnswer))})
	}
	return c
}

// method is a call of the service, as a method expression of its client.
type method[Req, Res any] func(provisioningrpc.AssemblyServiceClient, context.Context, *connect.Request[Req]) (*connect.Response[Res], error)

// call makes one call, repeated while it may help, where it may help.
func call[Req, Res any](ctx context.Context, c *Client, f method[Req, Res], req *Req) (*Res, error) {
	if len(c.spps.all) == 0 {
		return nil, &undecided{ErrUnreachable, "there is no address of one", "name at least one SPP"}
	}
	deadline := time.Now().Add(c.bounds.patience)
	pause, wait := c.bounds.first, time.Duration(0)
	troubles := map[*spp]answer{} // what each one last answered to this call
	for {
		s, rest := c.spps.pick(time.Now(), wait)
		if time.Now().Add(rest).After(deadline) {
			return nil, c.spps.givenUp(troubles, c.bounds.patience)
		}
		if err := sleep(ctx, rest); err != nil {
			return nil, err
		}
		begun := time.Now()
		attempt, cancel := context.WithTimeout(ctx, c.bounds.attempt)
		res, err := f(s.rpc, attempt, connect.NewRequest(req))
		cancel()
		if err != nil && ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		var a answer
		if err != nil {
			a = answerOf(err)
		}
		troubles[s] = a
		if a.gone {
			if c.spps.failed(s, begun, a, c.bounds) && c.Logger != nil {
				c.Logger.Warn("an SPP is away", "spp", s.base, "error", a.err)
			}
			if c.spps.distrusted(troubles) {
				return nil, a.err
			}
			wait = 0 // what this SPP rests, or none where another one is well
			continue
		}
		c.answered(s)
		if err == nil {
			return res.Msg, nil
		}
		if !a.again {
			return nil, a.err
		}
		wait = max(jitter(pause), a.after)
		pause = min(2*pause, c.bounds.most)
	}
}

// answered says that an SPP is well, and has the preferred one looked at again
// if that was left.
func (c *Client) answered(s *spp) {
	changed, probe := c.spps.answered(s, time.Now(), c.bounds)
	if changed && c.Logger != nil {
		c.Logger.Info("going on with this SPP", "spp", s.base)
	}
	if probe != nil {
		go c.look(probe)
	}
}

// look asks an SPP that was left for something that costs it nothing; if it
// answers, calls go there again. One look at a time, each with its bound.
func (c *Client) look(s *spp) {
	ctx, cancel := context.WithTimeout(context.Background(), min(probeTimeout, c.bounds.attempt))
	defer cancel()
	begun := time.Now()
	_, err := s.rpc.Modules(ctx, connect.NewRequest(&provisioningrpc.ModulesRequest{}))
	var a answer
	if err != nil {
		a = answerOf(err)
	}
	if a.gone {
		c.spps.failed(s, begun, a, c.bounds)
		return
	}
	if c.spps.back(s) && c.Logger != nil {
		c.Logger.Info("the SPP is back", "spp", s.base)
	}
}

// jitter draws a pause between half and the whole of d.
func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d/2+1) }

// sleep waits for d, or until ctx ends, whose cause it then gives.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// Modules asks for the product line's software modules and the ROM key.
func (c *Client) Modules(ctx context.Context) (*provisioningrpc.ModulesResponse, error) {
	return call(ctx, c, provisioningrpc.AssemblyServiceClient.Modules, &provisioningrpc.ModulesRequest{})
}

// Status asks how far a device is.
func (c *Client) Status(ctx context.Context, record []byte) (*provisioningrpc.StatusResponse, error) {
	return call(ctx, c, provisioningrpc.AssemblyServiceClient.Status, &provisioningrpc.StatusRequest{RecordId: record})
}

// Challenge asks for the bytes that a device's next proof is over. The proof
// must come to the SPP that gave them: another one refuses it with
// CodeChallenge, and a new challenge helps.
func (c *Client) Challenge(ctx context.Context, record []byte) ([]byte, error) {
	res, err := call(ctx, c, provisioningrpc.AssemblyServiceClient.Challenge, &provisioningrpc.ChallengeRequest{RecordId: record})
	return res.GetChallenge(), err
}

// Prove brings a device's proof that it holds its keys; the SPP's HSM checks
// it and answers with the generation they are of.
func (c *Client) Prove(ctx context.Context, record, challenge, mac []byte) (uint32, error) {
	res, err := call(ctx, c, provisioningrpc.AssemblyServiceClient.Prove, &provisioningrpc.ProveRequest{RecordId: record, Challenge: challenge, Mac: mac})
	return res.GetGeneration(), err
}
