package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/devicekeys/devicekeys/bench"
)

const (
	rowsFew     = 1_000
	rowsMany    = 1_000_000 // what one import takes, and a year of a busy line
	rowsDevices = 600       // of each measurement
	rowsSpare   = 10        // identities that a plant imports beyond its devices'
)

func init() {
	benches = append(benches, bench.Bench{Name: "rows", Long: true, Summary: "a device's cost with a million rows in pool and records, against a thousand", Run: runRows})
}

// runRows takes the same devices through two factories, in turns. In both the pool has as many free
// identities, and the records as many devices that were shipped before, with chips, audit entries and
// registry entries; in the one a thousand times what the other has.
func runRows(ctx context.Context, e *bench.Env) (_ []bench.Result, err error) {
	many := &house{name: "many", rows: e.Size(rowsMany, 2*rowsDevices)}
	few := &house{name: "few", rows: min(e.Size(rowsFew, 100), many.rows)}
	each := e.Size(rowsDevices, 2*flight)
	for _, h := range []*house{few, many} {
		// Each device takes an identity: there are at least as many.
		if err := h.open(ctx, e, each*(e.Rounds+1)+warmUp); err != nil {
			return nil, errors.Join(fmt.Errorf("the factory of %s rows: %w", h.name, err), few.close(), many.close())
		}
	}
	defer func() { err = errors.Join(err, few.close(), many.close()) }()
	c, err := bench.Compare(ctx, e.Rounds, many.cost(each), few.cost(each))
	if err != nil {
		return nil, err
	}
	r := bench.Compared("rows", "ms/device", fmt.Sprintf("the same line with %d rows, both %d devices in flight", few.rows, flight), c).AtMost(1.1, 1.0).
		Note("rows", many.rows).Note("in_flight", flight).Note("devices", each)
	for _, h := range []*house{few, many} {
		r = r.Note("cpu_ms_per_device_"+h.name, h.spent.each())
	}
	return []bench.Result{r}, nil
}

// house is a factory with history.
type house struct {
	name string
	rows int

	*factory
	crew  *crew
	left  []*unit // devices not taken yet
	spent spending
}

// open builds the factory, takes a few devices through it and fills in the rows.
func (h *house) open(ctx context.Context, e *bench.Env, devices int) (err error) {
	own := *e
	own.Dir = filepath.Join(e.Dir, h.name)
	if err := os.MkdirAll(own.Dir, 0o700); err != nil {
		return err
	}
	if h.factory, err = build(ctx, &own, order{devices: max(h.rows, devices) - rowsSpare}); err != nil {
		return err
	}
	if h.crew, err = h.factory.crew(ctx, h.SPPNames()...); err != nil {
		return err
	}
	if h.left, err = h.units(ctx, devices); err != nil {
		return err
	}
	if _, err := h.crew.ship(ctx, h.take(warmUp), flight, nil); err != nil {
		return err
	}
	e.Say("rows: filling in %d devices", h.rows)
	return h.fill(ctx, e, h.rows)
}

func (h *house) close() error {
	var err error
	if h.crew != nil {
		err = h.crew.close()
	}
	if h.factory != nil {
		err = errors.Join(err, h.stop())
	}
	return err
}

func (h *house) take(n int) (taken []*unit) {
	taken, h.left = h.left[:n], h.left[n:]
	return taken
}

// cost measures one round: milliseconds for each device.
func (h *house) cost(devices int) func(context.Context) (float64, error) {
	return func(ctx context.Context) (float64, error) {
		before, err := h.usage()
		if err != nil {
			return 0, err
		}
		took, err := h.crew.ship(ctx, h.take(devices), flight, nil)
		if err != nil {
			return 0, err
		}
		after, err := h.usage()
		if err != nil {
			return 0, err
		}
		h.spent.round(before, after, devices)
		return float64(took) / float64(time.Millisecond) / float64(devices), nil
	}
}
