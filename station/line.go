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
// module that is missing or differs stops the line before it touches a device.
func (l *Line) Prepare(ctx context.Context) error {
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
// outcome, in the fixtures' order. A device that fails stops alone: the line
// goes on with the next. When ctx ends, no new device is begun, those in work
// go on within drain, and the rest have an outcome that matches ErrStopped.
func (l *Line) Run(ctx context.Context, fixtures []Fixture, drain time.Duration) []Outcome {
	outcomes := make([]Outcome, len(fixtures))
	working, stop := withDrain(ctx, drain)
	defer stop()
	next := make(chan int)
	var hands sync.WaitGroup
	for range max(l.Hands, 1) {
		hands.Go(func() {
			for i := range next {
				if ctx.Err() != nil {
					outcomes[i] = notBegun(fixtures[i], stopped(ctx))
					continue
				}
				outcomes[i] = l.one(working, fixtures[i])
				if l.OnDone != nil {
					l.OnDone(outcomes[i])
				}
			}
		})
	}
	taken := map[string]bool{}
	for i, f := range fixtures {
		if err := f.check(taken); err != nil {
			outcomes[i] = notBegun(f, err)
			continue
		}
		next <- i // a hand is free again within one device's bounded time
	}
	close(next)
	hands.Wait()
	return outcomes
}

func notBegun(f Fixture, err error) Outcome {
	return Outcome{Device: f.Name, Sequence: -1, Err: err, Error: "not begun: " + err.Error()}
}

func (l *Line) one(ctx context.Context, f Fixture) Outcome {
	w := &work{line: l, name: f.Name, open: f.Open, out: Outcome{Device: f.Name, Sequence: -1, Took: map[Step]time.Duration{}}}
	err := w.run(ctx)
	if w.device != nil {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		err = errors.Join(err, w.device.Close(closing))
		cancel()
	}
	if err != nil {
		w.out.Err, w.out.Error = err, err.Error()
		if l.Logger != nil {
			l.Logger.ErrorContext(ctx, "device stopped", "device", f.Name, "record", w.out.Record, "error", err)
		}
	}
	return w.out
}

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
