package main

import (
	"context"
	"fmt"

	"github.com/devicekeys/devicekeys/bench"
	"github.com/devicekeys/devicekeys/softhsm/raw"
)

func init() {
	benches = append(benches, bench.Bench{Name: "spp-calls", Summary: "PKCS#11 calls of the SPP for a device, counted at the module", Run: calls})
}

const (
	callsDevices = 400
	warmUp       = 40 // devices before anything is counted: sessions are opened, attributes read back, statements prepared
	flight       = 8  // devices in work at once, where a row doesn't say how many
)

// calls counts at the module, with a shim before it: what miekg asks for sizes included, and crypto11's calls too.
func calls(ctx context.Context, e *bench.Env) (rows []bench.Result, err error) {
	n := e.Size(callsDevices, 20)
	err = with(ctx, e, order{devices: n + warmUp, shim: true}, func(f *factory) error {
		c, err := f.crew(ctx, f.SPPNames()...)
		if err != nil {
			return err
		}
		defer c.close()
		units, err := f.units(ctx, n+warmUp)
		if err != nil {
			return err
		}
		if _, err := c.ship(ctx, units[:warmUp], flight, nil); err != nil {
			return err
		}
		f.shim.Reset()
		if _, err := c.ship(ctx, units[warmUp:], flight, nil); err != nil {
			return err
		}
		counts, sizes, spent := f.shim.Counts(), f.shim.SizeQueries(), f.shim.Spent()
		ms := map[string]float64{}
		for name, d := range spent {
			ms[name] = float64(d.Microseconds()) / 1000 / float64(n)
		}
		made := worked(counts, sizes)
		row := bench.Measured("spp-calls", float64(total(counts))/float64(n), "calls/device").AtMost(40, 25).
			Note("calls_per_device", perDevice(counts, n)).Note("size_queries_per_device", perDevice(sizes, n)).
			Note("ms_per_device", ms).Note("operations_per_device", perDevice(made, n)).Note("needed_per_device", raw.Needs()).Note("devices", n)
		rows = []bench.Result{row}
		return same(made, n)
	})
	return rows, err
}

// worked gives the cryptographic operations among calls: without those that only asked for a size.
func worked(counts, sizes map[string]uint64) map[string]uint64 {
	made := map[string]uint64{}
	for name, n := range counts {
		if isOperation(name) {
			made[name] = n - sizes[name]
		}
	}
	return made
}

// background is how much of a device's operations may be missing or in excess: heads of the audit log and health
// checks come by the clock, whatever the number of devices.
const background = 0.15

// same makes sure that what the SPP does for devices is what a device is said to need: otherwise nothing that is
// compared with the raw calls would mean anything. Beside a device's own signatures there is a share of a submission's.
func same(made map[string]uint64, devices int) error {
	needs := raw.Needs()
	for _, name := range operations {
		have, want, most := float64(made[name])/float64(devices), float64(needs[name]), float64(needs[name])+background
		if name == "C_SignInit" {
			most++
		}
		if have < want-background || have > most {
			return fmt.Errorf("the SPP makes %.2f operations by %s for a device, and a device needs %v (softhsm/raw): one of the two has changed", have, name, want)
		}
	}
	return nil
}
