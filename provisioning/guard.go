package provisioning

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/devicekeys/devicekeys/devicecert"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/statement"
)

// keyTimeout bounds one use of the HSM: it answers in milliseconds, waits for
// a free session included. A call that takes longer counts as the HSM's failure;
// one that its caller gave up earlier does not.
const keyTimeout = 5 * time.Second

// errSlow is the cause where keyTimeout ended a use of the HSM.
var errSlow = errors.New("the HSM did not answer in time")

// KeyFault says whose fault an error of Keys is.
type KeyFault int

const (
	// FaultHSM is the HSM's own: enough of them in a row open the breaker.
	FaultHSM KeyFault = iota
	// FaultRequest speaks of what was asked: data from outside, or a key that
	// the token never had. It says nothing of the HSM.
	FaultRequest
	// FaultPIN is a refused PIN: nothing may log in again before a person has
	// looked.
	FaultPIN
)

// guard is Keys as the rest of the package uses them, and the one place where
// the HSM is asked: each use is bounded in time, refused at once while the
// breaker is open, and judged. An error that is the HSM's is marked as such
// (keyError).
type guard struct {
	keys    Keys
	ca      Certifier // nil where no line certifies
	breaker *breaker
	fault   func(error) KeyFault
}

func newGuard(c Config) *guard {
	g := &guard{keys: c.Keys, ca: c.DeviceCA, fault: c.KeyFault}
	g.breaker = newBreaker(c.Now, func(open bool, err error) { breakerChanged(c.Log, c.Metrics, g.faultOf(err), open, err) })
	return g
}

func breakerChanged(log *slog.Logger, m *Metrics, fault KeyFault, open bool, err error) {
	switch {
	case open && fault == FaultPIN:
		log.Error("the HSM refused the PIN: nothing asks it any more until the SPP is restarted with the right one", "error", err)
	case open:
		log.Error("the HSM fails: stations are told to come back until it answers", "error", err)
	default:
		log.Info("the HSM answers again")
	}
	value := 0.0
	if open {
		value = 1
	}
	m.breaker.Set(value)
}

// faultOf judges an error: what it says itself first, then the configured judge.
func (g *guard) faultOf(err error) KeyFault {
	var data interface{ DataFault() bool }
	switch {
	case err == nil:
		return FaultHSM
	case errors.Is(err, statement.ErrSignature), errors.Is(err, statement.ErrForm), errors.As(err, &data) && data.DataFault():
		return FaultRequest
	case g.fault != nil:
		return g.fault(err)
	}
	return FaultHSM
}

// ready says whether the HSM may be asked now: nil, or the marked refusal of an
// open breaker. Who will need the HSM asks before it writes anything.
func (g *guard) ready() error { return inHSM(g.breaker.allow()) }

// check looks whether the HSM works, by reading a key. It logs in to nothing
// once the PIN was refused.
func (g *guard) check(ctx context.Context) error {
	if err := g.breaker.allow(); err != nil {
		if open := (*openError)(nil); errors.As(err, &open) && open.stuck {
			return err
		}
	}
	err := g.keys.Check(ctx)
	if err != nil && g.faultOf(err) == FaultPIN {
		g.breaker.stop(err)
	}
	return err
}

// run closes the breaker again, until ctx ends.
func (g *guard) run(ctx context.Context) { g.breaker.run(ctx, g.check) }

// use asks the HSM once.
func (g *guard) use(ctx context.Context, f func(context.Context) error) error {
	if err := g.ready(); err != nil {
		return err
	}
	bound, cancel := context.WithTimeoutCause(ctx, keyTimeout, errSlow)
	defer cancel()
	err := f(bound)
	switch fault := g.faultOf(err); {
	case err == nil:
		g.breaker.succeeded()
		return nil
	case fault == FaultRequest:
		return err
	case fault == FaultPIN:
		g.breaker.stop(err)
	case bound.Err() != nil && !errors.Is(context.Cause(bound), errSlow):
		// The caller left, or had less time than the HSM may take: whoever could
		// count that as a failure could stop the line by hanging up.
	default:
		g.breaker.failed(err)
	}
	return inHSM(err)
}

func (g *guard) ROMKey() statement.PublicKey { return g.keys.ROMKey() }

func (g *guard) DeviceKey(ctx context.Context, id keypackage.KeyID, kdfContext []byte) (keypackage.MACKey, error) {
	var key keypackage.MACKey
	err := g.use(ctx, func(ctx context.Context) (err error) { key, err = g.keys.DeviceKey(ctx, id, kdfContext); return err })
	if err != nil {
		return nil, err
	}
	return &guardedKey{g, key}, nil
}

func (g *guard) NewSender(ctx context.Context, peer statement.PublicKey) (keypackage.Sender, error) {
	var s keypackage.Sender
	err := g.use(ctx, func(ctx context.Context) (err error) { s, err = g.keys.NewSender(ctx, peer); return err })
	if err != nil {
		return nil, err
	}
	return &guardedSender{g, s}, nil
}

