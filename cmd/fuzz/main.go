// Command fuzz runs the module's fuzz targets one after the other, each for the same time, and says what each did.
// `go test -fuzz` takes one target of one package; this takes all of them.
//
// The parts of this program:
//
//	target    which targets there are, read from the source
//	run       one target's `go test -fuzz`, and what it prints
//	fleet     several of them at a time
//	report    the table and the JSON
package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"time"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
)

const description = `Runs every fuzz target of the module for a while each. An input that breaks one is kept as a case of its package
(testdata/fuzz), where every later test run tries it again; the run goes on with the next target and ends with code 1.`

const session = `$ make fuzz                             # ten minutes for each
$ make fuzz FUZZTIME=30s FUZZ=keypackage
$ bin/fuzz list
$ bin/fuzz --markdown --time 1m device.FuzzRestore registry.FuzzOpen`

type cli struct {
	Run  runCmd  `cmd:"" default:"withargs" help:"Fuzz (default)."`
	List listCmd `cmd:"" help:"List the targets."`
}

// selection is what both commands ask.
type selection struct {
	Targets []string `arg:"" optional:"" name:"target" help:"Regular expressions; a target named PACKAGE.NAME, e.g. device/chip.FuzzPrivate, is taken where one matches. None: all."`
}

type runCmd struct {
	selection
	console.Output
	Markdown bool          `name:"markdown" help:"Print the table in Markdown."`
	Time     time.Duration `name:"time" env:"FUZZTIME" default:"10m" placeholder:"TIME" help:"How long each target runs, 1s to 24h (default 10m)."`
	Jobs     int           `name:"jobs" env:"JOBS" default:"2" placeholder:"N" help:"Targets at a time, one worker each (default 2)."`
	Dir      string        `name:"dir" default:"var/fuzz" placeholder:"DIR" help:"Folder of report.json and of each target's output (default var/fuzz)."`
}

type listCmd struct {
	selection
	console.Output
}

func main() { console.Main("fuzz", description, &cli{}, console.Examples(session)) }

// targets gives the module's targets that were asked for.
func (s selection) targets(ctx context.Context) ([]target, error) {
	var wanted []*regexp.Regexp
	for _, p := range s.Targets {
		if p == "" {
			continue // an unset variable of make's
		}
		r, err := regexp.Compile(p)
		if err != nil {
			return nil, console.Usagef("target %q is no regular expression: %v", p, err)
		}
		wanted = append(wanted, r)
	}
	all, err := targets(ctx, ".")
	if err != nil {
		return nil, err
	}
	taken := chosen(all, wanted)
	if len(taken) == 0 {
		return nil, console.Usagef("none of the %d targets matches %q: bin/fuzz list shows them", len(all), s.Targets)
	}
	return taken, nil
}

// Run lists the targets.
func (c *listCmd) Run(ctx context.Context, io console.IO) error {
	all, err := c.targets(ctx)
	if err != nil {
		return err
	}
	t := console.NewTable(console.Columns("package", "target")...)
	for _, g := range all {
		t.Row(g.Package, g.Name)
	}
	return c.Print(io.Out, t)
}

// Run fuzzes.
func (c *runCmd) Run(ctx context.Context, io console.IO) error {
	switch {
	case c.Time < time.Second || c.Time > 24*time.Hour:
		return console.Usagef("time is %s: 1s to 24h are possible", c.Time)
	case c.Jobs < 1 || c.Jobs > 256:
		return console.Usagef("jobs is %d: 1 to 256 are possible", c.Jobs)
	}
	all, err := c.targets(ctx)
	if err != nil {
		return err
	}
	f := &fleet{dir: c.Dir, time: c.Time, jobs: c.Jobs, progress: io.Err, command: goTest}
	fmt.Fprintf(io.Err, "fuzz: %d targets, %s each, %d at a time: about %s, and the time to build\n",
		len(all), c.Time, c.Jobs, (time.Duration((len(all)+c.Jobs-1)/c.Jobs) * c.Time).Round(time.Second))
	r, err := f.run(ctx, all)
	if err != nil {
		return console.Hint(err, "each target's output is in %s", c.Dir)
	}
	if c.Markdown && !c.JSON {
		_, err = fmt.Fprint(io.Out, r.markdown())
	} else {
		err = c.Print(io.Out, r)
	}
	if failed := r.failed(); failed != nil {
		err = errors.Join(err, console.Hint(failed, "their output is in %s; an input that breaks a target stands in the package's testdata/fuzz and is tried by every go test from now on", filepath.Clean(c.Dir)))
	}
	return err
}
