package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/devicekeys/devicekeys/bench"
	"github.com/devicekeys/devicekeys/cmd/internal/plant"
	"github.com/devicekeys/devicekeys/database"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/registry"
	"github.com/devicekeys/devicekeys/registry/store"
)

// sealedBytes is about the size of the sealed record of a device with one key, a SIM-lock code
// and a value in clear, as the demo's phones have them.
const sealedBytes = 1000

// registryName is the registry's database.
const registryName = "registry"

// depot is the registry's side of a factory: a Postgres as durable as production's, with the registry's
// database in it.
type depot struct {
	*plant.Plant
	dir   string
	admin *sql.DB // the superuser's, in the registry's database
}

// openDepot starts a Postgres. With the whole set-up there are also keys, tokens and certificates,
// without it only the registry's schema.
func openDepot(ctx context.Context, e *bench.Env, whole bool) (_ *depot, err error) {
	d := &depot{dir: e.Dir}
	d.Plant, err = plant.New(ctx, plant.Config{Dir: filepath.Join(e.Dir, "plant"), Programs: e.Programs, Name: "bench", Devices: 1})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.close())
		}
	}()
	if err := d.StartPostgres(ctx); err != nil {
		return nil, err
	}
	if whole {
		err = d.SetUp(ctx)
	} else {
		err = d.migrate(ctx)
	}
	if err != nil {
		return nil, err
	}
	d.admin, err = database.Open(ctx, database.Config{DSN: d.Postgres.DSN(registryName, "postgres"), PasswordFile: d.Postgres.SuperuserPasswordFile(), MaxConns: 1})
	return d, err
}

func (d *depot) close() error {
	var err error
	if d.admin != nil {
		err = d.admin.Close()
	}
	return errors.Join(err, d.Stop())
}

// open connects as a role.
func (d *depot) open(ctx context.Context, role string, conns int) (*sql.DB, error) {
	file, err := d.Postgres.Role(ctx, role)
	if err != nil {
		return nil, err
	}
	return database.Open(ctx, database.Config{DSN: d.Postgres.DSN(registryName, role), PasswordFile: file, MaxConns: conns})
}

func (d *depot) migrate(ctx context.Context) (err error) {
	owner, err := d.open(ctx, "registry_owner", 2)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, owner.Close()) }()
	_, err = store.Migrate(ctx, owner, store.Roles{Sequencer: "sequencer", Reader: "reader", Auditor: "auditor"})
	return err
}

// level writes out what waits to be written, so that a round doesn't pay for the one before.
func (d *depot) level(ctx context.Context) error {
	_, err := d.admin.ExecContext(ctx, `checkpoint`)
	return err
}

// fill appends entries 0 to n-1, as the sequencer writes them.
func (d *depot) fill(ctx context.Context, e *bench.Env, n int) (err error) {
	db, err := d.open(ctx, "sequencer", 1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	w := store.NewWriter(db)
	bar := e.Bar(n, "entries filled in")
	defer bar.Done()
	for head := 0; head < n; {
		count := min(registry.MaxSubmissionEntries, n-head)
		news := make([]store.New, count)
		for i := range news {
			entry := madeEntry(head + i)
			news[i] = store.New{Entry: entry, SealedHash: sha256.Sum256(entry.Sealed), LeafHash: entry.LeafHash()}
		}
		if _, err := w.Append(ctx, int64(head), nil, func([]store.Standing) []store.New { return news }); err != nil {
			return err
		}
		head += count
		bar.Add(count)
	}
	// As autovacuum would have done by then.
	if _, err := d.admin.ExecContext(ctx, `vacuum analyze entry`); err != nil {
		return fmt.Errorf("vacuum: %w", err)
	}
	return d.level(ctx)
}

// madeRecord is the id of record n: what the bound's script computes too.
func madeRecord(n int) identity.RecordID {
	return sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(n)))
}

// madeEntry is the entry of record n. Its sealed record is random: nothing here opens it, and it
// compresses as little as a real one.
func madeEntry(n int) registry.Entry {
	s := keypackage.Sealed{Ciphertext: make([]byte, sealedBytes)}
	rand.Read(s.Nonce[:])
	rand.Read(s.Ciphertext)
	return registry.Entry{Realm: identity.Development, Type: registry.Register, Record: madeRecord(n), Generation: 1, Sealed: s.Encode()}
}
