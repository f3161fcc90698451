package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/database"
	"github.com/devicekeys/devicekeys/device"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/provisioning/records"
	"github.com/devicekeys/devicekeys/registry"
)

// booted is what a device says of itself.
type booted struct {
	record     identity.RecordID
	identity   string
	generation identity.Generation
}

// verifier looks at a factory that has come to rest.
type verifier struct {
	*factory
	fleet   *fleet
	restore int // devices wiped and restored from the registry, at most

	mu sync.Mutex // guards v
	v  verdict
}

// verify checks everything and gives what it found.
func (f *factory) verify(ctx context.Context, fl *fleet, restore int) (verdict, error) {
	v := &verifier{factory: f, fleet: fl, restore: restore}
	if err := v.invariants(ctx); err != nil {
		return v.v, err
	}
	stored, err := v.records(ctx)
	if err != nil {
		return v.v, err
	}
	if err := v.acknowledged(ctx); err != nil {
		return v.v, err
	}
	return v.v, v.devices(ctx, stored)
}

// invariants runs the auditor, proofs verified in the HSM included.
func (v *verifier) invariants(ctx context.Context) error {
	spp := v.SPPNames()[0]
	var r struct {
		Invariants []invariant `json:"invariants"`
	}
	// Violations end the program with code 1, and are in what it prints.
	result, err := v.Run(ctx, v.With("auditor", spp), []int{console.ExitFailed}, "check", "--config", v.Etc("auditor.yaml"), "--token", "--json")
	if err != nil {
		return err
	}
	if err := parseJSON(result.Out, &r); err != nil || len(r.Invariants) == 0 {
		return fmt.Errorf("the auditor's report: %w\n%s", err, result.Errs)
	}
	v.v.Invariants = r.Invariants
	return nil
}

// recordsConns are for one reader.
const recordsConns = 2

// records reads the devices' newest generations as the records have them.
func (v *verifier) records(ctx context.Context) (_ map[identity.RecordID]booted, err error) {
	password, err := v.Postgres.Role(ctx, "auditor")
	if err != nil {
		return nil, err
	}
	db, err := database.Open(ctx, database.Config{DSN: v.Postgres.DSN("records", "auditor"), PasswordFile: password, MaxConns: recordsConns})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	newest := map[identity.RecordID]booted{}
	err = records.New(db).Each(ctx, func(d records.Device) error {
		if d.State == records.Shipped {
			newest[d.Record] = booted{d.Record, d.Identity.String(), d.Generation}
		}
		return nil
	})
	return newest, err
}

// acknowledged looks every acknowledged device up in the registry, as anyone can.
func (v *verifier) acknowledged(ctx context.Context) error {
	client, err := registry.NewClient("http://"+v.Address("registry"), nil, registry.ClientOptions{Realm: identity.Development})
	if err != nil {
		return err
	}
	ids := map[identity.RecordID][]name{}
	var all []identity.RecordID
	for n, a := range v.fleet.acks {
		r, err := identity.ParseRecordID(a.Record)
		if err != nil {
			return fmt.Errorf("%s: %w", n, err)
		}
		v.v.Acknowledged++
		if a.Shipped {
			v.v.Shipped++
		}
		if others := ids[r]; len(others) > 0 {
			v.v.Duplicates = add(v.v.Duplicates, "%s and %s are one record", n, others[0])
		} else {
			all = append(all, r)
		}
		ids[r] = append(ids[r], n)
	}
	for batch := range slices.Chunk(all, registry.MaxBatch) {
		found, err := client.Batch(ctx, batch)
		if err != nil {
			return err
		}
		for _, r := range batch {
			e, ok := found[r]
			for _, n := range ids[r] {
				a := v.fleet.acks[n]
				switch {
				case !ok:
					v.v.Lost = add(v.v.Lost, "%s: acknowledged, and its record is not in the registry", n)
				case a.Generation != 0 && uint32(e.Entry.Generation) != a.Generation || a.Sequence >= 0 && e.Served.Sequence != a.Sequence:
					v.v.Lost = add(v.v.Lost, "%s: acknowledged as generation %d, entry %d; the registry has generation %d, entry %d", n, a.Generation, a.Sequence, e.Entry.Generation, e.Served.Sequence)
				}
			}
		}
	}
	for _, station := range v.StationNames() {
		for _, d := range v.factory.devices[station] {
			if n := (name{station, d}); !v.fleet.acks[n].Shipped {
				v.v.Unfinished = add(v.v.Unfinished, "%s: %s", n, v.fleet.errors[n])
			}
		}
	}
	return nil
}

