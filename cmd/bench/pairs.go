package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/devicekeys/devicekeys/bench"
)

func init() {
	benches = append(benches, bench.Bench{Name: "pairs", Summary: "assembly with two key pairs and certificates made in advance, against made on the spot", Run: pairs})
}

// pairsDevices are those of a round of each factory.
const pairsDevices = 150

// pairs compares two factories whose devices get the same: a derived key, a code, and two key pairs with certificates.
// One has the pairs in its pool.
func pairs(ctx context.Context, e *bench.Env) (rows []bench.Result, err error) {
	n := e.Size(pairsDevices, 20)
	all := warmUp + (e.Rounds+1)*n
	type side struct {
		f     *factory
		c     *crew
		units []*unit
		calls float64 // before the first round
	}
	open := func(source string) (s *side, err error) {
		env := *e
		env.Dir = filepath.Join(e.Dir, source)
		if err := os.MkdirAll(env.Dir, 0o700); err != nil {
			return nil, err
		}
		s = &side{}
		defer func() {
			if err != nil && s.f != nil {
				err = errors.Join(err, s.f.stop())
			}
		}()
		if s.f, err = build(ctx, &env, order{devices: all, pairs: source}); err != nil {
			return nil, err
		}
		if source == "pool" {
			if _, err := s.f.MakeKeysInAdvance(ctx, all); err != nil {
				return s, err
			}
		}
		if s.c, err = s.f.crew(ctx, s.f.SPPNames()[0]); err != nil {
			return s, err
		}
		if s.units, err = s.f.units(ctx, all); err != nil {
			return s, err
		}
		if _, err = s.c.ship(ctx, s.units[:warmUp], flight, nil); err != nil {
			return s, err
		}
		s.units = s.units[warmUp:]
		s.calls, err = s.f.Metric(ctx, s.f.SPPNames()[0], "devicekeys_pkcs11_calls_total")
		return s, err
	}
	advance, err := open("pool")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, advance.c.close(), advance.f.stop()) }()
	spot, err := open("made")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, spot.c.close(), spot.f.stop()) }()
	measure := func(s *side) func(context.Context) (float64, error) {
		return func(ctx context.Context) (float64, error) {
			var taken []*unit
			taken, s.units = s.units[:n], s.units[n:]
			took, err := s.c.ship(ctx, taken, flight, nil)
			return float64(n) / took.Seconds(), err
		}
	}
	compared, err := bench.Compare(ctx, e.Rounds, measure(advance), measure(spot))
	if err != nil {
		return nil, err
	}
	row := bench.Compared("pairs", "devices/s", "another factory, whose SPP makes and certifies the same pairs while the device waits", compared).AtLeast(1.0, 1.3).
		Note("devices_each_round", n).Note("in_flight", flight)
	for name, s := range map[string]*side{"calls_in_advance": advance, "calls_on_the_spot": spot} {
		after, err := s.f.Metric(ctx, s.f.SPPNames()[0], "devicekeys_pkcs11_calls_total")
		if err != nil {
			return nil, err
		}
		row = row.Note(name, (after-s.calls)/float64((e.Rounds+1)*n))
	}
	return []bench.Result{row}, nil
}
