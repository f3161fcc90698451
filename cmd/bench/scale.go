package main

import (
	"context"

	"golang.org/x/sync/errgroup"

	"github.com/devicekeys/devicekeys/bench"
)

func init() {
	benches = append(benches, bench.Bench{Name: "scale", Summary: "two SPPs on one pool against one, at 32 in flight", Run: scale})
}

// scaleDevices are those of a round, scaleHands how many are in work at once, with two SPPs shared between them.
const (
	scaleDevices = 240
	scaleHands   = 32
)

// scale has no bar: on one machine the second SPP gets only the CPU that the first one left.
func scale(ctx context.Context, e *bench.Env) (rows []bench.Result, err error) {
	n := e.Size(scaleDevices, scaleHands)
	all := 2*warmUp + 2*(e.Rounds+1)*n
	err = with(ctx, e, order{devices: all, spps: 2}, func(f *factory) error {
		units, err := f.units(ctx, all)
		if err != nil {
			return err
		}
		take := func(n int) (taken []*unit) {
			taken, units = units[:n], units[n:]
			return taken
		}
		var crews []*crew
		for _, spp := range f.SPPNames() {
			c, err := f.crew(ctx, spp)
			if err != nil {
				return err
			}
			defer c.close()
			crews = append(crews, c)
			if _, err := c.ship(ctx, take(warmUp), flight, nil); err != nil {
				return err
			}
		}
		one := func(ctx context.Context) (float64, error) {
			took, err := crews[0].ship(ctx, take(n), scaleHands, nil)
			return float64(n) / took.Seconds(), err
		}
		// Each takes its half; the rates add up, since both work for about the same time.
		two := func(ctx context.Context) (float64, error) {
			rates := make([]float64, len(crews))
			group, ctx := errgroup.WithContext(ctx)
			for i, c := range crews {
				half := take(n / 2)
				group.Go(func() error {
					took, err := c.ship(ctx, half, scaleHands/2, nil)
					rates[i] = float64(len(half)) / took.Seconds()
					return err
				})
			}
			err := group.Wait()
			return rates[0] + rates[1], err
		}
		compared, err := bench.Compare(ctx, e.Rounds, two, one)
		if err != nil {
			return err
		}
		rows = []bench.Result{bench.Compared("scale-2", "devices/s", "one SPP on the same pool", compared).Note("devices_each_round", n).Note("in_flight", scaleHands)}
		return nil
	})
	return rows, err
}
