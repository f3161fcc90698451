package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/cmd/internal/plant"
	"github.com/devicekeys/devicekeys/fault"
)

type stepsCmd struct {
	shape
	Steps string `name:"steps" env:"STEPS" default:"12" placeholder:"N" help:"How many steps, drawn by the seed, or \"all\" (default 12)."`
	List  bool   `name:"list" help:"Print the steps before they are taken."`
}

// step is one moment of a device's conversation, and who dies then.
type step struct {
	Link   string `json:"link"`
	Nth    int    `json:"nth"`  // burst of this link, counted from the device's beginning
	Kept   bool   `json:"kept"` // it arrived, its answer didn't
	Victim string `json:"victim"`
}

func (s step) String() string {
	effect := "before it arrives"
	if s.Kept {
		effect = "before its answer"
	}
	return fmt.Sprintf("kill -9 %s at burst %d of %s, %s", s.Victim, s.Nth, s.Link, effect)
}

// taken is what became of a step.
type taken struct {
	step
	Struck  bool    `json:"struck"` // else the device was done before
	Shipped bool    `json:"shipped"`
	Took    float64 `json:"took_seconds"`
}

// StepsReport is the result of a run of steps.
type StepsReport struct {
	Seed    uint64   `json:"seed"`
	Chips   string   `json:"chips"`
	All     int      `json:"all"` // steps that there are
	Steps   []taken  `json:"steps"`
	Strange []string `json:"strange"`
	Verdict verdict  `json:"verdict"`
}

// conversation is the links of one device's conversation, and who is at their ends.
var conversation = []struct {
	link string
	ends []string
}{
	{"stations/spp", []string{"station", "spp"}},
	{"spp/postgres", []string{"spp", postgresTarget}},
	{"spp/sequencer", []string{"spp", "sequencer"}},
	{"sequencer/postgres", []string{"sequencer", postgresTarget}},
}

const (
	// measured devices say how many bursts a conversation has: the first one opens
	// connections that the others find.
	measured = 2
	// most steps that a conversation can have, with room.
	maxSteps = 600
	// stepRuns is how often the station is run after a step until the device is shipped.
	stepRuns = 5
	// stepBound bounds a step: the station's patience (2 minutes) and a restart.
	stepBound = 3 * time.Minute
)

// Run kills a program at each step in turn.
func (c *stepsCmd) Run(ctx context.Context, io console.IO) (err error) {
	sample := maxSteps
	if c.Steps != "all" {
		if sample, err = strconv.Atoi(c.Steps); err != nil || sample < 1 || sample > maxSteps {
			return console.Usagef("steps is %q: give 1 to %d, or all", c.Steps, maxSteps)
		}
	}
	fmt.Fprintf(io.Err, "seed %d\n", c.seed())
	f, err := build(ctx, io, order{
		// Identities for all of them; devices are made for what is there.
		Config:   plant.Config{Dir: c.Dir, Name: "torture", Devices: sample + measured, Proxies: true},
		software: c.Chips == "software", hands: 1,
	})
	if err != nil {
		return console.Hint(err, "every command and its messages are in %s/log", c.Dir)
	}
	defer func() { err = errors.Join(err, f.stop()) }()
	r := StepsReport{Seed: c.Seed, Chips: c.Chips}
	if err := c.steps(ctx, f, sample, &r); err != nil {
		return console.Hint(err, "every command and its messages are in %s/log", c.Dir)
	}
	return c.show(io, r, f.Dir)
}

func (c *stepsCmd) steps(ctx context.Context, f *factory, sample int, r *StepsReport) error {
	k, fl := newKeeper(f), newFleet(f, 1)
	keeping, stopKeeping := context.WithCancel(ctx)
	defer k.work.Wait()
	defer stopKeeping()
	k.keep(keeping)
	devices := f.devices["station"]
	all, err := f.measure(ctx, fl, devices[:measured])
	if err != nil {
		return err
	}
	r.All = len(all)
	draw := rand.New(rand.NewPCG(c.Seed, uint64(r.All)))
	all = drawSteps(draw, all, sample)
	// Those that are not needed stay in their boxes.
	f.devices["station"] = devices[:measured+len(all)]
	if c.List {
		for _, s := range all {
			fmt.Fprintln(f.io.Err, s)
		}
	}
	bar := console.Progress(f.io.Err, len(all), "steps")
	defer bar.Done()
	for i, s := range all {
		t, err := f.take(ctx, k, fl, s, devices[measured+i])
		if err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
		r.Steps = append(r.Steps, t)
		bar.Add(1)
	}
	if err := k.settle(ctx); err != nil {
		return err
	}
	stopKeeping()
	k.work.Wait()
	r.Strange = append([]string{}, fl.strange...)
	for _, err := range k.errs {
		r.Strange = append(r.Strange, err.Error())
	}
	r.Verdict, err = f.verify(ctx, fl, c.Restore)
	return err
}

// drawSteps draws some of the steps, of each victim and effect about as many.
func drawSteps(draw *rand.Rand, all []step, n int) []step {
	draw.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	type sort struct {
		victim string
		kept   bool
	}
	place := map[sort]int{} // how many of a sort came before
	turn := map[step]int{}
	for _, s := range all {
		k := sort{s.Victim, s.Kept}
		turn[s] = place[k]
		place[k]++
	}
	slices.SortStableFunc(all, func(a, b step) int { return turn[a] - turn[b] })
	return all[:min(len(all), n)]
}

