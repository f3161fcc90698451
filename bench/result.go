package bench

import (
	"fmt"
	"math"
)

// Result is one row of the report. Its field names in JSON are part of the interface of
// cmd/bench: null stands for what a row doesn't have.
type Result struct {
	Name         string         `json:"name"`           // "publish"
	Value        float64        `json:"value"`          // median of the rounds
	Unit         string         `json:"unit"`           // "entries/s", "calls/device", "ms CPU/device"
	Bound        string         `json:"bound"`          // what it is compared with, in words; "" none
	BoundValue   *float64       `json:"bound_value"`    // in the same unit
	Ratio        *float64       `json:"ratio"`          // value / bound_value, median of the rounds' ratios
	Bar          *float64       `json:"bar"`            // the least that is good enough, or the most
	Aim          *float64       `json:"aim"`            // what is wanted
	Met          *bool          `json:"met"`            // the bar is reached; null where there is none
	LessIsBetter bool           `json:"less_is_better"` // bar and aim are upper limits
	Rounds       []Round        `json:"rounds,omitempty"`
	Notes        map[string]any `json:"notes,omitempty"` // p50/p99 of each call, calls by function, …
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
