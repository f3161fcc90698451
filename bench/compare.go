package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Comparison is what Compare found: medians, and each round's values.
type Comparison struct {
	Value, BoundValue float64 // each the median of its rounds
	Ratio             float64 // the median of the rounds' ratios, not the ratio of the medians
	Rounds            []Round // without the warm-up
}

// Compare runs product and bound in turns: a round to warm up, which is dropped, then as many
// as are asked for. Each round runs both, one directly after the other; which one is first
// alternates, so that neither always has the warmer machine. It gives medians, of the rounds'
// ratios too.
//
// An error of either ends it, as does a bound of 0 or less, or the context's end.
func Compare(ctx context.Context, rounds int, product, bound func(context.Context) (float64, error)) (Comparison, error) {
	if rounds < 1 {
		return Comparison{}, fmt.Errorf("compare in %d rounds: one is the least", rounds)
	}
	var measured []Round
	for round := range rounds + 1 {
		var v, b float64
		both := []func() error{
			func() (err error) { v, err = product(ctx); return err },
			func() (err error) { b, err = bound(ctx); return err },
		}
		if round%2 == 1 {
			slices.Reverse(both)
		}
		for _, f := range both {
			if err := ctx.Err(); err != nil {
				return Comparison{}, context.Cause(ctx)
			}
			if err := f(); err != nil {
				return Comparison{}, err
			}
		}
		if b <= 0 {
			return Comparison{}, fmt.Errorf("the bound measured is %v: nothing can be compared with that", b)
		}
		if round == 0 {
			continue
		}
		measured = append(measured, Round{v, &b})
	}
	return Medians(measured), nil
}

// Medians sums up rounds that have a value and a bound each, for whoever measures both at once.
func Medians(rounds []Round) Comparison {
	c := Comparison{Rounds: rounds}
	var values, bounds, ratios []float64
	for _, r := range rounds {
		if r.BoundValue != nil {
			values, bounds, ratios = append(values, r.Value), append(bounds, *r.BoundValue), append(ratios, r.Value / *r.BoundValue)
		}
	}
	c.Value, c.BoundValue, c.Ratio = Median(values), Median(bounds), Median(ratios)
	return c
}

// Median is the middle of some numbers, of an even count the mean of the two; 0 of none.
func Median(numbers []float64) float64 {
	if len(numbers) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(numbers))
	n := len(s)
	if n%2 == 1 {
		return s[n/2]
	}
	return (s[n/2-1] + s[n/2]) / 2
}

// Latency are percentiles of how long calls took, in milliseconds.
type Latency struct {
	Calls int     `json:"calls"`
	P50   float64 `json:"p50_ms"`
	P99   float64 `json:"p99_ms"`
	Max   float64 `json:"max_ms"`
}

// ErrNoCalls says that there is nothing to take percentiles of.
var ErrNoCalls = errors.New("no call was measured")

// Percentiles gives the percentiles of times, by the nearest rank.
func Percentiles(times []time.Duration) (Latency, error) {
	n := len(times)
	if n == 0 {
		return Latency{}, ErrNoCalls
	}
	s := slices.Sorted(slices.Values(times))
	rank := func(percent int) float64 { return milliseconds(s[(n*percent+99)/100-1]) }
	return Latency{Calls: n, P50: rank(50), P99: rank(99), Max: milliseconds(s[n-1])}, nil
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
