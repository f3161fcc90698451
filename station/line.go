package station

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/devicekeys/devicekeys/device"
	"github.com/devicekeys/devicekeys/device/flash"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/statement"
)

// Line is a station's work: the devices in its fixtures, taken to shipped.
type Line struct {
	Client  *Client
	Journal *Journal
	// Modules is the folder of software modules, one file a module.
	Modules string
	// Suite is how devices say hello; attested unless the product line owns the
	// risk of another.
	Suite keypackage.Suite
	// Hands is how many devices are worked on at once, at least 1.
	Hands int
	// Again takes shipped devices through the line once more: each needs an
	// unlock statement at the SPP.
	Again bool
	// Patience is how long a line with nothing else to do waits for the
	// registry, counted from the last good sign; 0 means two minutes
	// (registryPatience).
	Patience time.Duration
	// OnDone, where set, is told of the outcome of each device that was begun;
	// it is called concurrently.
	OnDone func(Outcome)
	// Logger, where set, is told of devices that stopped.
	Logger *slog.Logger

	rom     statement.PublicKey
	modules []device.Module
}

// closeTimeout bounds the closing of one device, which ends sessions only.
const closeTimeout = 10 * time.Second

// Prepare asks the SPP for the product line's modules and ROM key, and reads
// the modules from the folder; each must have the hash that the SPP gave. A
// module that is missing or differs stops the line before it touches a device,
// and so does a journal that takes no page.
func (l *Line) Prepare(ctx context.Context) error {
	if err := l.Journal.check(); err != nil {
		return err
	}
	res, err := l.Client.Modules(ctx)
	if err != nil {
		return fmt.Errorf("ask the SPP for the software modules: %w", err)
	}
	if l.rom, err = statement.ParsePoint(res.GetRomKey()); err != nil {
		return fmt.Errorf("the SPP's ROM key: %w", err)
	}
	l.modules = nil
	for _, m := range res.GetModules() {
		b, err := readModule(filepath.Join(l.Modules, filepath.Base(m.GetName())), m.GetSize())
		if err != nil {
			return fmt.Errorf("read software module %q: %w; copy the product line's modules to %s", m.GetName(), err, l.Modules)
		}
		hash := sha256.Sum256(b)
		if string(hash[:]) != string(m.GetSha256()) {
			return fmt.Errorf("software module %q has SHA-256 %x, the SPP lists %x: copy the product line's modules to %s again", m.GetName(), hash, m.GetSha256(), l.Modules)
		}
		l.modules = append(l.modules, device.Module{Name: m.GetName(), SHA256: hash, Content: b})
	}
	return nil
}

func readModule(name string, size int64) ([]byte, error) {
	if size < 0 || size > flash.MaxModules {
		return nil, fmt.Errorf("the SPP lists %d bytes, a device holds at most %d", size, flash.MaxModules)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, size+1))
	if err == nil && int64(len(b)) != size {
		err = fmt.Errorf("its size is not the %d bytes that the SPP lists", size)
	}
	return b, err
}

// Run takes every fixture's device through the line and gives each one's
// outcome, in the fixtures' order. A device that fails stops alone, and the line
// goes on with the next, unless the error is the station's own ([StopsLine]):
// then no other device is begun.
//
// A device whose registry entry waits at the SPP is parked: it is switched
// off, its hand goes on with the next, and it is taken up again when there is a
// sign that the registry is back, at the end with patience. What waits even
// then has an outcome that matches ErrParked.
//
// When ctx ends, no new device is begun, those in work go on within drain, and
// the rest have an outcome that matches ErrStopped.
func (l *Line) Run(ctx context.Context, fixtures []Fixture, drain time.Duration) []Outcome {
	outcomes := make([]Outcome, len(fixtures))
	var all []*work
	taken := map[string]bool{}
	for i, f := range fixtures {
		outcomes[i] = Outcome{Device: f.Name, Sequence: -1}
		if err := f.check(taken); err != nil {
			outcomes[i].notBegun(err)
			continue
		}
		all = append(all, &work{line: l, open: f.Open, out: &outcomes[i]})
	}
	all = l.halfWayFirst(all)
	patience := l.Patience
	if patience == 0 {
		patience = registryPatience
	}
	q := newQueue(all, patience, time.Now())
	working, stop := withDrain(ctx, drain)
	defer stop()
	var hands sync.WaitGroup
	for range max(l.Hands, 1) {
		hands.Go(func() {
			for w := q.take(ctx); w != nil; w = q.take(ctx) {
				err := l.handle(working, q, w)
				q.done(time.Now(), w, err)
			}
		})
	}
	hands.Wait()
	l.leave(ctx, q)
	return outcomes
}

// halfWayFirst puts devices that stand in the journal before the others: what
// stops the others, such as an empty pool, shall not keep back what was begun. A
// board that changed its fixture meanwhile has its turn like the others.
func (l *Line) halfWayFirst(all []*work) []*work {
	if l.Journal == nil {
		return all
	}
	entries, err := l.Journal.Entries()
	if err != nil || len(entries) == 0 {
		return all // an order is all that is lost
	}
	halfWay := map[string]bool{}
	for _, e := range entries {
		halfWay[e.Device] = true
	}
	var first, rest []*work
	for _, w := range all {
		if halfWay[w.out.Device] {
			first = append(first, w)
		} else {
			rest = append(rest, w)
		}
	}
	return append(first, rest...)
}

// handle works on one device until it is shipped, has failed or is parked.
func (l *Line) handle(ctx context.Context, q *queue, w *work) error {
	w.queue, w.parked = q, ""
	if w.out.Took == nil {
		w.out.Took = map[Step]time.Duration{}
	}
	err := w.run(ctx)
	closed := w.close(ctx)
	var p *parking
	if errors.As(err, &p) && closed == nil {
		w.park(ctx, p)
		return nil
	}
	err = errors.Join(err, closed)
	l.finish(ctx, w, err)
	return err
}

// finish settles a device's outcome.
func (l *Line) finish(ctx context.Context, w *work, err error) {
	if err != nil {
		w.out.fail(err)
		if l.Logger != nil {
			l.Logger.ErrorContext(ctx, "device stopped", "device", w.out.Device, "record", w.out.Record, "error", err)
		}
	}
	if l.OnDone != nil {
		l.OnDone(*w.out)
	}
}

// leave settles the outcomes of what no hand took any more.
func (l *Line) leave(ctx context.Context, q *queue) {
	fresh, parked := q.left()
	for _, w := range parked {
		w.out.Parked, w.out.Code = true, codePublication
		l.finish(ctx, w, &StepError{Device: w.out.Device, Step: w.parked, Err: w.waits})
	}
	reason := q.stopped()
	if ctx.Err() != nil {
		reason = stopped(ctx)
	} else if reason != nil {
		reason = fmt.Errorf("the line was stopped by another device's error: %w", reason)
	}
	for _, w := range fresh {
		w.out.notBegun(reason)
	}
}

func (o *Outcome) notBegun(err error) { o.fail(fmt.Errorf("not begun: %w", err)) }

// withDrain gives a context that ends drain after ctx does.
func withDrain(ctx context.Context, drain time.Duration) (context.Context, context.CancelFunc) {
	working, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		t := time.AfterFunc(drain, func() { cancel(stopped(ctx)) })
		context.AfterFunc(working, func() { t.Stop() })
	})
	return working, func() { stop(); cancel(context.Canceled) }
}

// stopped is why a device was not finished once ctx has ended.
func stopped(ctx context.Context) error { return fmt.Errorf("%w (%w)", ErrStopped, context.Cause(ctx)) }
