package provisioning_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sync/errgroup"

	"github.com/devicekeys/devicekeys/hsm/maker"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning"
	provisioningrpc "github.com/devicekeys/devicekeys/provisioning/rpc"
	"github.com/devicekeys/devicekeys/statement"
)

// faulty are the real keys behind something that fails on demand.
type faulty struct {
	*maker.Keys
	mu    sync.Mutex // guards what follows
	fault func(ctx context.Context) error
	asked int // calls, probes not counted
	looks int // probes
}

func (f *faulty) set(fault func(ctx context.Context) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault, f.asked, f.looks = fault, 0, 0
}

func (f *faulty) counts() (asked, looks int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked, f.looks
}

func (f *faulty) now(ctx context.Context, count *int) error {
	f.mu.Lock()
	fault := f.fault
	*count++
	f.mu.Unlock()
	if fault == nil {
		return nil
	}
	return fault(ctx)
}

func (f *faulty) DeviceKey(ctx context.Context, id keypackage.KeyID, kdf []byte) (keypackage.MACKey, error) {
	if err := f.now(ctx, &f.asked); err != nil {
		return nil, err
	}
	return f.Keys.DeviceKey(ctx, id, kdf)
}

func (f *faulty) NewSender(ctx context.Context, peer statement.PublicKey) (keypackage.Sender, error) {
	if err := f.now(ctx, &f.asked); err != nil {
		return nil, err
	}
	return f.Keys.NewSender(ctx, peer)
}

func (f *faulty) SignCertificate(ctx context.Context, claims []byte) (identity.Certificate, error) {
	if err := f.now(ctx, &f.asked); err != nil {
		return identity.Certificate{}, err
	}
	return f.Keys.SignCertificate(ctx, claims)
}

func (f *faulty) Random(ctx context.Context, n int) ([]byte, error) {
	if err := f.now(ctx, &f.asked); err != nil {
		return nil, err
	}
	return f.Keys.Random(ctx, n)
}

func (f *faulty) Check(ctx context.Context) error {
	if err := f.now(ctx, &f.looks); err != nil {
		return err
	}
	return f.Keys.Check(ctx)
}

// failing starts the line's SPP on keys that can be made to fail.
func (l *line) failing(t testing.TB, change ...func(*provisioning.Config)) *faulty {
	t.Helper()
	keys := &faulty{Keys: l.keys}
	l.spp.stop()
	l.spp = l.start(t, append(change, func(c *provisioning.Config) { c.Keys = keys })...)
	return keys
}

// TestBreakerOpens: after some failures of the HSM stations are answered at
// once, nothing is reserved or licensed for them meanwhile, and the line goes on
// by itself when the HSM is back.
func TestBreakerOpens(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	l.stock(t, 0, 3)
	ctx := t.Context()
	keys := l.failing(t)
	first, f := on(l.station(t), l.device(t, true)), on(l.station(t), l.device(t, true))
	must(t, f.run(ctx, 2))
	keys.set(func(context.Context) error { return errHSM })
	for range provisioning.BreakAfter {
		refused(t, first.begin(ctx), connect.CodeUnavailable, provisioning.CodeHSM)
	}
	if n := l.spp.value(t, "devicekeys_hsm_breaker_open"); n != 1 {
		t.Errorf("the breaker's metric is %v", n)
	}
	before := l.effects(t)
	other := on(l.station(t), l.device(t, true))
	for range 10 {
		// f's key waits in the HSM, so this is refused by the breaker alone.
		for _, step := range []func(context.Context) error{first.begin, other.begin, f.confirm} {
			refused(t, step(ctx), connect.CodeUnavailable, provisioning.CodeHSM)
		}
	}
	if asked, _ := keys.counts(); asked > provisioning.BreakAfter {
		t.Errorf("an HSM that fails was asked %d times", asked)
	}
	if after := l.effects(t); after.Reserved != before.Reserved || after.Audit != before.Audit {
		t.Errorf("calls that were refused left %+v, before %+v", after, before)
	}
	eventually(t, "it is probed again and again", func() bool { _, looks := keys.counts(); return looks >= 3 })
	keys.set(nil)
	must(t, f.finish(ctx, 2))
	must(t, first.finish(ctx, 0))
	must(t, other.finish(ctx, 0))
	if n := l.spp.value(t, "devicekeys_hsm_breaker_open"); n != 0 {
		t.Errorf("the breaker's metric is %v", n)
	}
}

// dataFault is how an error says that data is at fault.
type dataFault struct{ error }

