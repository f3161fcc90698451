package provisioning_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sync/errgroup"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning"
	"github.com/devicekeys/devicekeys/provisioning/records"
	provisioningrpc "github.com/devicekeys/devicekeys/provisioning/rpc"
)

// TestTwoSPPs: two SPPs on the same databases, and several stations that all
// work on the same few chips at once, each with its own view of them. Each chip
// ends with one identity, none is given twice, and what a station is told is
// either right or "come back".
func TestTwoSPPs(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	const chips, stations = 3, 4
	l.stock(t, 0, 40)
	other := l.start(t, func(c *provisioning.Config) { c.Name = "spp-1" })
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var group errgroup.Group
	var devices []*hand
	for range chips {
		d := l.device(t, true)
		devices = append(devices, d)
		var turn sync.Mutex // a device does one thing at a time
		var f *fixture      // what the device has, under turn
		for s := range stations {
			station := l.station(t)
			if s%2 == 1 {
				station = l.stationOf(t, other)
			}
			second := l.stationOf(t, other)
			group.Go(func() error {
				for ctx.Err() == nil {
					done, err := func() (bool, error) {
						turn.Lock()
						defer turn.Unlock()
						if f == nil {
							f = on(station, d)
						}
						f.station = station
						return f.advance(ctx, second)
					}()
					if done || err != nil {
						return err
					}
				}
				return ctx.Err()
			})
			// And one who only asks for packages that nobody will take.
			group.Go(func() error {
				for range 4 {
					h := keypackage.Hello{Realm: dev, Suite: keypackage.SuiteAttested, ChipID: d.chip.ID(), ROMKey: l.keys.ROMKey().Hash(), Point: point(t)}
					_, err := begin(t, station, attest(t, d.chip.Attester(), h))
					var e *connect.Error
					if err != nil && !(errors.As(err, &e) && (e.Code() == connect.CodeUnavailable || e.Code() == connect.CodeAlreadyExists)) {
						return err
					}
				}
				return nil
			})
		}
	}
	must(t, group.Wait())
	seen := map[identity.Identity]bool{}
	for _, d := range devices {
		all, err := l.records.Store.Newest(ctx, d.chip.ID().RecordID())
		must(t, err)
		if all.State != records.Shipped || all.Generation != 1 || seen[all.Identity] {
			t.Errorf("record %s: %s, generation %d, identity seen before: %v", all.Record.Short(), all.State, all.Generation, seen[all.Identity])
		}
		seen[all.Identity] = true
	}
	eventually(t, "the pool gave one identity for each chip", func() bool {
		e := l.effects(t)
		return e.Used == chips && e.Free == 40-chips && e.Reserved+e.Burned == 0
	})
}

// advance takes a device one step further from where it is, as far as others
// let it, a call at two SPPs at once: a package that another transfer replaced is
// asked for anew.
func (f *fixture) advance(ctx context.Context, other provisioningrpc.AssemblyServiceClient) (done bool, err error) {
	if f.at == len(f.steps()) {
		return true, nil
	}
	twin := *f
	twin.station = other
	var group errgroup.Group
	if device := f.at == 0 || f.at == 1 || f.at == 3 || f.at == 6; !device { // each of those it does but once
		group.Go(func() error { return twin.steps()[f.at](ctx) })
	}
	err = f.steps()[f.at](ctx)
	if same := group.Wait(); err == nil {
		err = same
	}
	var e *connect.Error
	switch {
	case err == nil:
		if twin.challenge != f.challenge && f.at == 2 {
			return false, errors.New("two SPPs gave one confirmation two challenges")
		}
		f.at++
	case errors.As(err, &e) && detail(e).GetRetryAfterMs() > 0:
		time.Sleep(10 * time.Millisecond)
	case errors.As(err, &e) && detail(e).GetCode() == string(provisioning.CodeMAC) && f.at == 2:
		f.at = 0 // its transfer is not the newest any more
	case errors.As(err, &e) || f.at != 1:
		return false, err
	default:
		f.at = 0 // the device wants another package
	}
	return false, nil
}
