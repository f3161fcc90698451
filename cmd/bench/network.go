package main

import (
	"context"
	"fmt"
	"time"

	"github.com/devicekeys/devicekeys/bench"
)

func init() {
	benches = append(benches, bench.Bench{Name: "network", Summary: "devices a second on a modelled network HSM, against what its sessions could do at most", Run: network})
}

// networks are the HSMs modelled: every call takes so long, and so many can be under way, one to a session.
var networks = []struct {
	name     string
	delay    time.Duration
	sessions int
	hands    int // devices in work at once
	devices  int // each round: some seconds' worth
}{
	{"network-1ms", time.Millisecond, 4, 16, 240},
	{"network-10ms", 10 * time.Millisecond, 16, 64, 192},
}

// network has a shim before the token that delays every call, outside of any lock. The bound is what the sessions could
// do if none of them ever waited: with N sessions, at most N calls are under way, and devices/s = sessions ÷ (calls for
// a device × mean time of a call), both as the shim measured them in the same round.
func network(ctx context.Context, e *bench.Env) (rows []bench.Result, err error) {
	for _, model := range networks {
		n := e.Size(model.devices, model.hands)
		warm := 2 * model.hands
		all := warm + e.Rounds*n
		err := with(ctx, e, order{devices: all, sessions: model.sessions, shim: true}, func(f *factory) error {
			c, err := f.crew(ctx, f.SPPNames()...)
			if err != nil {
				return err
			}
			defer c.close()
			units, err := f.units(ctx, all)
			if err != nil {
				return err
			}
			if err := f.shim.Delay("", model.delay); err != nil {
				return err
			}
			if _, err := c.ship(ctx, units[:warm], model.hands, nil); err != nil {
				return err
			}
			units = units[warm:]
			if _, err := c.calls.take(); err != nil {
				return err
			}
			var rounds []bench.Round
			var perDevice, mean float64
			busiest := 0
			for range e.Rounds {
				f.shim.Reset()
				if err := f.shim.Delay("", model.delay); err != nil {
					return err
				}
				took, err := c.ship(ctx, units[:n], model.hands, nil)
				if err != nil {
					return err
				}
				units = units[n:]
				var spent time.Duration
				for _, d := range f.shim.Spent() {
					spent += d
				}
				made := total(f.shim.Counts())
				perDevice, mean = float64(made)/float64(n), spent.Seconds()/float64(made)
				busiest = max(busiest, f.shim.Busiest())
				bound := float64(model.sessions) / (perDevice * mean)
				rounds = append(rounds, bench.Round{Value: float64(n) / took.Seconds(), BoundValue: &bound})
			}
			latency, err := c.calls.take()
			if err != nil {
				return err
			}
			rows = append(rows, bench.Compared(model.name, "devices/s", "sessions ÷ (calls × the shim's measured mean call time)", bench.Medians(rounds)).AtLeast(0.85, 0.95).
				Note("calls_per_device", perDevice).Note("mean_call_ms", mean*1000).Note("delay_ms", float64(model.delay.Microseconds())/1000).
				Note("sessions", model.sessions).Note("most_calls_at_once", busiest).Note("in_flight", model.hands).Note("devices_each_round", n).Note("latency", latency))
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", model.name, err)
		}
	}
	return rows, nil
}
