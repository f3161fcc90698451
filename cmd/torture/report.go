package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/devicekeys/devicekeys/fault"
)

// Report is the result of a run.
type Report struct {
	Seed     uint64 `json:"seed"`
	Devices  int    `json:"devices"`
	Chips    string `json:"chips"`
	SPPs     int    `json:"spps"`
	Stations int    `json:"stations"`

	FaultsFor float64      `json:"faults_for_seconds"`
	TookFor   float64      `json:"took_seconds"` // from the first device to the last one shipped
	Rate      float64      `json:"devices_per_second"`
	Faults    []FaultCount `json:"faults"`
	Resumed   []Resumption `json:"resumed"`
	Exits     []Exit       `json:"exits"`
	Runs      int          `json:"station_runs"`
	Strange   []string     `json:"strange"` // what should not happen and did
	Verdict   verdict      `json:"verdict"`
}

// FaultCount is how often a kind of fault struck.
type FaultCount struct {
	Kind   fault.Kind `json:"kind"`
	Struck int        `json:"struck"`
	Missed int        `json:"missed"` // there was nothing to break at that moment
}

// Resumption is how long it took from the restart of an SPP to its first device.
type Resumption struct {
	Server  string  `json:"server"`
	Times   int     `json:"times"`
	Median  float64 `json:"median_seconds"`
	Longest float64 `json:"longest_seconds"`
}

// Exit is a server's ends.
type Exit struct {
	Server  string `json:"server"`
	Killed  int    `json:"killed"`
	Alone   int    `json:"alone"`           // ended by itself, mostly at a start while its database is away
	PutBack int    `json:"tokens_put_back"` // its token directory was taken from its copy
}

func parseJSON(b []byte, into any) error { return json.Unmarshal(b, into) }

// collect fills in what the parts counted. They are at rest.
func (r *Report) collect(b *breaker, k *keeper, f *fleet) {
	for _, kind := range kinds {
		if b.struck[kind]+b.missed[kind] > 0 {
			r.Faults = append(r.Faults, FaultCount{kind, b.struck[kind], b.missed[kind]})
		}
	}
	for _, name := range k.SPPNames() {
		times := slices.Clone(k.resumed[name])
		slices.Sort(times)
		if n := len(times); n > 0 {
			r.Resumed = append(r.Resumed, Resumption{name, n, times[n/2].Seconds(), times[n-1].Seconds()})
		}
	}
	for _, name := range append(k.SPPNames(), "sequencer", "registry", postgresTarget) {
		r.Exits = append(r.Exits, Exit{Server: name, Killed: k.killed[name], Alone: k.exits[name], PutBack: k.restored[name]})
	}
	r.Exits = append(r.Exits, Exit{Server: "stations", Killed: f.kills})
	r.Runs = f.runs
	r.Strange = append([]string{}, f.strange...)
	for _, err := range append(slices.Clone(k.errs), b.errs...) {
		r.Strange = append(r.Strange, err.Error())
	}
	if f.shipped > 0 {
		r.TookFor = f.last.Sub(f.first).Seconds()
		r.Rate = float64(f.shipped) / r.TookFor
	}
}

// failed says what is not as it must be.
func (r Report) failed() error { return joinWrong(r.Verdict.wrong(len(r.Strange))) }

func joinWrong(wrong []string) error {
	if len(wrong) == 0 {
		return nil
	}
	return fmt.Errorf("the run found: %s", strings.Join(wrong, "; "))
}

// rows is the report as two columns.
func (r Report) rows() [][2]string {
	v := r.Verdict
	rows := [][2]string{
		{"seed", fmt.Sprint(r.Seed)},
		{"devices", fmt.Sprintf("%d, %s chips", r.Devices, r.Chips)},
		{"SPPs, stations", fmt.Sprintf("%d, %d", r.SPPs, r.Stations)},
		{"faults for", fmt.Sprintf("%.0f s", r.FaultsFor)},
	}
	total := 0
	for _, f := range r.Faults {
		rows = append(rows, [2]string{string(f.Kind), fmt.Sprint(f.Struck)})
		total += f.Struck
	}
	rows = append(append(rows, [2]string{"faults in all", fmt.Sprint(total)}), v.rows()...)
	rows = append(rows, [2]string{"throughput", fmt.Sprintf("%.1f devices a second, %.0f an hour", r.Rate, r.Rate*3600)})
	for _, s := range r.Resumed {
		rows = append(rows, [2]string{"first device after a restart of " + s.Server, fmt.Sprintf("%.1f s median, %.1f s longest, of %d", s.Median, s.Longest, s.Times)})
	}
	return rows
}

// Markdown is the report as a table for a document.
func (r Report) Markdown() string { return markdown(r.rows()) }

func markdown(rows [][2]string) string {
	var b strings.Builder
	b.WriteString("| | |\n|---|---|\n")
	for _, row := range rows {
		fmt.Fprintf(&b, "| %s | %s |\n", row[0], row[1])
	}
	return b.String()
}

// String is the report for people.
func (r Report) String() string {
	var b strings.Builder
	for _, row := range r.rows() {
		fmt.Fprintf(&b, rowFormat, row[0], row[1])
	}
	for _, e := range r.Exits {
		if e.Killed+e.Alone+e.PutBack > 0 {
			fmt.Fprintf(&b, rowFormat, e.Server, fmt.Sprintf("killed %d times, ended by itself or did not start %d times, token put back %d times", e.Killed, e.Alone, e.PutBack))
		}
	}
	b.WriteString(r.Verdict.String())
	for _, s := range r.Strange {
		fmt.Fprintf(&b, "  ✗ %s\n", s)
	}
	return b.String()
}
