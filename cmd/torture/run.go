package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/cmd/internal/plant"
	"github.com/devicekeys/devicekeys/fault"
)

// shape is what every command here asks about its factory.
type shape struct {
	console.Output
	Seed     uint64 `name:"seed" env:"SEED" placeholder:"N" help:"Seed of the plan of faults. Left out: a random one, which is printed; the same seed gives the same plan."`
	Chips    string `name:"chips" env:"CHIPS" default:"software" enum:"software,token" help:"software (default) or token: a PKCS#11 token for each chip, about twenty times slower."`
	Dir      string `name:"dir" env:"DIR" default:"var/torture" placeholder:"DIR" help:"Folder of the factory (default var/torture); made anew. One in memory, such as /dev/shm/torture, is several times faster; none of the faults is a loss of power."`
	Restore  int    `name:"restore" env:"RESTORE" default:"1000" placeholder:"N" help:"Devices that are wiped and restored from the registry in the end, at most (default 1000)."`
	Markdown bool   `name:"markdown" help:"Print the report as a table for a document."`
}

func (s *shape) seed() uint64 {
	if s.Seed == 0 {
		s.Seed = 1 + rand.Uint64N(1e9) // short enough to be typed
	}
	return s.Seed
}

type runCmd struct {
	shape
	Duration time.Duration `name:"duration" env:"DURATION" default:"2m" placeholder:"TIME" help:"How long faults strike, at most (default 2m); they end when every device is shipped."`
	Devices  int           `name:"devices" env:"DEVICES" default:"1000" placeholder:"N" help:"Devices to assemble (default 1000)."`
	Stations int           `name:"stations" env:"STATIONS" default:"3" placeholder:"N" help:"Stations (default 3)."`
	Every    time.Duration `name:"every" env:"EVERY" default:"1s" placeholder:"TIME" help:"About how often a fault strikes (default 1s)."`
	Calm     bool          `name:"calm" env:"CALM" help:"No faults: what the factory does when it is left alone."`
	Hands    int           `name:"hands" default:"8" placeholder:"N" help:"Devices that a software station works on at once (default 8)."`
	ShowPlan bool          `name:"plan" help:"Print the plan of faults before it is carried out."`
}

// The batches of a station's run: some seconds of work, so that a killed run costs little, stations change between the
// SPPs, and starting costs little too.
const (
	softwareBatch = 120
	tokenBatch    = 40
)

// spps is how many SPPs run on one pool.
const spps = 2

// maxDevices is what the identities last for (plant.LastTAC) with room to spare.
const maxDevices = 1_000_000

// Run runs the factory under faults.
func (c *runCmd) Run(ctx context.Context, io console.IO) (err error) {
	if c.Devices < 1 || c.Devices > maxDevices || c.Stations < 1 || c.Stations > 16 || c.Hands < 1 || c.Hands > 256 {
		return console.Usagef("%d devices, %d stations, %d hands: 1 to %d, 16 and 256 are possible", c.Devices, c.Stations, c.Hands, maxDevices)
	}
	fmt.Fprintf(io.Err, "seed %d\n", c.seed())
	f, err := build(ctx, io, order{
		Config:   plant.Config{Dir: c.Dir, Name: "torture", Devices: c.Devices, SPPs: spps, Stations: c.Stations, Proxies: true},
		software: c.Chips == "software", hands: c.Hands, shims: true,
	})
	if err != nil {
		return console.Hint(err, "every command and its messages are in %s/log", c.Dir)
	}
	defer func() { err = errors.Join(err, f.stop()) }()
	r := Report{Seed: c.Seed, Devices: c.Devices, Chips: c.Chips, SPPs: spps, Stations: c.Stations}
	if err := c.torture(ctx, f, &r); err != nil {
		return console.Hint(err, "every command and its messages are in %s/log", c.Dir)
	}
	return c.show(io, r, f.Dir)
}

// healBound is how long the stations may take after the last fault: the patience of a
// station (2 minutes), twice, and what is left at a rate that any machine has.
func healBound(devices int) time.Duration {
	return 5*time.Minute + time.Duration(devices)*time.Second/5
}

func (c *runCmd) torture(ctx context.Context, f *factory, r *Report) error {
	batch := tokenBatch
	if f.software {
		batch = softwareBatch
	}
	k, fl := newKeeper(f), newFleet(f, batch)
	b := newBreaker(f, k, fl)
	keeping, stopKeeping := context.WithCancel(ctx)
	defer k.work.Wait()
	defer stopKeeping()
	k.keep(keeping)

	working, stopWorking := context.WithTimeout(ctx, c.Duration+healBound(c.Devices))
	defer stopWorking()
	shipped := make(chan struct{})
	go func() {
		defer close(shipped)
		fl.run(working)
	}()
	start := time.Now()
	if !c.Calm {
		p := fault.NewPlan(c.Seed, c.Duration, c.Every, f.targets()...)
		if c.ShowPlan {
			fmt.Fprint(f.io.Err, p)
		}
		striking, stop := context.WithTimeout(ctx, c.Duration)
		go func() {
			<-shipped
			stop()
		}()
		b.run(striking, p)
		stop()
	}
	r.FaultsFor = time.Since(start).Seconds()
	if err := b.heal(); err != nil {
		return err
	}
	<-shipped
	if err := k.settle(ctx); err != nil {
		return err
	}
	stopKeeping()
	k.work.Wait()
	r.collect(b, k, fl)
	var err error
	r.Verdict, err = f.verify(ctx, fl, c.Restore)
	return err
}

// result is a report of one of the commands.
type result interface {
	fmt.Stringer
	Markdown() string
	failed() error
}

// show prints a report, writes it to a file, and says what is wrong in it.
func (s *shape) show(io console.IO, r result, dir string) error {
	if err := write(r, dir); err != nil {
		return err
	}
	if s.Markdown && !s.JSON {
		fmt.Fprint(io.Out, r.Markdown())
		return r.failed()
	}
	return errors.Join(s.Print(io.Out, r), r.failed())
}

// write puts the report where scripts find it.
func write(r result, dir string) error {
	f, err := os.Create(filepath.Join(dir, "report.json"))
	if err != nil {
		return err
	}
	return errors.Join(console.Output{JSON: true}.Print(f, r), f.Close())
}
