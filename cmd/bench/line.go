package main

import (
	"context"
	"fmt"
	"time"

	"github.com/devicekeys/devicekeys/bench"
)

func init() {
	benches = append(benches, bench.Bench{Name: "line", Summary: "devices a second over the whole path with software chips, 1, 8 and 32 in flight", Run: line})
}

// flights are how many devices are in work at once, and how many each round takes there: some seconds' worth.
var flights = []struct{ hands, devices int }{{1, 100}, {8, 400}, {32, 640}}

// line measures everything on this one machine: SPP, sequencer, Postgres, stations and chips share its CPUs.
func line(ctx context.Context, e *bench.Env) (rows []bench.Result, err error) {
	all := warmUp
	for _, f := range flights {
		all += e.Rounds * e.Size(f.devices, f.hands)
	}
	err = with(ctx, e, order{devices: all}, func(f *factory) error {
		c, err := f.crew(ctx, f.SPPNames()...)
		if err != nil {
			return err
		}
		defer c.close()
		units, err := f.units(ctx, all)
		if err != nil {
			return err
		}
		bar := e.Bar(all, "devices")
		defer bar.Done()
		take := func(n int) (taken []*unit) {
			taken, units = units[:n], units[n:]
			return taken
		}
		if _, err := c.ship(ctx, take(warmUp), flight, bar); err != nil {
			return err
		}
		for _, fl := range flights {
			row, err := lineRow(ctx, f, c, fl.hands, e.Rounds, e.Size(fl.devices, fl.hands), take, bar)
			if err != nil {
				return err
			}
			if fl.hands == 32 {
				row = row.AtLeast(500, 1000)
			}
			rows = append(rows, row)
		}
		return nil
	})
	return rows, err
}

func lineRow(ctx context.Context, f *factory, c *crew, hands, rounds, n int, take func(int) []*unit, bar bench.Bar) (bench.Result, error) {
	before, err := f.usage()
	if err != nil {
		return bench.Result{}, err
	}
	if _, err := c.calls.take(); err != nil {
		return bench.Result{}, err
	}
	var values []float64
	var all []bench.Round
	var wall time.Duration
	for range rounds {
		took, err := c.ship(ctx, take(n), hands, bar)
		if err != nil {
			return bench.Result{}, err
		}
		wall += took
		values = append(values, float64(n)/took.Seconds())
		all = append(all, bench.Round{Value: values[len(values)-1]})
	}
	after, err := f.usage()
	if err != nil {
		return bench.Result{}, err
	}
	latency, err := c.calls.take()
	if err != nil {
		return bench.Result{}, err
	}
	rate := bench.Median(values)
	row := bench.Measured(fmt.Sprintf("line-%d", hands), rate, "devices/s").
		Note("chips_per_hour", rate*3600).Note("latency", latency).Note("cpu_ms_per_device", after.since(before, rounds*n)).
		Note("devices", rounds*n).Note("seconds", wall.Seconds()).Note("in_flight", hands).
		Note("what", "one machine does everything; the stations' journals are in memory")
	row.Rounds = all
	return row, nil
}
