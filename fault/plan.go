package fault

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// Kind names a kind of fault: "kill -9", "black hole".
type Kind string

// Act is a kind of fault that a target may suffer.
type Act struct {
	Kind Kind
	// Least and Most bound the fault's length; both 0: it is a moment's.
	Least, Most time.Duration
	// Bursts, where not 0, has the fault wait for the n-th burst, n drawn from 1 to Bursts.
	Bursts int
}

// Target is something that can be broken, and the ways.
type Target struct {
	Name string
	Acts []Act
}

// Fault is one fault of a plan.
type Fault struct {
	At     time.Duration // since the plan's beginning
	Kind   Kind
	Target string
	For    time.Duration // how long it lasts; 0: a moment
	Nth    int           // burst at which it strikes; 0: at once
}

// String is one line: "  12.340s  black hole  spp-1/postgres  for 1.2s".
func (f Fault) String() string {
	s := fmt.Sprintf("%9.3fs  %-14s %s", f.At.Seconds(), f.Kind, f.Target)
	if f.For > 0 {
		s += fmt.Sprintf("  for %s", f.For)
	}
	if f.Nth > 0 {
		s += fmt.Sprintf("  at burst %d", f.Nth)
	}
	return s
}

// Plan is a list of faults in the order of their times.
type Plan struct {
	Seed   uint64
	Faults []Fault
}

// String is the plan as a list, one line a fault.
func (p Plan) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "plan of seed %d: %d faults\n", p.Seed, len(p.Faults))
	for _, f := range p.Faults {
		b.WriteString(f.String() + "\n")
	}
	return b.String()
}

// stream tells this use of a seed from others: the second word of the generator's seed.
const stream = 0x6661756c74 // "fault"

// NewPlan draws faults over a duration, one about every so often (from half that to one
// and a half). The same arguments give the same plan, on every machine.
//
// Kinds are drawn as from a bag, each once before any comes again, and so are a kind's
// targets: a plan of as many faults as there are kinds has them all. A target
// suffers one fault at a time. All faults end within the duration.
func NewPlan(seed uint64, duration, every time.Duration, targets ...Target) Plan {
	p := Plan{Seed: seed}
	if every <= 0 {
		return p
	}
	draw := rand.New(rand.NewPCG(seed, stream))
	kinds := newBags(draw, targets)
	free := map[string]time.Duration{} // when a target's last fault is over
	for at := gap(draw, every); at < duration; at += gap(draw, every) {
		c, ok := kinds.take(func(t string) bool { return free[t] <= at })
		if !ok {
			continue // no target has rest
		}
		f := Fault{At: at.Round(time.Millisecond), Kind: c.act.Kind, Target: c.target}
		if c.act.Most > 0 {
			f.For = min(between(draw, c.act.Least, c.act.Most), duration-at).Round(time.Millisecond)
		}
		if c.act.Bursts > 0 {
			f.Nth = 1 + draw.IntN(c.act.Bursts)
		}
		free[c.target] = at + f.For
		p.Faults = append(p.Faults, f)
	}
	return p
}

func gap(draw *rand.Rand, every time.Duration) time.Duration {
	return between(draw, every/2, every+every/2)
}

func between(draw *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(draw.Int64N(int64(max(most-least, 0))+1))
}
