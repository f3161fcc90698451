package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/lib/pq"

	"github.com/devicekeys/devicekeys/audit"
	"github.com/devicekeys/devicekeys/bench"
	"github.com/devicekeys/devicekeys/database"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/registry/store"
)

const (
	// fillPage is how many devices one statement fills in: each moves the head of the audit log,
	// and a row that was changed often in one transaction is slow to find.
	fillPage = 500
	// fillTAC has the identities of the devices that are filled in. It is none of the plant's own.
	fillTAC = "00440199"
	// fillStations is how many stations made them.
	fillStations = 20
)

// fill gives the factory a past: n devices that were shipped. They are copies of one that was, under
// chips, identities, audit entries, registry entries and numbers of their own, so that every constraint of
// the databases holds, what is counted adds up, the audit log's chain is whole and each entry stands in
// the registry. Only what a chip would have made is no chip's: their proofs don't verify.
func (h *house) fill(ctx context.Context, e *bench.Env, n int) (err error) {
	// The sequencer must find the head where it left it, so it is away meanwhile.
	sequencer := h.Server("sequencer")
	if err := sequencer.Stop(); err != nil {
		return err
	}
	var f filler
	defer func() { err = errors.Join(err, f.close()) }()
	if err := f.open(ctx, h.factory); err != nil {
		return err
	}
	bar := e.Bar(n, "devices filled in, "+h.name)
	defer bar.Done()
	for first := 0; first < n; first += fillPage {
		count := min(fillPage, n-first)
		if err := f.page(ctx, first, count); err != nil {
			return fmt.Errorf("fill in devices from %d on: %w", first, err)
		}
		bar.Add(count)
	}
	// As autovacuum would have done by then; and what is to be written is.
	for _, db := range []*sql.DB{f.pool, f.records, f.registry} {
		for _, s := range []string{`vacuum analyze`, `checkpoint`} {
			if _, err := db.ExecContext(ctx, s); err != nil {
				return fmt.Errorf("%s: %w", s, err)
			}
		}
	}
	if err := sequencer.Start(ctx); err != nil {
		return err
	}
	return sequencer.Ready(ctx)
}

// filler writes devices into the databases, as the superuser: no role may do what it does.
type filler struct {
	pool, records, registry *sql.DB
	writer                  *store.Writer
	head                    int64 // the registry's
	batch                   int64 // the pool's batch that the identities are from
	insert                  string
	pattern                 []byte // record id of the device that is copied
}

func (f *filler) open(ctx context.Context, in *factory) (err error) {
	for name, db := range map[string]**sql.DB{"pool": &f.pool, "records": &f.records, registryName: &f.registry} {
		*db, err = database.Open(ctx, database.Config{
			DSN:          in.Postgres.DSN(name, "postgres") + " statement_timeout=0", // vacuum takes its time
			PasswordFile: in.Postgres.SuperuserPasswordFile(), MaxConns: 1,
		})
		if err != nil {
			return err
		}
	}
	f.writer = store.NewWriter(f.registry)
	if f.head, err = f.writer.Head(ctx); err != nil {
		return err
	}
	if err := f.pool.QueryRowContext(ctx, `insert into batch (name, line, type, imported, free) select 'filled', line, type, 0, 0 from batch limit 1 returning id`).Scan(&f.batch); err != nil {
		return fmt.Errorf("make a batch in the pool: %w", err)
	}
	var columns []string
	if err := f.records.QueryRowContext(ctx, `select array_agg(attname::text order by attnum) from pg_attribute where attrelid = 'device'::regclass and attnum > 0 and not attisdropped`).Scan((*pq.StringArray)(&columns)); err != nil {
		return fmt.Errorf("list the columns of device: %w", err)
	}
	f.insert = fillQuery(columns)
	if err := f.records.QueryRowContext(ctx, `select record_id from device where state = 'shipped' and generation = 1 limit 1`).Scan(&f.pattern); err != nil {
		return fmt.Errorf("find a shipped device to copy: %w", err)
	}
	return nil
}