// measure ships devices undisturbed and counts the bursts of the last one's conversation. It
// gives all steps, in their order.
func (f *factory) measure(ctx context.Context, fl *fleet, devices []string) (all []step, err error) {
	before := map[string]int64{}
	for _, d := range devices {
		for _, c := range conversation {
			before[c.link] = f.Link(c.link).Bursts(fault.Forth)
		}
		fl.once(ctx, "station", "spp", []string{d})
		if !fl.done(name{"station", d}) {
			return nil, fmt.Errorf("device %s is not shipped although nothing was broken: %s", d, fl.errors[name{"station", d}])
		}
	}
	for _, c := range conversation {
		n := int(f.Link(c.link).Bursts(fault.Forth) - before[c.link])
		for nth := 1; nth <= n; nth++ {
			for _, kept := range []bool{false, true} {
				for _, victim := range c.ends {
					all = append(all, step{c.link, nth, kept, victim})
				}
			}
		}
	}
	if len(all) > maxSteps {
		return nil, fmt.Errorf("a conversation of %d steps, at most %d are expected", len(all), maxSteps)
	}
	return all, nil
}

// take takes one step with a device of its own and sees it shipped.
func (f *factory) take(ctx context.Context, k *keeper, fl *fleet, s step, d string) (t taken, err error) {
	ctx, cancel := context.WithTimeout(ctx, stepBound)
	defer cancel()
	t = taken{step: s}
	if err := k.settle(ctx); err != nil {
		return t, err
	}
	link := f.Link(s.Link)
	restarted := make(chan error, 1)
	killed := errors.New("not struck")
	struck, err := link.Lose(fault.Loss{Direction: fault.Forth, Nth: s.Nth, Kept: s.Kept, Hook: func() {
		killed = f.strike(k, fl, s.Victim)
		// The service manager does not wait for the proxy.
		go func() {
			if s.Victim == postgresTarget && killed == nil {
				restarted <- f.RestartPostgres(context.WithoutCancel(ctx))
				return
			}
			restarted <- nil
		}()
	}})
	if err != nil {
		return t, err
	}
	begun := time.Now()
	for range stepRuns {
		if fl.once(ctx, "station", "spp", []string{d}); fl.done(name{"station", d}) || ctx.Err() != nil {
			break
		}
	}
	t.Took = time.Since(begun).Seconds()
	t.Shipped = fl.done(name{"station", d})
	if err := link.Pass(); err != nil {
		return t, err
	}
	select {
	case <-struck:
		t.Struck = true
		err = errors.Join(killed, <-restarted)
	default:
	}
	return t, err
}

// strike kills the victim of a step.
func (f *factory) strike(k *keeper, fl *fleet, victim string) error {
	switch victim {
	case postgresTarget:
		return f.Postgres.Kill()
	case "station":
		_, err := fl.kill(victim)
		return err
	}
	_, err := k.kill(victim, 0)
	return err
}

// failed says what is not as it must be.
func (r StepsReport) failed() error {
	var wrong []string
	struck := 0
	for _, t := range r.Steps {
		if !t.Shipped {
			wrong = append(wrong, fmt.Sprintf("%s: the device is not shipped", t.step))
		}
		if t.Struck {
			struck++
		}
	}
	if 2*struck < len(r.Steps) || struck == 0 {
		wrong = append(wrong, fmt.Sprintf("%d of %d steps struck: the conversation is another one than measured", struck, len(r.Steps)))
	}
	return joinWrong(append(wrong, r.Verdict.wrong(len(r.Strange))...))
}

// String is the report for people.
func (r StepsReport) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-28s %d\n%-28s %d of %d, %s chips\n", "seed", r.Seed, "steps", len(r.Steps), r.All, r.Chips)
	t := console.NewTable(console.Columns("killed", "effect", "steps", "struck", "shipped", "longest_s")...)
	for _, c := range r.count() {
		t.Row(c.victim, c.effect, c.steps, c.struck, c.shipped, c.longest)
	}
	fmt.Fprintf(&b, "\n%s\n", t)
	for _, row := range r.Verdict.rows() {
		fmt.Fprintf(&b, rowFormat, row[0], row[1])
	}
	b.WriteString(r.Verdict.String())
	for _, s := range r.Strange {
		fmt.Fprintf(&b, "  ✗ %s\n", s)
	}
	return b.String()
}

// Markdown is the report as a table for a document.
func (r StepsReport) Markdown() string {
	var b strings.Builder
	b.WriteString("| killed | effect | steps | struck | shipped | longest, s |\n|---|---|---|---|---|---|\n")
	for _, c := range r.count() {
		fmt.Fprintf(&b, "| %s | %s | %d | %d | %d | %s |\n", c.victim, c.effect, c.steps, c.struck, c.shipped, c.longest)
	}
	return b.String()
}

type stepCount struct {
	victim, effect         string
	steps, struck, shipped int
	seconds                float64
	longest                string
}

// count sums the steps up by victim and effect.
func (r StepsReport) count() []*stepCount {
	var all []*stepCount
	for _, victim := range []string{"station", "spp", "sequencer", postgresTarget} {
		for _, kept := range []bool{false, true} {
			c := &stepCount{victim: victim, effect: "lost"}
			if kept {
				c.effect = "kept"
			}
			for _, t := range r.Steps {
				if t.Victim != victim || t.Kept != kept {
					continue
				}
				c.steps++
				c.seconds = max(c.seconds, t.Took)
				if t.Struck {
					c.struck++
				}
				if t.Shipped {
					c.shipped++
				}
			}
			c.longest = fmt.Sprintf("%.1f", c.seconds)
			if c.steps > 0 {
				all = append(all, c)
			}
		}
	}
	return all
}
