package fault_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/devicekeys/devicekeys/fault"
)

var targets = []fault.Target{
	{Name: "spp-1", Acts: []fault.Act{{Kind: "kill -9"}, {Kind: "pause", Least: 100 * time.Millisecond, Most: time.Second}}},
	{Name: "spp-1/postgres", Acts: []fault.Act{{Kind: "reply lost", Bursts: 9}, {Kind: "cut"}}},
}

// The plan of a seed is what it was: a seed in a report from last year repeats that run.
func TestPlanOfSeed(t *testing.T) {
	t.Parallel()
	const want = `plan of seed 7: 5 faults
    1.353s  kill -9        spp-1
    1.856s  pause          spp-1  for 500ms
    2.782s  cut            spp-1/postgres
    3.449s  reply lost     spp-1/postgres  at burst 2
    4.418s  reply lost     spp-1/postgres  at burst 5
`
	if diff := cmp.Diff(want, fault.NewPlan(7, 5*time.Second, time.Second, targets...).String()); diff != "" {
		t.Errorf("the plan of a seed has changed (-want +got):\n%s", diff)
	}
}

func TestPlan(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Uint64().Draw(t, "seed")
		duration := time.Duration(rapid.Int64Range(0, int64(time.Minute)).Draw(t, "duration"))
		every := time.Duration(rapid.Int64Range(int64(10*time.Millisecond), int64(5*time.Second)).Draw(t, "every"))
		p := fault.NewPlan(seed, duration, every, targets...)
		if diff := cmp.Diff(p, fault.NewPlan(seed, duration, every, targets...)); diff != "" {
			t.Fatalf("twice the same seed:\n%s", diff)
		}
		if len(p.Faults) > 2 && cmp.Equal(p.Faults, fault.NewPlan(seed+1, duration, every, targets...).Faults) {
			t.Fatal("two seeds give one plan")
		}
		if n := int(duration / every); len(p.Faults) > 2*n+1 {
			t.Fatalf("%d faults in %s, one every %s", len(p.Faults), duration, every)
		}
		over := map[string]time.Duration{}
		last := time.Duration(0)
		for _, f := range p.Faults {
			if f.At < last || f.At+f.For > duration+time.Millisecond {
				t.Fatalf("%s: after %s, in a plan of %s", f, last, duration)
			}
			last = f.At
			if f.At+time.Millisecond < over[f.Target] {
				t.Fatalf("%s: while another one lasts, to %s", f, over[f.Target])
			}
			over[f.Target] = f.At + f.For
			if (f.Nth > 0) != (f.Kind == "reply lost") || f.Nth > 9 || f.Kind == "pause" && f.For > time.Second {
				t.Fatalf("%+v", f)
			}
		}
	})
}

// A plan that is long enough has every kind at every target.
func TestPlanHasAll(t *testing.T) {
	t.Parallel()
	for seed := range uint64(50) {
		p := fault.NewPlan(seed, 20*time.Second, time.Second, targets...)
		have := map[string]int{}
		for _, f := range p.Faults {
			have[f.Target+" "+string(f.Kind)]++
		}
		if len(have) != 4 {
			t.Errorf("seed %d: %v", seed, have)
		}
	}
	if p := fault.NewPlan(1, time.Second, time.Second); len(p.Faults) != 0 || !strings.Contains(p.String(), "0 faults") {
		t.Errorf("a plan without targets: %s", p)
	}
}
