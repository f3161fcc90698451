package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/devicekeys/devicekeys/fault"
)

// breaker carries out a plan of faults.
type breaker struct {
	*factory
	keeper *keeper
	fleet  *fleet

	mu     sync.Mutex // guards what follows
	struck map[fault.Kind]int
	missed map[fault.Kind]int // what found nothing to break
	errs   []error
}

func newBreaker(f *factory, k *keeper, fl *fleet) *breaker {
	return &breaker{factory: f, keeper: k, fleet: fl, struck: map[fault.Kind]int{}, missed: map[fault.Kind]int{}}
}

// run carries the plan out. It returns when all of it was, or ctx has ended and what lasted
// then is over.
func (b *breaker) run(ctx context.Context, p fault.Plan) {
	var lasting sync.WaitGroup
	defer lasting.Wait()
	start := time.Now()
	for _, f := range p.Faults {
		if !pauseFor(ctx, time.Until(start.Add(f.At))) {
			return
		}
		lasting.Go(func() {
			hit, err := b.act(ctx, f)
			b.note(f.Kind, hit, err)
		})
	}
}

// pauseFor waits, and tells whether ctx still goes on.
func pauseFor(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

func (b *breaker) note(k fault.Kind, hit bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case hit:
		b.struck[k]++
	default:
		b.missed[k]++
	}
	if err != nil {
		b.errs = append(b.errs, fmt.Errorf("%s: %w", k, err))
	}
}

// act carries one fault out, to its end, and tells whether it hit something.
func (b *breaker) act(ctx context.Context, f fault.Fault) (hit bool, err error) {
	if l := b.Link(f.Target); l != nil {
		return b.breakLink(ctx, l, f)
	}
	if spp, ok := strings.CutSuffix(f.Target, hsmSuffix); ok {
		return true, b.breakHSM(ctx, b.shims[spp], f)
	}
	switch {
	case f.Kind == crash:
		return true, b.keeper.crashPostgres(ctx, f.For)
	case f.Kind == pause:
		return b.pause(ctx, f)
	case b.Server(f.Target) != nil:
		return b.keeper.kill(f.Target, f.For)
	}
	return b.fleet.kill(f.Target)
}

func (b *breaker) breakLink(ctx context.Context, l *fault.Proxy, f fault.Fault) (hit bool, err error) {
	switch f.Kind {
	case reset, finish:
		how := fault.Reset
		if f.Kind == finish {
			how = fault.Finish
		}
		return l.Cut(how) > 0, nil
	case delay:
		err = l.Delay(linkDelay)
	case blackHole:
		err = l.BlackHole()
	case refuse:
		err = l.Refuse()
	case noRequest, noReply:
		struck, err := l.Lose(fault.Loss{Direction: fault.Forth, Nth: f.Nth, Kept: f.Kind == noReply})
		if err != nil {
			return false, err
		}
		ctx, cancel := context.WithTimeout(ctx, f.For)
		defer cancel()
		select {
		case <-struck:
			return true, nil
		case <-ctx.Done():
			return false, l.Pass()
		}
	}
	if err != nil {
		return false, err
	}
	pauseFor(ctx, f.For)
	return true, l.Pass()
}

func (b *breaker) breakHSM(ctx context.Context, s *shim, f fault.Fault) error {
	switch f.Kind {
	case hsmFails, hsmForgets:
		return s.failNext(f.Kind == hsmForgets)
	case hsmLost:
		s.Lose(true)
		pauseFor(ctx, f.For)
		s.Lose(false)
		return nil
	}
	if err := s.slow(hsmDelay); err != nil {
		return err
	}
	pauseFor(ctx, f.For)
	return s.slow(0)
}

// pause stops a process and lets it go on.
func (b *breaker) pause(ctx context.Context, f fault.Fault) (hit bool, err error) {
	signal := func(s syscall.Signal) error { return b.Server(f.Target).Signal(s) }
	if b.Server(f.Target) == nil {
		p := b.fleet.process(f.Target)
		if p == nil {
			return false, nil
		}
		signal = func(s syscall.Signal) error {
			if err := p.Signal(s); !errors.Is(err, os.ErrProcessDone) {
				return err
			}
			return nil
		}
	}
	if err := signal(syscall.SIGSTOP); err != nil {
		return false, err
	}
	pauseFor(ctx, f.For)
	return true, signal(syscall.SIGCONT)
}

// quietBound is how long a kill waits for a login to end.
const quietBound = 2 * time.Second

// whileNobodyLogsIn runs act while no process logs in to a token of the directory that the
// lock file is of. SoftHSM rewrites the token's file at each login; a kill in the middle of that
// may cost the token, which is SoftHSM's own weakness and would hide ours. If the lock isn't
// to be had in time, its holder hangs, and act runs all the same.
func whileNobodyLogsIn(lockFile string, act func() error) error {
	f, err := os.OpenFile(lockFile, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return errors.Join(err, act())
	}
	defer f.Close() // and with it the lock
	for until := time.Now().Add(quietBound); time.Now().Before(until); time.Sleep(time.Millisecond) {
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			break
		}
	}
	return act()
}

// heal ends every fault that lasts.
func (b *breaker) heal() error {
	var all error
	for _, name := range b.LinkNames() {
		all = errors.Join(all, b.Link(name).Pass())
	}
	for _, s := range b.shims {
		s.Clear()
	}
	return all
}
