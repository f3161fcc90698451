// Package bench is the frame of this product's measurements: what a benchmark is, how it is
// run against its bound, what it found, and how that is shown and written down.
//
// # Ratios, not numbers
//
// A number of one machine says little on another one, and little even there an hour later. So
// a benchmark compares what the product does with a bound that was measured in the same run:
// the same work done by the least that could do it. [Compare] runs the two in turns, in an order
// that alternates, so that what disturbs the machine disturbs both, drops a first round in
// which caches fill, and takes the median of the rounds' ratios.
//
// A [Result] is one row of the report, with the bar that is good enough and the aim. Both are
// of the ratio where there is a bound, else of the value itself. A row without a bar is
// reported and judged by nobody.
//
// This package knows nothing of HSMs or databases: the benchmarks are in cmd/bench.
package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"slices"
	"time"
)

// Bench is one named benchmark; it may give several rows.
type Bench struct {
	Name    string // lower case, words joined by "-"; unique
	Summary string // one line for --list
	Long    bool   // takes minutes: runs only where asked for
	// Run measures. What it starts it ends, whatever happens; its files go below Env.Dir.
	Run func(ctx context.Context, e *Env) ([]Result, error)
}

// Env is what a benchmark runs with.
type Env struct {
	Dir      string       // scratch folder of this benchmark, empty; whoever runs it removes it
	Programs string       // folder of the product's programs
	Rounds   int          // for Compare: how many are measured
	Scale    float64      // of sizes: 1 as documented, less for a quick look
	Long     bool         // the long run: sizes may be those of a whole day
	Log      *slog.Logger // never nil under Run
	Err      io.Writer    // for progress; nil shows none

	// Progress shows how far work of a total is; nil shows nothing.
	Progress func(total int, label string) Bar
}

// Bar is a display of progress, safe for concurrent use.
type Bar interface {
	Add(n int)
	Done()
}

type noBar struct{}

func (noBar) Add(int) {}
func (noBar) Done()   {}

// Bar starts a display of work of a total. The caller calls its Done.
func (e *Env) Bar(total int, label string) Bar {
	if e.Progress == nil {
		return noBar{}
	}
	return e.Progress(total, label)
}

// Say tells in a line what is going on.
func (e *Env) Say(format string, args ...any) {
	if e.Err != nil {
		fmt.Fprintf(e.Err, format+"\n", args...)
	}
}

// Size scales a documented size, but never below the least that makes sense.
func (e *Env) Size(documented, least int) int {
	if e.Scale <= 0 || e.Scale == 1 {
		return max(documented, least)
	}
	return max(int(math.Round(float64(documented)*e.Scale)), least)
}

// ErrUnknown is wrapped by the error of a name that no benchmark has.
var ErrUnknown = errors.New("no such benchmark")

// Select gives the benchmarks of these names in the order of all, long ones too; without
// names, all that aren't long, or with long all.
func Select(all []Bench, names []string, long bool) ([]Bench, error) {
	for _, name := range names {
		if !slices.ContainsFunc(all, func(b Bench) bool { return b.Name == name }) {
			return nil, fmt.Errorf("%w as %q", ErrUnknown, name)
		}
	}
	var chosen []Bench
	for _, b := range all {
		if len(names) == 0 && (long || !b.Long) || slices.Contains(names, b.Name) {
			chosen = append(chosen, b)
		}
	}
	return chosen, nil
}

// Run runs benchmarks one after the other, each with an Env that env makes for it, and gives
// all their rows. One that fails costs its own rows only: in their place it has one that is
// named as the benchmark and says why; the error tells of all that failed. A context that
// ended ends the run, and the benchmark that it cut off has no row.
func Run(ctx context.Context, benches []Bench, env func(Bench) (*Env, func() error, error)) ([]Result, error) {
	var results []Result
	var failed []error
	for _, b := range benches {
		if ctx.Err() != nil {
			return results, errors.Join(append(failed, context.Cause(ctx))...)
		}
		rows, err := run(ctx, b, env)
		if err != nil {
			failed = append(failed, fmt.Errorf("benchmark %s: %w", b.Name, err))
			if ctx.Err() != nil {
				continue
			}
			rows = []Result{Failed(b.Name, err)}
		}
		for i := range rows {
			rows[i].Bench, rows[i].At = b.Name, time.Now().UTC().Truncate(time.Second)
		}
		results = append(results, rows...)
	}
	return results, errors.Join(failed...)
}

func run(ctx context.Context, b Bench, env func(Bench) (*Env, func() error, error)) (rows []Result, err error) {
	e, end, err := env(b)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, end()) }()
	if e.Log == nil {
		e.Log = slog.New(slog.DiscardHandler)
	}
	if rows, err = b.Run(ctx, e); err != nil {
		return nil, err
	}
	for i := range rows {
		if err := rows[i].check(); err != nil {
			return nil, err
		}
		if e.Scale > 0 && e.Scale != 1 {
			rows[i] = rows[i].Note("scale", e.Scale) // such numbers say little
		}
	}
	return rows, nil
}
