package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// progressEvery is how often a line says how far the run is.
const progressEvery = 10 * time.Second

// fleet runs targets, several at a time.
type fleet struct {
	dir      string
	time     time.Duration // of each
	jobs     int
	progress io.Writer
	command  func(target, time.Duration) *exec.Cmd

	writing sync.Mutex // held while the report or a line of progress is written

	mu      sync.Mutex // guards what follows
	running []*watch
	done    []outcome
}

// run fuzzes all, and writes the report anew after each: a run that is interrupted leaves what it did until then.
func (f *fleet) run(ctx context.Context, all []target) (*report, error) {
	if err := os.MkdirAll(f.dir, 0o755); err != nil {
		return nil, fmt.Errorf("make the folder of the output: %w", err)
	}
	begun := time.Now()
	telling, quiet := context.WithCancel(ctx)
	var teller sync.WaitGroup
	teller.Go(func() { f.tell(telling, len(all), begun) })
	defer teller.Wait()
	defer quiet()

	work, inside := errgroup.WithContext(ctx)
	work.SetLimit(f.jobs)
	for _, t := range all {
		work.Go(func() error {
			if inside.Err() != nil {
				return context.Cause(inside)
			}
			o, err := f.one(inside, t)
			if err != nil {
				return err
			}
			if o.Error != "" {
				f.say("fuzz: %s FAILED: %s\n", t, strings.Join(append([]string{o.Error}, o.Crashers...), "; "))
			}
			return f.ended(o, begun)
		})
	}
	if err := work.Wait(); err != nil {
		return nil, err
	}
	return f.report(begun), nil
}

func (f *fleet) one(ctx context.Context, t target) (outcome, error) {
	path := filepath.Join(f.dir, t.fileName()+".log")
	w := &watch{outcome: outcome{target: t, Crashers: []string{}, Output: path}}
	f.mu.Lock()
	f.running = append(f.running, w)
	f.mu.Unlock()
	o, err := w.fuzz(ctx, f.command(t, f.time), path, f.time)
	f.mu.Lock()
	f.running = slices.DeleteFunc(f.running, func(other *watch) bool { return other == w })
	f.mu.Unlock()
	return o, err
}

// ended keeps a target's outcome.
func (f *fleet) ended(o outcome, begun time.Time) error {
	f.mu.Lock()
	f.done = append(f.done, o)
	f.mu.Unlock()
	f.writing.Lock()
	defer f.writing.Unlock()
	return f.report(begun).write(f.dir)
}

// report is that of all that is done.
func (f *fleet) report(begun time.Time) *report {
	f.mu.Lock()
	defer f.mu.Unlock()
	return newReport(begun, f.time, f.done)
}

// tell says now and then how far the run is.
func (f *fleet) tell(ctx context.Context, all int, begun time.Time) {
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			f.mu.Lock()
			at := make([]string, 0, len(f.running))
			for _, w := range f.running {
				o := w.now()
				at = append(at, fmt.Sprintf("%s %.0fs %s", o.target, o.Seconds, short(o.Executions)))
			}
			done := len(f.done)
			f.mu.Unlock()
			f.say("fuzz: %d of %d done after %s; %s\n", done, all, time.Since(begun).Round(time.Second), strings.Join(at, ", "))
		}
	}
}

// say writes a line of progress.
func (f *fleet) say(format string, args ...any) {
	f.writing.Lock()
	defer f.writing.Unlock()
	fmt.Fprintf(f.progress, format, args...)
}
