package provisioning_test

import (
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/devicekeys/devicekeys/provisioning"
)

var errHSM = errors.New("the module fails")

// TestBreaker holds the breaker against a model of its rules: it opens after so
// many failures in a row, closes by a probe alone, probes at growing pauses that
// a success after closing forgets, and stays open once stopped. The clock jumps.
func TestBreaker(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		told := 0.0
		b := provisioning.NewBreaker(func() time.Time { return now }, func(open bool) {
			told = 0
			if open {
				told = 1
			}
		})
		failures, open, stuck, pause := 0, false, false, provisioning.FirstProbe
		t.Repeat(map[string]func(*rapid.T){
			"succeeded": func(*rapid.T) {
				b.Succeeded()
				if !open {
					failures, pause = 0, provisioning.FirstProbe
				}
			},
			"failed": func(*rapid.T) {
				b.Failed(errHSM)
				failures++
				open = open || failures >= provisioning.BreakAfter
			},
			"probe": func(t *rapid.T) {
				wait, due := b.Wait()
				if due != (open && !stuck) || due && wait != pause {
					t.Fatalf("probe after %s, %v; open %v, stuck %v, pause %s", wait, due, open, stuck, pause)
				}
				if !due {
					return
				}
				pause = min(2*pause, provisioning.MaxProbe)
				if rapid.Bool().Draw(t, "well") {
					b.Probed(nil)
					open, failures = false, 0
				} else {
					b.Probed(errHSM)
				}
			},
			"time": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.Int64Range(int64(-1000*time.Hour), int64(1000*time.Hour)).Draw(t, "jump")))
			},
			"stop": func(t *rapid.T) {
				if rapid.IntRange(0, 20).Draw(t, "chance") == 0 { // rarely: it ends everything else
					b.Stop(errHSM)
					open, stuck = true, true
				}
			},
			"": func(t *rapid.T) {
				retry, s := b.Allow()
				if (retry > 0) != open || s != stuck || retry > provisioning.MaxProbe {
					t.Fatalf("come back after %s, for good %v; open %v, stuck %v", retry, s, open, stuck)
				}
				if (told == 1) != open {
					t.Fatalf("told %v, open %v", told, open)
				}
			},
		})
	})
}

// TestBreakerPauses are the pauses in numbers.
func TestBreakerPauses(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	b := provisioning.NewBreaker(func() time.Time { return now }, func(bool) {})
	for range provisioning.BreakAfter {
		if retry, _ := b.Allow(); retry != 0 {
			t.Fatal("it opened too early")
		}
		b.Failed(errHSM)
	}
	if retry, _ := b.Allow(); retry != 250*time.Millisecond {
		t.Errorf("come back after %s", retry)
	}
	var got []time.Duration
	for range 8 {
		p, _ := b.Wait()
		got = append(got, p)
		b.Probed(errHSM)
	}
	for i, want := range []time.Duration{250e6, 500e6, 1e9, 2e9, 4e9, 8e9, 10e9, 10e9} {
		if got[i] != want {
			t.Errorf("pause %d is %s, want %s", i+1, got[i], want)
		}
	}
}
