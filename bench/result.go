package bench

import (
	"encoding/json"
	"fmt"
	"math"
	"time"
)

// Result is one row of the report. Its field names in JSON are part of the interface of
// cmd/bench: null stands for what a row doesn't have.
type Result struct {
	Name         string         // "publish"
	Bench        string         // the benchmark that gave it; set by Run
	At           time.Time      // when it was measured, to the second; set by Run
	Value        float64        // median of the rounds
	Unit         string         // "entries/s", "calls/device", "ms CPU/device"
	Bound        string         // what it is compared with, in words; "" none
	BoundValue   *float64       // in the same unit
	Ratio        *float64       // value / bound_value, median of the rounds' ratios
	Bar          *float64       // the least that is good enough, or the most
	Aim          *float64       // what is wanted
	Met          *bool          // the bar is reached; nil where there is none
	LessIsBetter bool           // bar and aim are upper limits
	Error        string         // why nothing was measured; then the row has a name only
	Rounds       []Round        // none of a row that was not measured in rounds
	Notes        map[string]any // p50/p99 of each call, calls by function, …
}

// resultJSON is how a row stands in the report.
type resultJSON struct {
	Name         string         `json:"name"`
	Bench        *string        `json:"bench"`
	At           *time.Time     `json:"at"`
	Value        *float64       `json:"value"`
	Unit         *string        `json:"unit"`
	Bound        *string        `json:"bound"`
	BoundValue   *float64       `json:"bound_value"`
	Ratio        *float64       `json:"ratio"`
	Bar          *float64       `json:"bar"`
	Aim          *float64       `json:"aim"`
	Met          *bool          `json:"met"`
	LessIsBetter bool           `json:"less_is_better"`
	Error        *string        `json:"error"`
	Rounds       []Round        `json:"rounds,omitempty"`
	Notes        map[string]any `json:"notes,omitempty"`
}

// MarshalJSON writes what the row doesn't have as null.
func (r Result) MarshalJSON() ([]byte, error) {
	j := resultJSON{
		Name: r.Name, Bench: some(r.Bench), At: some(r.At), Unit: some(r.Unit), Bound: some(r.Bound), BoundValue: r.BoundValue, Ratio: r.Ratio,
		Bar: r.Bar, Aim: r.Aim, Met: r.Met, LessIsBetter: r.LessIsBetter, Error: some(r.Error), Rounds: r.Rounds, Notes: r.Notes,
	}
	if r.Error == "" {
		j.Value = &r.Value // 0 is a value
	}
	return json.Marshal(j)
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (r *Result) UnmarshalJSON(b []byte) error {
	var j resultJSON
	if err := json.Unmarshal(b, &j); err != nil {
		return err
	}
	*r = Result{
		Name: j.Name, Bench: or(j.Bench), At: or(j.At), Value: or(j.Value), Unit: or(j.Unit), Bound: or(j.Bound), BoundValue: j.BoundValue, Ratio: j.Ratio,
		Bar: j.Bar, Aim: j.Aim, Met: j.Met, LessIsBetter: j.LessIsBetter, Error: or(j.Error), Rounds: j.Rounds, Notes: j.Notes,
	}
	return nil
}

// some is nil for the value that stands for none.
func some[T comparable](v T) *T {
	var none T
	if v == none {
		return nil
	}
	return &v
}

// or is the reverse of some.
func or[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// Round is what one round gave.
type Round struct {
	Value      float64  `json:"value"`
	BoundValue *float64 `json:"bound_value"` // null where there is no bound
}

// Measured is a row that is only reported.
func Measured(name string, value float64, unit string) Result {
	return Result{Name: name, Value: value, Unit: unit}
}

// Compared is a row of a comparison with a bound.
func Compared(name, unit, bound string, c Comparison) Result {
	return Result{Name: name, Value: c.Value, Unit: unit, Bound: bound, BoundValue: &c.BoundValue, Ratio: &c.Ratio, Rounds: c.Rounds}
}

// Failed is the row of a benchmark that measured nothing, so that the report shows it.
func Failed(bench string, err error) Result {
	return Result{Name: bench, Bench: bench, Error: err.Error()}
}

// AtLeast judges a row: ratio, or value where there is no bound, is to be bar or more, and
// wanted to be aim.
func (r Result) AtLeast(bar, aim float64) Result { return r.judge(bar, aim, false) }

// AtMost is AtLeast for what is better the smaller it is.
func (r Result) AtMost(bar, aim float64) Result { return r.judge(bar, aim, true) }

func (r Result) judge(bar, aim float64, less bool) Result {
	r.Bar, r.Aim, r.LessIsBetter = &bar, &aim, less
	met := r.reaches(bar)
	r.Met = &met
	return r
}

// Note adds a note and gives the row.
func (r Result) Note(key string, value any) Result {
	notes := map[string]any{key: value}
	for k, v := range r.Notes {
		if k != key {
			notes[k] = v
		}
	}
	r.Notes = notes
	return r
}

// judged is the number that bar and aim are of.
func (r Result) judged() float64 {
	if r.Ratio != nil {
		return *r.Ratio
	}
	return r.Value
}

func (r Result) reaches(limit float64) bool {
	if r.LessIsBetter {
		return r.judged() <= limit
	}
	return r.judged() >= limit
}

// check finds what no reader of the report could use.
func (r Result) check() error {
	if r.Name == "" || r.Unit == "" {
		return fmt.Errorf("a row %q in unit %q: name and unit are needed", r.Name, r.Unit)
	}
	for what, v := range map[string]*float64{"value": &r.Value, "bound value": r.BoundValue, "ratio": r.Ratio} {
		if v != nil && (math.IsNaN(*v) || math.IsInf(*v, 0)) {
			return fmt.Errorf("row %q has %v for its %s: nothing was measured", r.Name, *v, what)
		}
	}
	if (r.BoundValue == nil) != (r.Ratio == nil) || (r.Bound == "") != (r.Ratio == nil) {
		return fmt.Errorf("row %q has only some of bound, its value and ratio", r.Name)
	}
	return nil
}
