package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
)

// report is the result of a trial.
type report struct {
	Devices int          `json:"devices"`
	Runs    int          `json:"station_runs"`
	Events  []Resumption `json:"events"`
	Looks   int          `json:"looks_that_failed"` // by the trial itself, each for a reason that passes

	Shipped      int      `json:"shipped"`
	Acknowledged int      `json:"acknowledged"` // devices that the station was told are published
	Lost         []string `json:"lost"`         // acknowledged and not there, or otherwise
	Duplicates   []string `json:"duplicates"`
	Unfinished   []string `json:"unfinished"`
	Invariants   int      `json:"invariants"`
	Broken       []string `json:"broken"`
}

// String is the report as text.
func (r *report) String() string {
	t := console.NewTable(console.Columns("event", "node", "shipped_before", "settled_s", "without_write_s", "without_ship_s", "rejoined_s")...)
	second := func(s float64) any {
		if s == 0 {
			return "-"
		}
		return fmt.Sprintf("%.1f", s)
	}
	for _, e := range r.Events {
		t.Row(e.Event, e.Node, e.Before, second(e.Settled), second(e.Written), second(e.Shipped), second(e.Whole))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", t)
	for _, line := range [][2]any{
		{"devices shipped", fmt.Sprintf("%d of %d, in %d runs of the station", r.Shipped, r.Devices, r.Runs)},
		{"acknowledged", r.Acknowledged}, {"lost", len(r.Lost)}, {"duplicates", len(r.Duplicates)},
		{"invariants", fmt.Sprintf("%d of %d hold", r.Invariants-len(r.Broken), r.Invariants)},
	} {
		fmt.Fprintf(&b, "%-16s %v\n", line[0], line[1])
	}
	return b.String()
}

// write puts the report where scripts find it.
func (r *report) write(dir string) error {
	f, err := os.Create(filepath.Join(dir, "report.json"))
	if err != nil {
		return err
	}
	defer f.Close()
	return console.Output{JSON: true}.Print(f, r)
}

// maxNamed bounds what an error lists; the report has all.
const maxNamed = 5

// failed is the error of a report in which something is not as it must be.
func (r *report) failed() error {
	var wrong []string
	list := func(what string, all []string) {
		if len(all) > 0 {
			wrong = append(wrong, fmt.Sprintf("%d %s: %s", len(all), what, strings.Join(all[:min(len(all), maxNamed)], "; ")))
		}
	}
	list("lost", r.Lost)
	list("duplicates", r.Duplicates)
	list("not shipped", r.Unfinished)
	list("invariants broken", r.Broken)
	if r.Acknowledged < r.Devices || r.Invariants == 0 {
		wrong = append(wrong, fmt.Sprintf("%d of %d devices acknowledged, %d invariants checked", r.Acknowledged, r.Devices, r.Invariants))
	}
	if len(wrong) > 0 {
		return fmt.Errorf("the trial failed: %s", strings.Join(wrong, "\n"))
	}
	return nil
}
