package provisioning_test

import (
	"context"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning"
)

// TestDrain: after a stop no device is begun, and those in flight are served to
// their end, which ends the drain.
func TestDrain(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	l.stock(t, 0, 3)
	ctx := t.Context()
	f, other := on(l.station(t), l.device(t, true)), on(l.station(t), l.device(t, true))
	hello := f.device.hello(t, keypackage.SuiteAttested)
	var err error
	f.begun, err = begin(t, f.station, hello)
	must(t, err)
	if n := l.spp.value(t, "devicekeys_devices_in_flight"); n != 1 {
		t.Errorf("%v devices in flight", n)
	}
	drained := make(chan int, 1)
	bound, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	l.spp.Stop()
	go func() { drained <- l.spp.Drain(bound) }()
	refused(t, other.begin(ctx), connect.CodeUnavailable, provisioning.CodeStopping)
	// The reply to its Begin was lost: it is answered again.
	if _, err := begin(t, f.station, hello); err != nil {
		t.Errorf("a device in flight is not served: %v", err)
	}
	for _, step := range f.steps()[1:] {
		select {
		case <-drained:
			t.Fatal("the drain ended with a device in flight")
		default:
		}
		must(t, step(ctx))
	}
	begun := time.Now()
	if left := <-drained; left != 0 {
		t.Errorf("%d devices are left", left)
	}
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("the drain took %s more after the last device", took)
	}
	l.spp.stop()
	l.spp = l.start(t)
	other.station = l.station(t)
	must(t, other.finish(ctx, 0))
}

// TestDrainEnds: a device that does not go on holds up a stop for no longer than
// the drain, one that waits for the registry not at all; the next process goes on
// with both.
func TestDrainEnds(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	l.stock(t, 0, 2)
	ctx := t.Context()
	l.front.set(away)
	stuck, waits := on(l.station(t), l.device(t, true)), on(l.station(t), l.device(t, true))
	must(t, waits.run(ctx, 5))
	refused(t, waits.publish(ctx), connect.CodeUnavailable, provisioning.CodePublication)
	must(t, stuck.run(ctx, 3))
	short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	begun := time.Now()
	if left := l.spp.Drain(short); left != 1 {
		t.Errorf("%d devices are left", left)
	}
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("a drain of 300 ms took %s", took)
	}
	l.spp.stop()
	l.front.set(nil)
	l.spp = l.start(t)
	stuck.station, waits.station = l.station(t), l.station(t)
	must(t, stuck.finish(ctx, 3))
	must(t, waits.finish(ctx, 5))
}
