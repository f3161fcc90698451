package station_test

import (
	"testing"
	"time"

	"github.com/devicekeys/devicekeys/station"
)

// TestQueue: who is next, while the registry is well, away and back.
func TestQueue(t *testing.T) {
	t.Parallel()
	const patience = time.Minute
	away := &station.RefusedError{Code: "publication", After: 2 * time.Second}
	now := time.Unix(1_000_000, 0)
	next := func(q station.Queue, now time.Time, want string) {
		t.Helper()
		if have, wait := q.Next(now); have != want {
			t.Errorf("next is %q (wait %s), want %q", have, wait, want)
		}
	}
	// waits: nobody is next, and the hand waits no longer than it must.
	waits := func(q station.Queue, now time.Time, least, most time.Duration) {
		t.Helper()
		if have, wait := q.Next(now); have != "" || wait < least || wait > most {
			t.Errorf("next is %q, wait %s, want %s to %s", have, wait, least, most)
		}
	}

	t.Run("away and back", func(t *testing.T) {
		t.Parallel()
		q := station.NewQueue(now, patience, "a", "b", "c", "d", "e")
		next(q, now, "a")
		if !q.Ask(now, away) {
			t.Error("the first device may not ask")
		}
		q.Park(now, "a", station.StepPublish)
		next(q, now, "b")
		if q.Ask(now, nil) {
			t.Error("the second asks, just after the first")
		}
		q.Park(now, "b", station.StepPublish)
		// When the SPP said to ask again, one parked device does, before others.
		next(q, now.Add(10*time.Second), "a")
		if !q.Ask(now.Add(10*time.Second), away) {
			t.Error("nobody asks when it is time")
		}
		q.Park(now, "a", station.StepPublish)
		// Back: the parked ones come before those not begun, who asked last at last.
		next(q, now, "c")
		if !q.Ask(now.Add(time.Hour), nil) {
			t.Error("nobody asks after an hour")
		}
		q.Done(now, "c", nil)
		next(q, now, "b")
		next(q, now, "a")
		next(q, now, "d")
		next(q, now, "e")
		waits(q, now, 1, time.Minute) // for what the others bring
		for _, d := range []string{"b", "a", "d", "e"} {
			q.Done(now, d, nil)
		}
		waits(q, now, 0, 0)
	})
	t.Run("patience", func(t *testing.T) {
		t.Parallel()
		q := station.NewQueue(now, patience, "a")
		next(q, now, "a")
		q.Ask(now, away)
		q.Park(now, "a", station.StepPublish)
		waits(q, now, time.Millisecond, time.Minute)
		waits(q, now.Add(-time.Second), time.Millisecond, time.Minute)
		if !q.Ask(now.Add(10*time.Second), &station.RefusedError{Code: "publication", After: time.Hour}) {
			t.Error("nobody asks when it is time")
		}
		waits(q, now, 0, 0) // it would come after the end of patience
	})
	t.Run("before an identity", func(t *testing.T) {
		t.Parallel()
		q := station.NewQueue(now, patience, "a", "b")
		next(q, now, "a")
		q.Park(now, "a", station.StepBegin)
		next(q, now, "a") // its time has come: it does not wait for the registry's sign
		q.Park(now, "a", station.StepBegin)
	})
	for code, want := range map[string][2]string{
		"contested":       {"parked", "fresh"},
		"quota":           {"parked", ""},
		"pool-empty":      {"parked", ""},
		"station-revoked": {"", ""},
		"station-expired": {"", ""},
		"line":            {"", ""},
	} {
		t.Run(code, func(t *testing.T) {
			t.Parallel()
			q := station.NewQueue(now, patience, "parked", "refused", "fresh")
			next(q, now, "parked")
			q.Park(now, "parked", station.StepPublish)
			next(q, now, "parked")
			q.Park(now, "parked", station.StepPublish)
			q.Ask(now, away)
			next(q, now, "refused")
			q.Ask(now.Add(time.Hour), nil)
			q.Done(now, "refused", &station.RefusedError{Code: code})
			for _, w := range want {
				next(q, now, w)
			}
		})
	}
}
