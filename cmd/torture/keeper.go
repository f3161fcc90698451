package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/devicekeys/devicekeys/cmd/internal/plant"
)

// keeper starts again what has ended, as a service manager does.
type keeper struct {
	*factory
	work sync.WaitGroup

	mu       sync.Mutex               // guards what follows
	down     map[string]time.Duration // how long the next restart of a server waits
	killed   map[string]int           // by server
	exits    map[string]int           // ends that nobody asked for
	resumed  map[string][]time.Duration
	restored map[string]int // token directories put back from their copy
	errs     []error
	postgres sync.Mutex // one crash or restart at a time
}

// What a service manager is set to.
const (
	// restartAfter is the pause before a server is started again that ended by itself.
	restartAfter = 500 * time.Millisecond
	// resumeBound is how long the first device is waited for after a restart: longer, and
	// the SPP had nothing to do.
	resumeBound = time.Minute
	resumePoll  = 50 * time.Millisecond
	// startFailures in a row at which the server complained of its token mean that the token
	// is broken: its copy takes its place.
	startFailures = 5
)

func newKeeper(f *factory) *keeper {
	return &keeper{factory: f, down: map[string]time.Duration{}, killed: map[string]int{}, exits: map[string]int{}, resumed: map[string][]time.Duration{}, restored: map[string]int{}}
}

// keep looks after every server until ctx ends; then wait for work.
func (k *keeper) keep(ctx context.Context) {
	for _, name := range append(k.SPPNames(), "sequencer", "registry") {
		k.work.Go(func() { k.look(ctx, name) })
	}
}

func (k *keeper) fail(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.errs = append(k.errs, err)
}

// look looks after one server.
func (k *keeper) look(ctx context.Context, name string) {
	s := k.Server(name)
	failures := 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.Ended():
		}
		k.mu.Lock()
		rest, wanted := k.down[name]
		delete(k.down, name)
		if !wanted {
			k.exits[name]++
			rest = restartAfter
		}
		k.mu.Unlock()
		if !strings.Contains(s.Said(), "hsm: ") {
			failures = 0 // a database that is away, most likely
		} else if failures++; failures > startFailures && k.backups[name] != "" {
			failures = 0
			if err := k.putBack(name); err != nil {
				k.fail(err)
			}
		}
		if !pauseFor(ctx, rest) {
			return
		}
		started := time.Now()
		if err := s.Start(ctx); err != nil {
			if ctx.Err() == nil {
				k.fail(fmt.Errorf("start %s again: %w", name, err))
			}
			return
		}
		ended := s.Ended()
		k.work.Go(func() { k.await(ctx, name, started, ended) })
		ready, cancel := context.WithCancel(ctx)
		if s.Ready(ready) == nil {
			failures = 0
		}
		cancel()
	}
}

// await measures the time from a restart of an SPP to the first device that it assembles.
func (k *keeper) await(ctx context.Context, name string, started time.Time, ended <-chan struct{}) {
	ctx, cancel := context.WithTimeout(ctx, resumeBound)
	defer cancel()
	for pauseFor(ctx, resumePoll) {
		select {
		case <-ended:
			return
		default:
		}
		// A process counts from 0.
		if n, err := k.Metric(ctx, name, "devicekeys_devices_total", `step="locked"`, `result="ok"`); err == nil && n > 0 {
			k.mu.Lock()
			defer k.mu.Unlock()
			k.resumed[name] = append(k.resumed[name], time.Since(started))
			return
		}
	}
}

// kill kills a server, which then stays down for a while. It tells whether it ran.
func (k *keeper) kill(name string, down time.Duration) (hit bool, err error) {
	s := k.Server(name)
	act := func() error {
		select {
		case <-s.Ended():
			return nil // it is about to be started
		default:
		}
		k.mu.Lock()
		k.down[name] = down
		k.killed[name]++
		k.mu.Unlock()
		hit = true
		return s.Kill()
	}
	if d := k.HSM(name); d != nil {
		err = whileNobodyLogsIn(d.LockFile(), act)
		return hit, err
	}
	err = act()
	return hit, err
}

// crashPostgres ends Postgres as a loss of power would and starts it again.
func (k *keeper) crashPostgres(ctx context.Context, down time.Duration) error {
	k.postgres.Lock()
	defer k.postgres.Unlock()
	if err := k.Postgres.Kill(); err != nil {
		return err
	}
	k.mu.Lock()
	k.killed[postgresTarget]++
	k.mu.Unlock()
	pauseFor(ctx, down)
	return k.RestartPostgres(context.WithoutCancel(ctx))
}

// putBack puts the copy of a token directory's tokens in the place of tokens that may be
// broken. Its program does not run. A crash in between leaves no token; the next call
// puts them back.
func (k *keeper) putBack(name string) error {
	k.mu.Lock()
	k.restored[name]++
	k.mu.Unlock()
	tokens := filepath.Join(k.HSM(name).Path(), "tokens")
	if err := os.RemoveAll(tokens); err != nil {
		return err
	}
	return os.CopyFS(tokens, os.DirFS(k.backups[name]))
}

// settle waits until every server is healthy.
func (k *keeper) settle(ctx context.Context) error {
	var all error
	for _, name := range append(k.SPPNames(), "sequencer", "registry") {
		all = errors.Join(all, k.ready(ctx, k.Server(name)))
	}
	return all
}

// settleBound is how long a server may take until it is healthy after the last fault:
// a few restarts.
const settleBound = time.Minute

func (k *keeper) ready(ctx context.Context, s *plant.Server) (err error) {
	ctx, cancel := context.WithTimeout(ctx, settleBound)
	defer cancel()
	for {
		if err = s.Ready(ctx); err == nil || ctx.Err() != nil {
			return err
		}
		pauseFor(ctx, restartAfter) // it has ended and is about to be started
	}
}
