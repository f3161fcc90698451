package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/devicekeys/devicekeys/bench"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/registry/store"
)

const (
	lookupRecords = 50_000 // among which is looked up: more than fits in the cluster's own buffers
	lookupConns   = 8      // the registry program's
	lookupSeconds = 2      // of each measurement
)

func init() {
	benches = append(benches, bench.Bench{Name: "lookup", Summary: "single records read from the store, without HTTP, against pgbench reading them", Run: runLookup})
}

func runLookup(ctx context.Context, e *bench.Env) (_ []bench.Result, err error) {
	d, err := openDepot(ctx, e, false)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, d.close()) }()
	records := e.Size(lookupRecords, 1000)
	if err := d.fill(ctx, e, records); err != nil {
		return nil, err
	}
	db, err := d.open(ctx, "reader", lookupConns)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	reader, err := store.NewReader(ctx, db)
	if err != nil {
		return nil, err
	}
	pg, err := newPgbench(ctx, d.Postgres, d.admin, registryName)
	if err != nil {
		return nil, err
	}
	seconds := e.Size(lookupSeconds, 2) // connecting counts
	c, err := bench.Compare(ctx, e.Rounds,
		func(ctx context.Context) (float64, error) {
			return lookUp(ctx, reader, records, time.Duration(seconds)*time.Second)
		},
		func(ctx context.Context) (float64, error) {
			return pg.run(ctx, e.Dir, pgbenchRun{script: "lookup.sql", clients: lookupConns, threads: min(lookupConns, runtime.NumCPU()),
				define: map[string]int{"records": records}, seconds: seconds})
		})
	if err != nil {
		return nil, err
	}
	return []bench.Result{bench.Compared("lookup", "records/s", "pgbench -M prepared, the same query, table and connections", c).AtLeast(0.6, 0.8).
		Note("connections", lookupConns).Note("records", records)}, nil
}

// lookUp reads random records over all connections and gives how many a second.
func lookUp(ctx context.Context, r *store.Reader, records int, d time.Duration) (float64, error) {
	var done atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	begin := time.Now()
	for range lookupConns {
		group.Go(func() error {
			for ctx.Err() == nil && time.Since(begin) < d {
				id := madeRecord(rand.IntN(records))
				found, err := r.Newest(ctx, []identity.RecordID{id})
				if err != nil {
					return err
				}
				if found[id].Entry.Record != id {
					return fmt.Errorf("look up record %s: it is not in the answer", id.Short())
				}
				done.Add(1)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return 0, err
	}
	return float64(done.Load()) / time.Since(begin).Seconds(), nil
}