func (f *filler) close() error {
	var err error
	for _, db := range []*sql.DB{f.pool, f.records, f.registry} {
		if db != nil {
			err = errors.Join(err, db.Close())
		}
	}
	return err
}

// own is what a device that is filled in doesn't share with the one it is copied from.
var own = map[string]string{
	"record_id": "x.record_id", "chip_id": "x.chip_id", "identity_value": "x.value", "batch": "$7::bigint", "generation": "1",
	"station": "'filled-' || x.o % " + fmt.Sprint(fillStations), "entry": "x.entry", "sequence": "$8::bigint + x.o - 1", "licence": "audit_append(x.body)", "uses": "1",
}

// fillQuery copies a device into many. The columns are the table's, whatever migration it is at.
func fillQuery(columns []string) string {
	values := slices.Clone(columns)
	for i, c := range columns {
		values[i] = "t." + c
		if v, ok := own[c]; ok {
			values[i] = v
		}
	}
	return `
with x as (
	select * from unnest($1::bytea[], $2::bytea[], $3::bytea[], $4::bytea[], $5::bytea[], $6::text[])
		with ordinality x(record_id, chip_id, attestation, entry, body, value, o)
), t as (
	select * from device where record_id = $9 and generation = 1
), chips as (
	insert into chip (record_id, attestation, maker, maker_key, lot)
	select x.record_id, x.attestation, c.maker, c.maker_key, 'filled' from x, t join chip c on c.record_id = t.record_id
), uses as (
	insert into identity_use (type, value, record_id, batch, state) select t.identity_type, x.value, x.record_id, $7, 'bound' from x, t
)
insert into device (` + strings.Join(columns, ", ") + `) select ` + strings.Join(values, ", ") + ` from x, t order by x.o`
}

// page fills in devices first to first+count-1. A crash within leaves the registry ahead of the records, in a factory
// that nobody uses again.
func (f *filler) page(ctx context.Context, first, count int) error {
	var records, chips, attestations, entries, bodies pq.ByteaArray
	var values pq.StringArray
	var news []store.New
	for n := first; n < first+count; n++ {
		id := sha256.Sum256(fmt.Appendf(nil, "chip %d of the benchmark", n))
		chip, err := identity.ParseChipID(id[:])
		if err != nil {
			return err
		}
		record := chip.RecordID()
		point := make([]byte, 65)
		rand.Read(point)
		point[0] = 4
		entry := madeEntry(n)
		entry.Record = record
		encoded, err := entry.Encode()
		if err != nil {
			return err
		}
		body, err := audit.Event{Kind: audit.Assemble, Key: "dev-purpose-channel-1", Record: record, Generation: 1, Actor: "station filled"}.Encode()
		if err != nil {
			return err
		}
		records, chips, attestations = append(records, record[:]), append(chips, chip.Bytes()), append(attestations, point)
		entries, bodies = append(entries, encoded), append(bodies, body)
		values = append(values, fmt.Sprintf("%s%06d", fillTAC, n))
		news = append(news, store.New{Entry: entry, SealedHash: sha256.Sum256(entry.Sealed), LeafHash: entry.LeafHash()})
	}
	head, err := f.writer.Append(ctx, f.head, nil, func([]store.Standing) []store.New { return news })
	if err != nil {
		return err
	}
	result, err := f.records.ExecContext(ctx, f.insert, records, chips, attestations, entries, bodies, values, f.batch, f.head, f.pattern)
	if err != nil {
		return fmt.Errorf("insert into the records: %w", err)
	}
	if made, err := result.RowsAffected(); err != nil || made != int64(count) {
		return errors.Join(fmt.Errorf("%d devices of %d were made in the records", made, count), err)
	}
	f.head = head
	_, err = f.pool.ExecContext(ctx, `update batch set imported = imported + $2, used = used + $2 where id = $1`, f.batch, count)
	return err
}
