package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/database"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/provisioning/records"
	"github.com/devicekeys/devicekeys/registry"
)

// verify checks what is there against what the station was told.
func (f *factory) verify(ctx context.Context, l *line, r *report) error {
	for _, name := range f.names {
		if !l.acks[name].Shipped {
			r.Unfinished = append(r.Unfinished, name+": "+l.errs[name])
		}
	}
	stored, err := f.stored(ctx)
	if err != nil {
		return err
	}
	if err := f.acknowledged(ctx, l, stored, r); err != nil {
		return err
	}
	return f.check(ctx, r)
}

// stored reads the devices from the records.
func (f *factory) stored(ctx context.Context) (_ map[identity.RecordID]records.Device, err error) {
	db, err := database.Open(ctx, database.Config{DSN: f.ha.DSN("records", "auditor"), PasswordFile: f.password("auditor"), MaxConns: 2})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	all := map[identity.RecordID]records.Device{}
	err = records.New(db).Each(ctx, func(d records.Device) error {
		all[d.Record] = d
		return nil
	})
	return all, err
}

// acknowledged looks everything that the station was told up, in the records and, as anyone can, in the registry.
func (f *factory) acknowledged(ctx context.Context, l *line, stored map[identity.RecordID]records.Device, r *report) error {
	client, err := registry.NewClient("http://"+f.Address("registry"), nil, registry.ClientOptions{Realm: identity.Development})
	if err != nil {
		return err
	}
	names := map[identity.RecordID]string{}
	owners := map[identity.Identity]string{}
	for name, o := range l.acks {
		record, err := identity.ParseRecordID(o.Record)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		r.Acknowledged++
		if o.Shipped {
			r.Shipped++
		}
		names[record] = name
		d, ok := stored[record]
		if !ok || o.Shipped && d.State != records.Shipped {
			r.Lost = append(r.Lost, fmt.Sprintf("%s: shipped, and the records have it as %q", name, d.State))
			continue
		}
		if other, taken := owners[d.Identity]; taken {
			r.Duplicates = append(r.Duplicates, fmt.Sprintf("%s and %s are both %s", name, other, d.Identity))
		}
		owners[d.Identity] = name
	}
	var all []identity.RecordID
	for record := range names {
		all = append(all, record)
	}
	for batch := range slices.Chunk(all, registry.MaxBatch) {
		found, err := client.Batch(ctx, batch)
		if err != nil {
			return err
		}
		for _, record := range batch {
			o := l.acks[names[record]]
			e, ok := found[record]
			switch {
			case !ok:
				r.Lost = append(r.Lost, names[record]+": published, and it is not in the registry")
			case o.Generation != 0 && uint32(e.Entry.Generation) != o.Generation || o.Sequence >= 0 && e.Served.Sequence != o.Sequence:
				r.Lost = append(r.Lost, fmt.Sprintf("%s: published as generation %d, entry %d; the registry has generation %d, entry %d",
					names[record], o.Generation, o.Sequence, e.Entry.Generation, e.Served.Sequence))
			}
		}
	}
	return nil
}

// check runs the auditor, proofs verified in the HSM included.
func (f *factory) check(ctx context.Context, r *report) error {
	result, err := f.Run(ctx, f.With("auditor", sppName), []int{console.ExitFailed}, "check", "--config", f.Etc("auditor.yaml"), "--token", "--json")
	if err != nil {
		return err
	}
	var checked struct {
		Invariants []struct {
			Name  string `json:"name"`
			Holds bool   `json:"holds"`
		} `json:"invariants"`
	}
	if err := json.Unmarshal(result.Out, &checked); err != nil || len(checked.Invariants) == 0 {
		return fmt.Errorf("the auditor's report: %w\n%s", err, result.Errs)
	}
	for _, i := range checked.Invariants {
		if r.Invariants++; !i.Holds {
			r.Broken = append(r.Broken, i.Name)
		}
	}
	return nil
}