func (dataFault) DataFault() bool { return true }

// TestBreakerHolds: neither wrong data, nor callers who leave, nor stations that
// allow no time open the breaker.
func TestBreakerHolds(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	l.stock(t, 0, 3)
	ctx := t.Context()
	keys := l.failing(t)
	f := on(l.station(t), l.device(t, true))
	must(t, f.run(ctx, 2))
	const many = 3 * provisioning.BreakAfter
	wrong := f.confirmRequest()
	wrong.Mac = flip(wrong.Mac, 0)
	for range many {
		_, err := f.station.Confirm(ctx, connect.NewRequest(wrong))
		refused(t, err, connect.CodePermissionDenied, provisioning.CodeMAC)
	}
	keys.set(func(context.Context) error { return fmt.Errorf("agree: %w", dataFault{errors.New("strange point")}) })
	g := on(l.station(t), l.device(t, true))
	for range many {
		if err := g.begin(ctx); err == nil {
			t.Fatal("it was begun")
		}
	}
	// The HSM takes its time; the station, or whoever cuts its line, does not wait.
	keys.set(func(ctx context.Context) error { <-ctx.Done(); return fmt.Errorf("derive: %w", ctx.Err()) })
	var group errgroup.Group
	for range many {
		group.Go(func() error {
			short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
			defer cancel()
			hello, err := l.device(t, true).Hello(ctx, keypackage.SuiteAttested)
			if err != nil {
				return err
			}
			if _, err = g.station.Begin(short, connect.NewRequest(&provisioningrpc.BeginRequest{Hello: hello})); err == nil {
				return errors.New("it was begun")
			}
			return nil
		})
	}
	must(t, group.Wait())
	if n := l.spp.value(t, "devicekeys_hsm_breaker_open"); n != 0 {
		t.Error("the breaker opened")
	}
	keys.set(nil)
	must(t, f.finish(ctx, 2))
}

// TestBreakerHangs: an HSM that hangs is one that fails; what it costs is
// bounded.
func TestBreakerHangs(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	l.stock(t, 0, provisioning.BreakAfter)
	ctx := t.Context()
	keys := l.failing(t)
	keys.set(func(ctx context.Context) error { <-ctx.Done(); return fmt.Errorf("derive: %w", ctx.Err()) })
	var group errgroup.Group
	var devices []*fixture
	for range provisioning.BreakAfter {
		f := on(l.station(t), l.device(t, true))
		devices = append(devices, f)
		group.Go(func() error { refused(t, f.begin(ctx), connect.CodeUnavailable, provisioning.CodeHSM); return nil })
	}
	must(t, group.Wait())
	begun := time.Now()
	refused(t, devices[0].begin(ctx), connect.CodeUnavailable, provisioning.CodeHSM)
	if took := time.Since(begun); took > 4*time.Second { // a use may take 5 s
		t.Errorf("an open breaker let a station wait for %s", took)
	}
	keys.set(nil)
	must(t, devices[0].finish(ctx, 0))
}

// TestPIN: a refused PIN ends all use of the HSM, the look at its health
// included, until the SPP is restarted.
func TestPIN(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	l.stock(t, 0, 2)
	ctx := t.Context()
	errPIN := errors.New("PIN refused")
	keys := l.failing(t, func(c *provisioning.Config) {
		c.KeyFault = func(err error) provisioning.KeyFault {
			if errors.Is(err, errPIN) {
				return provisioning.FaultPIN
			}
			return provisioning.FaultHSM
		}
	})
	must(t, l.spp.Check(ctx))
	keys.set(func(context.Context) error { return errPIN })
	f := on(l.station(t), l.device(t, true))
	refused(t, f.begin(ctx), connect.CodeUnavailable, provisioning.CodeHSM)
	if n := l.spp.value(t, "devicekeys_hsm_breaker_open"); n != 1 {
		t.Error("one refused PIN left the breaker closed")
	}
	refused(t, f.begin(ctx), connect.CodeUnavailable, provisioning.CodeHSM)
	if err := l.spp.Check(ctx); !errors.Is(err, errPIN) {
		t.Errorf("health: %v", err)
	}
	time.Sleep(3 * provisioning.FirstProbe)
	if asked, looks := keys.counts(); asked != 1 || looks != 0 {
		t.Errorf("after a refused PIN the HSM was asked %d times and looked at %d times", asked-1, looks)
	}
	l.spp.stop()
	l.spp = l.start(t)
	f.station = l.station(t)
	must(t, f.finish(ctx, 0))
}