// devices boots every device that was shipped and holds what it says against the records
// and the other devices; some lose their flash and are restored from the registry.
func (v *verifier) devices(ctx context.Context, stored map[identity.RecordID]booted) error {
	bar := console.Progress(v.io.Err, v.v.Shipped, "devices booted")
	defer bar.Done()
	client, err := registry.NewClient("http://"+v.Address("registry"), nil, registry.ClientOptions{Realm: identity.Development})
	if err != nil {
		return err
	}
	owners := map[string]name{}
	for _, station := range v.StationNames() {
		b, err := v.bench(ctx, station)
		if err != nil {
			return err
		}
		group, ctx := errgroup.WithContext(ctx)
		group.SetLimit(2 * runtime.GOMAXPROCS(0))
		for _, d := range v.factory.devices[station] {
			n := name{station, d}
			if !v.fleet.acks[n].Shipped {
				continue
			}
			group.Go(func() error {
				defer bar.Add(1)
				if err := ctx.Err(); err != nil {
					return err
				}
				wipe, err := v.device(ctx, b, n, stored, owners, client)
				v.mu.Lock()
				defer v.mu.Unlock()
				if wipe {
					v.v.Wiped++
				}
				if err != nil {
					v.v.Wrong = add(v.v.Wrong, "%s: %v", n, err)
				} else if wipe {
					v.v.Restored++
				}
				return nil
			})
		}
		if err := errors.Join(group.Wait(), b.close()); err != nil {
			return err
		}
	}
	return nil
}

// device asks one device. It tells whether its flash was wiped and restored.
func (v *verifier) device(ctx context.Context, b bench, n name, stored map[identity.RecordID]booted, owners map[string]name, client *registry.Client) (wiped bool, err error) {
	d, err := b.device(ctx, n.Device)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, d.Close(context.WithoutCancel(ctx))) }()
	before, err := boot(ctx, d)
	if err != nil {
		return false, err
	}
	v.mu.Lock()
	if other, taken := owners[before.identity]; taken {
		v.v.Duplicates = add(v.v.Duplicates, "%s and %s are both %s", n, other, before.identity)
	}
	owners[before.identity] = n
	wiped = v.restore > 0
	if wiped {
		v.restore--
	}
	v.mu.Unlock()
	if want := stored[before.record]; before != want {
		return wiped, fmt.Errorf("it is %+v, the records have %+v", before, want)
	}
	if !wiped {
		return false, nil
	}
	if err := d.Erase(ctx); err != nil {
		return wiped, err
	}
	rom, err := d.ROMKey(ctx)
	if err != nil {
		return wiped, err
	}
	chipID, err := d.ChipID(ctx)
	if err != nil {
		return wiped, err
	}
	record, _, err := client.Lookup(ctx, chipID, rom)
	if err != nil {
		return wiped, err
	}
	if err := d.Restore(ctx, record.Certificate, record.Backup); err != nil {
		return wiped, err
	}
	after, err := boot(ctx, d)
	if err == nil && after != before {
		err = fmt.Errorf("it was %+v and is %+v after it was restored", before, after)
	}
	return wiped, err
}

func boot(ctx context.Context, d *device.Device) (booted, error) {
	b, err := d.Boot(ctx)
	if err != nil {
		return booted{}, err
	}
	s, err := d.Status(ctx)
	if err == nil && (!s.Locked || s.Floor != b.Generation) {
		err = fmt.Errorf("it is shipped and not locked at its generation: locked %v, floor %d", s.Locked, s.Floor)
	}
	return booted{b.Record, b.Identity.String(), b.Generation}, err
}
