package main

import (
	"context"
	"fmt"
	"time"

	"github.com/devicekeys/devicekeys/bench"
)

func init() {
	benches = append(benches, bench.Bench{Name: "soak", Summary: "what an SPP holds after 50,000 devices, against after the first 1,000", Long: true, Run: soak})
}

const (
	soakDevices = 50_000
	soakFirst   = 1000
	// soakHands take all devices, the first ones too, so that what is held is compared under the same load: enough that
	// connections and sessions are as many as the SPP may have, and more of them at the end are a leak.
	soakHands = 64
)

// held is what an SPP holds that should not grow.
type held struct {
	objects, sessions, sockets                             float64 // PKCS#11: session objects, sessions; sockets
	goroutines, threads, descriptors, resident, deviceKeys float64
}

// soak runs one SPP for a long time. Sessions and session objects are counted in its process, by the shim; connections
// are its sockets. What the module itself never gives back is told from what the SPP holds by a control: a
// process that makes the same devices' PKCS#11 calls raw and keeps nothing.
func soak(ctx context.Context, e *bench.Env) (rows []bench.Result, err error) {
	first := e.Size(soakFirst, 50)
	all := max(e.Size(soakDevices, 100), 2*first)
	err = with(ctx, e, order{devices: all, shim: true}, func(f *factory) error {
		spp := f.SPPNames()[0]
		c, err := f.crew(ctx, spp)
		if err != nil {
			return err
		}
		defer c.close()
		bar := e.Bar(all, "devices")
		defer bar.Done()
		work := func(n int) error {
			for n > 0 {
				batch := min(n, listSize)
				units, err := f.units(ctx, batch)
				if err != nil {
					return err
				}
				if _, err := c.ship(ctx, units, soakHands, bar); err != nil {
					return err
				}
				if _, err := c.calls.take(); err != nil { // they aren't asked for, and would pile up
					return err
				}
				n -= batch
			}
			return nil
		}
		if err := work(first); err != nil {
			return err
		}
		before, err := f.held(ctx, spp)
		if err != nil {
			return err
		}
		if err := work(all - first); err != nil {
			return err
		}
		after, err := f.held(ctx, spp)
		if err != nil {
			return err
		}
		e.Say("soak: the same PKCS#11 calls raw")
		token, err := f.copyToken(spp, "raw")
		if err != nil {
			return err
		}
		module, err := f.raw(ctx, token, rawCmd{Devices: all - first})
		if err != nil {
			return err
		}
		rows = grown(before, after, float64(module.Grown), all, first)
		return nil
	})
	return rows, err
}

// censusTimeout bounds the wait for the SPP's next PKCS#11 call, which its health page makes.
const censusTimeout = 30 * time.Second

// held asks an SPP, once nothing is under way.
func (f *factory) held(ctx context.Context, spp string) (held, error) {
	ctx, cancel := context.WithTimeout(ctx, censusTimeout)
	defer cancel()
	var h held
	asking := make(chan error, 1)
	go func() {
		objects, sessions, err := f.shim.Census(ctx)
		h.objects, h.sessions = float64(objects), float64(sessions)
		asking <- err
	}()
	for counted := false; !counted; {
		if err := f.Server(spp).Ready(ctx); err != nil {
			return held{}, err
		}
		select {
		case err := <-asking:
			if err != nil {
				return held{}, err
			}
			counted = true
		case <-time.After(censusPause):
		}
	}
	for _, m := range []struct {
		into *float64
		name string
	}{
		{&h.goroutines, "go_goroutines"}, {&h.descriptors, "process_open_fds"}, {&h.resident, "process_resident_memory_bytes"},
		{&h.deviceKeys, "devicekeys_device_keys_cached"}, {&h.threads, "go_threads"},
	} {
		var err error
		if *m.into, err = f.Metric(ctx, spp, m.name); err != nil {
			return held{}, err
		}
	}
	open, err := sockets(f.Server(spp).PID())
	h.sockets = float64(open)
	return h, err
}

// censusPause is between two requests of the health page while the SPP is to count.
const censusPause = 50 * time.Millisecond

// grown compares what is held at the end with what was held at first.
func grown(before, after held, module float64, all, first int) []bench.Result {
	bound := fmt.Sprintf("the same process after %d devices", first)
	own := bound + ", less what the module keeps of such calls made raw"
	var rows []bench.Result
	for _, r := range []struct {
		name, unit    string
		before, after float64
		bound         string
	}{
		{"soak-goroutines", "goroutines", before.goroutines, after.goroutines, bound},
		{"soak-sessions", "sessions", before.sessions, after.sessions, bound},
		{"soak-objects", "session objects", before.objects, after.objects, bound},
		{"soak-connections", "sockets", before.sockets, after.sockets, bound},
		{"soak-descriptors", "descriptors", before.descriptors, after.descriptors, bound},
		{"soak-memory", "MB resident", before.resident / 1e6, after.resident / 1e6, bound},
		{"soak-memory-own", "MB resident", before.resident / 1e6, (after.resident - module) / 1e6, own},
	} {
		var row bench.Result
		if r.before > 0 {
			row = bench.Compared(r.name, r.unit, r.bound, bench.Medians([]bench.Round{{Value: r.after, BoundValue: &r.before}})).AtMost(1.1, 1.0)
		} else { // nothing can be a multiple of none: none it must be
			row = bench.Measured(r.name, r.after, r.unit).AtMost(0, 0).Note("before", r.before)
		}
		rows = append(rows, row.Note("devices", all).
			Note("device_keys_cached", after.deviceKeys).Note("threads", []float64{before.threads, after.threads}).Note("module_mb", module/1e6))
	}
	return rows
}
