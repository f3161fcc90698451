package main

import (
	"context"

	"github.com/devicekeys/devicekeys/bench"
	"github.com/devicekeys/devicekeys/cmd/internal/plant"
)

func init() {
	benches = append(benches, bench.Bench{Name: "keys", Summary: "the SPP's cost for a device with 1,000 keys more on its token, against one with its own few", Run: keys})
}

// keysDevices are those of a round of each SPP.
const keysDevices = 150

// spareKeys are made in one of two tokens that are otherwise the same.
const spareKeys = 1000

// keys compares two SPPs on one pool: their tokens have the same keys, and one has many that nobody uses.
func keys(ctx context.Context, e *bench.Env) (rows []bench.Result, err error) {
	n := e.Size(keysDevices, 20)
	all := 2 * (warmUp + (e.Rounds+1)*n)
	spare := e.Size(spareKeys, 20)
	fill := func(ctx context.Context, p *plant.Plant) error {
		f := &factory{Plant: p, env: e}
		_, err := f.raw(ctx, p.HSM(p.SPPNames()[1]), rawCmd{Fill: spare})
		return err
	}
	err = with(ctx, e, order{devices: all, spps: 2, prepare: fill}, func(f *factory) error {
		units, err := f.units(ctx, all)
		if err != nil {
			return err
		}
		measure := func(spp string) (func(context.Context) (float64, error), func() error, error) {
			c, err := f.crew(ctx, spp)
			if err != nil {
				return nil, nil, err
			}
			taken := units[:warmUp]
			units = units[warmUp:]
			_, err = c.ship(ctx, taken, flight, nil)
			return func(ctx context.Context) (float64, error) {
				var taken []*unit
				taken, units = units[:n], units[n:]
				return f.cpuOf(ctx, c, spp, taken)
			}, c.close, err
		}
		few, closeFew, err := measure(f.SPPNames()[0])
		if err != nil {
			return err
		}
		defer closeFew()
		many, closeMany, err := measure(f.SPPNames()[1])
		if err != nil {
			return err
		}
		defer closeMany()
		compared, err := bench.Compare(ctx, e.Rounds, many, few)
		if err != nil {
			return err
		}
		rows = []bench.Result{bench.Compared("keys-1000", "ms CPU/device", "another SPP on the same pool, whose token has its own few keys", compared).AtMost(1.05, 1.0).
			Note("spare_keys", spare).Note("devices_each_round", n).Note("in_flight", flight)}
		return nil
	})
	return rows, err
}