func (g *guard) SignCertificate(ctx context.Context, claims []byte) (c identity.Certificate, err error) {
	err = g.use(ctx, func(ctx context.Context) (err error) { c, err = g.keys.SignCertificate(ctx, claims); return err })
	return c, err
}

func (g *guard) SignSubmission(ctx context.Context, payload []byte) (signed []byte, err error) {
	err = g.use(ctx, func(ctx context.Context) (err error) { signed, err = g.keys.SignSubmission(ctx, payload); return err })
	return signed, err
}

func (g *guard) SignAuditHead(ctx context.Context, payload []byte) (signed []byte, err error) {
	err = g.use(ctx, func(ctx context.Context) (err error) { signed, err = g.keys.SignAuditHead(ctx, payload); return err })
	return signed, err
}

func (g *guard) SealSecret(ctx context.Context, aad, plaintext []byte) (s keypackage.Sealed, err error) {
	err = g.use(ctx, func(ctx context.Context) (err error) { s, err = g.keys.SealSecret(ctx, aad, plaintext); return err })
	return s, err
}

func (g *guard) OpenSecret(ctx context.Context, aad []byte, s keypackage.Sealed) (plaintext []byte, err error) {
	err = g.use(ctx, func(ctx context.Context) (err error) { plaintext, err = g.keys.OpenSecret(ctx, aad, s); return err })
	return plaintext, err
}

func (g *guard) Random(ctx context.Context, n int) (b []byte, err error) {
	err = g.use(ctx, func(ctx context.Context) (err error) { b, err = g.keys.Random(ctx, n); return err })
	return b, err
}

func (g *guard) Make(ctx context.Context, alg keypackage.Algorithm) (w keypackage.WaitingKey, err error) {
	err = g.use(ctx, func(ctx context.Context) (err error) { w, err = g.keys.Make(ctx, alg); return err })
	return w, err
}

func (g *guard) Fetch(ctx context.Context, w keypackage.WaitingKey) (key keypackage.TransitKey, err error) {
	err = g.use(ctx, func(ctx context.Context) (err error) { key, err = g.keys.Fetch(ctx, w); return err })
	return key, err
}

func (g *guard) CheckValue(ctx context.Context, w keypackage.WaitingKey, msg []byte) (mac []byte, err error) {
	err = g.use(ctx, func(ctx context.Context) (err error) { mac, err = g.keys.CheckValue(ctx, w, msg); return err })
	return mac, err
}

func (g *guard) Share(ctx context.Context, w keypackage.WaitingKey, to statement.PublicKey, label string) (blob []byte, err error) {
	err = g.use(ctx, func(ctx context.Context) (err error) { blob, err = g.keys.Share(ctx, w, to, label); return err })
	return blob, err
}

func (g *guard) Certify(ctx context.Context, r devicecert.Request) (der []byte, err error) {
	err = g.use(ctx, func(ctx context.Context) (err error) { der, err = g.ca.Certify(ctx, r); return err })
	return der, err
}

// guardedKey is a device key under the guard. Destroying is let through: an
// object that is left behind would outlast the trouble.
type guardedKey struct {
	g *guard
	keypackage.MACKey
}

func (k *guardedKey) MAC(ctx context.Context, msg []byte) (mac []byte, err error) {
	err = k.g.use(ctx, func(ctx context.Context) (err error) { mac, err = k.MACKey.MAC(ctx, msg); return err })
	return mac, err
}

func (k *guardedKey) Verify(ctx context.Context, msg, mac []byte) error {
	return k.g.use(ctx, func(ctx context.Context) error { return k.MACKey.Verify(ctx, msg, mac) })
}

// guardedSender is a transfer under the guard; closing is let through.
type guardedSender struct {
	g *guard
	keypackage.Sender
}

func (s *guardedSender) Bind(ctx context.Context, suite keypackage.Suite, transcript [32]byte, secrets bool) error {
	return s.g.use(ctx, func(ctx context.Context) error { return s.Sender.Bind(ctx, suite, transcript, secrets) })
}

func (s *guardedSender) Wrap(ctx context.Context, key keypackage.TransitKey) (w []byte, err error) {
	if k, ok := key.(*guardedKey); ok {
		key = k.MACKey // the token knows its own
	}
	err = s.g.use(ctx, func(ctx context.Context) (err error) { w, err = s.Sender.Wrap(ctx, key); return err })
	return w, err
}

func (s *guardedSender) Seal(ctx context.Context, transcript [32]byte, plaintext []byte) (sealed keypackage.Sealed, err error) {
	err = s.g.use(ctx, func(ctx context.Context) (err error) {
		sealed, err = s.Sender.Seal(ctx, transcript, plaintext)
		return err
	})
	return sealed, err
}
