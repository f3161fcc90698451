package main

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/station"
)

// maxRuns is how often the station is run: a run ends with devices not shipped when the SPP was away for longer than
// the station's patience, and the next one takes them up. One run is usual.
const maxRuns = 5

// line is the station's work.
type line struct {
	runs int
	acks map[string]station.Outcome // device → what the station was told, once it was told something that must stand
	errs map[string]string          // device → why it is not shipped, newest
}

func newLine() *line { return &line{acks: map[string]station.Outcome{}, errs: map[string]string{}} }

// assemble takes devices through the line, and through it again, until all are shipped.
func (f *factory) assemble(ctx context.Context, l *line, names []string) error {
	left := names
	for run := 0; run < maxRuns && len(left) > 0; run++ {
		l.runs++
		args := append([]string{"run", "--json", "--log-level", "error", "--config", f.StationConfig(stationName, sppName)}, left...)
		// With devices not shipped the program ends with another code, and its report all the same.
		result, err := f.Run(ctx, f.With("station", stationName), []int{console.ExitFailed, console.ExitRefused}, args...)
		if err != nil {
			return err
		}
		var r struct {
			Devices []station.Outcome `json:"devices"`
		}
		if err := json.Unmarshal(result.Out, &r); err != nil {
			return fmt.Errorf("the station's report: %w\n%s", err, result.Errs)
		}
		for _, o := range r.Devices {
			l.note(o)
		}
		var again []string
		for _, name := range left {
			if !l.acks[name].Shipped {
				again = append(again, name)
			}
		}
		left = again
	}
	return nil
}

// note keeps what must stand: that a device is published, with its place in the registry, and that it is shipped.
func (l *line) note(o station.Outcome) {
	if !o.Shipped {
		l.errs[o.Device] = o.Error
	}
	before, known := l.acks[o.Device]
	if known && o.Sequence < 0 { // a later run only finished it
		o.Generation, o.Sequence = before.Generation, before.Sequence
	}
	if o.Shipped || o.Sequence >= 0 {
		l.acks[o.Device] = o
	}
}
