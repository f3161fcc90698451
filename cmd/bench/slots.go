package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/devicekeys/devicekeys/bench"
)

func init() {
	benches = append(benches, bench.Bench{Name: "slots", Summary: "token chips through the line: cost by how many slots the station's directory has, from 10 on", Long: true, Run: slots})
}

// slotCounts are how many slots there are in turn. Only a thousand are promised; what comes after shows where it stops.
var slotCounts = []int{10, 30, 100, 300, 1000, 2000, 4000}

const (
	// slotsPromised must go through the line.
	slotsPromised = 1000
	// slotsBound ends the series: a count that takes longer is where it stops, in practice.
	slotsBound = 20 * time.Minute
)

// slots has the device program make slots and the station program take the new ones through the line, as many at once as
// it does by itself. Each chip is a token of SoftHSM, all of them in one directory and one process.
func slots(ctx context.Context, e *bench.Env) (rows []bench.Result, err error) {
	most := e.Size(slotCounts[len(slotCounts)-1], slotCounts[0])
	promised := e.Size(slotsPromised, slotCounts[0])
	err = with(ctx, e, order{devices: most, tokenChips: true}, func(f *factory) error {
		shipped, stopped := 0, ""
		for _, count := range slotCounts {
			if count > most {
				break
			}
			bound, cancel := context.WithTimeout(ctx, slotsBound)
			row, err := f.slots(bound, count, count-shipped)
			cancel()
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err != nil {
				stopped = fmt.Sprintf("at %d slots: %v", count, err)
				break
			}
			e.Say("%d slots: %.0f ms a device", count, row.Value)
			rows, shipped = append(rows, row), count
		}
		row := bench.Measured("slots", float64(shipped), "token chips shipped").AtLeast(float64(promised), float64(promised))
		if stopped != "" {
			row = row.Note("stopped", stopped)
		}
		rows = append(rows, row)
		return nil
	})
	return rows, err
}

// slots makes the directory have so many slots and takes the new ones through the line.
func (f *factory) slots(ctx context.Context, count, fresh int) (bench.Result, error) {
	begun := time.Now()
	list, names, err := f.CreateDevices(ctx, f.StationNames()[0], count)
	if err != nil {
		return bench.Result{}, err
	}
	made := time.Since(begun)
	if err := f.ImportChips(ctx, list); err != nil {
		return bench.Result{}, err
	}
	// By their numbers, of which the newest are the last.
	args := append([]string{"run", "--json", "--log-level", "error", "--config", f.Etc("station.yaml")}, names[count-fresh:]...)
	begun = time.Now()
	out, err := f.Run(ctx, f.With("station", "station"), nil, args...)
	if err != nil {
		return bench.Result{}, err
	}
	ran := time.Since(begun)
	var report struct {
		Shipped int           `json:"shipped"`
		Took    time.Duration `json:"took_ns"`
	}
	if err := json.Unmarshal(out.Out, &report); err != nil {
		return bench.Result{}, fmt.Errorf("read the station's report: %w", err)
	}
	if report.Shipped != fresh {
		return bench.Result{}, fmt.Errorf("%d of %d devices were shipped", report.Shipped, fresh)
	}
	each := func(d time.Duration) float64 { return d.Seconds() * 1000 / float64(fresh) }
	return bench.Measured(fmt.Sprintf("slots-%d", count), each(report.Took), "ms/device").
		Note("ms_to_make_each", each(made)).Note("station_start_ms", (ran-report.Took).Seconds()*1000).Note("devices", fresh), nil
}
