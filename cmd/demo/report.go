package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/devicekeys/devicekeys/station"
)

// Report is what the demo writes to report.json.
type Report struct {
	Devices     int         `json:"devices"`
	Shipped     int         `json:"shipped"`
	Restored    int         `json:"restored"` // each on the line before it shipped, and the one whose flash was lost
	Refusals    []Refusal   `json:"refusals"`
	Invariants  []Invariant `json:"invariants"`
	RatePerHour float64     `json:"rate_per_hour"`
	// CallsPerDevice counts the PKCS#11 calls of the SPP's HSM while the line ran.
	CallsPerDevice float64     `json:"pkcs11_calls_per_device"`
	Steps          []StepTimes `json:"steps"`
	Suites         []Suite     `json:"suites"` // of the secure channel
}

// Refusal is one attempt that must fail.
type Refusal struct {
	Case    string `json:"case"`
	Refused bool   `json:"refused"`
	Reason  string `json:"reason"`
}

// Invariant is one result of auditor check.
type Invariant struct {
	Name    string `json:"name"`
	Holds   bool   `json:"holds"`
	Checked int64  `json:"checked"`
	Text    string `json:"-"` // for people
}

// StepTimes are the times of one step over all devices.
type StepTimes struct {
	Step       string  `json:"step"`
	PatentStep string  `json:"patent_step"`
	P50        float64 `json:"p50_ms"`
	P99        float64 `json:"p99_ms"`

	times []time.Duration
}

// stepTimes sorts the outcomes' times by step.
func stepTimes(outcomes []station.Outcome) []StepTimes {
	var all []StepTimes
	for _, s := range station.Steps() {
		t := StepTimes{Step: string(s), PatentStep: s.Patent()}
		for _, o := range outcomes {
			if took, ok := o.Took[s]; ok {
				t.times = append(t.times, took)
			}
		}
		slices.Sort(t.times)
		t.P50, t.P99 = milliseconds(quantile(t.times, 0.50)), milliseconds(quantile(t.times, 0.99))
		all = append(all, t)
	}
	return all
}

func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

func milliseconds(d time.Duration) float64 { return float64(d.Round(10*time.Microsecond)) / 1e6 }

// write puts the report where scripts find it.
func (r Report) write(dir string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "report.json"), append(b, '\n'), 0o644)
}

// failed says what in the report is not as it must be.
func (r Report) failed() error {
	var wrong []string
	if r.Shipped != r.Devices {
		wrong = append(wrong, fmt.Sprintf("%d of %d devices shipped", r.Shipped, r.Devices))
	}
	if r.Restored != r.Devices+1 {
		wrong = append(wrong, fmt.Sprintf("%d restores, %d expected", r.Restored, r.Devices+1))
	}
	for _, f := range r.Refusals {
		if !f.Refused {
			wrong = append(wrong, f.Case+" was not refused")
		}
	}
	for _, i := range r.Invariants {
		if !i.Holds {
			wrong = append(wrong, i.Name+" does not hold")
		}
	}
	if len(r.Refusals) == 0 || len(r.Invariants) == 0 {
		wrong = append(wrong, "no refusal or no invariant was tried")
	}
	if len(wrong) > 0 {
		return fmt.Errorf("the demo found: %s", strings.Join(wrong, "; "))
	}
	return nil
}

// String is the report for people.
func (r Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%d devices shipped, each restored once from its own backup before it left;\n", r.Shipped)
	fmt.Fprintf(&b, "%.0f devices an hour, %.0f PKCS#11 calls a device in the SPP's HSM\n\n", r.RatePerHour, r.CallsPerDevice)

	scale := time.Duration(1)
	for _, s := range r.Steps {
		scale = max(scale, quantile(s.times, 0.99))
	}
	fmt.Fprintf(&b, "step      patent        p50       p99   time of the devices, 0 to %s\n", scale.Round(time.Millisecond))
	for _, s := range r.Steps {
		fmt.Fprintf(&b, "%-9s %-8s %7.1f ms %7.1f ms  %s\n", s.Step, s.PatentStep, s.P50, s.P99, histogram(s.times, scale))
	}

	b.WriteString("\nsecure channel  handshake, p50, the device's HSM and the service's\n")
	for _, s := range r.Suites {
		fmt.Fprintf(&b, "  %-13s %5.1f ms\n", s.Suite, s.P50)
	}

	b.WriteString("\nrefused\n")
	width := 0
	for _, f := range r.Refusals {
		width = max(width, len(f.Case))
	}
	for _, f := range r.Refusals {
		fmt.Fprintf(&b, "  %s %-*s  %s\n", mark(f.Refused), width, f.Case, f.Reason)
	}

	b.WriteString("\ninvariants\n")
	for _, i := range r.Invariants {
		fmt.Fprintf(&b, "  %s %6d checked  %s\n", mark(i.Holds), i.Checked, i.Text)
	}
	return b.String()
}

func mark(ok bool) string {
	if ok {
		return "✓"
	}
	return "✗"
}

// histogram draws how many devices took how long, in columns of equal width up
// to scale; the last column has the rest.
func histogram(times []time.Duration, scale time.Duration) string {
	const columns = 32
	levels := []rune(" ▁▂▃▄▅▆▇█")
	var counts [columns]int
	for _, t := range times {
		counts[min(int(columns*t/scale), columns-1)]++
	}
	most := slices.MaxFunc(counts[:], cmp.Compare[int])
	out := make([]rune, columns)
	for i, n := range counts {
		switch {
		case n == 0:
			out[i] = levels[0]
		default: // a single device still shows
			out[i] = levels[max(1, n*(len(levels)-1)/most)]
		}
	}
	return strings.TrimRight(string(out), " ")
}
