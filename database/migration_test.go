package database_test

import (
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/devicekeys/devicekeys/database"
	"github.com/devicekeys/devicekeys/deploy/postgres"
)

// files is a file system of n migrations; each makes the table t and its number.
func files(n int) fs.FS {
	all := fstest.MapFS{}
	for i := 1; i <= n; i++ {
		all[fmt.Sprintf("%05d_step.sql", i)] = &fstest.MapFile{
			Data: fmt.Appendf(nil, "-- +goose Up\ncreate table t%d (n int);\n", i),
		}
	}
	return all
}

func TestMigrate(t *testing.T) {
	t.Parallel()
	d := postgres.ForTest(t).TestDatabase(t, "migrate")
	owner := open(t, d, d.Owner)
	service := open(t, d, "migrate_service")
	ctx := within(t)

	err := database.RequireSchema(ctx, service, 1)
	if err == nil || !strings.Contains(err.Error(), "run the migrations") {
		t.Errorf("empty database: %v", err)
	}
	if _, err := database.Migrate(ctx, service, files(2)); err == nil || !strings.Contains(err.Error(), "owns the database") {
		t.Errorf("a service migrated: %v", err)
	}
	for _, c := range []struct{ files, version int }{{2, 2}, {2, 2}, {3, 3}, {1, 3}} {
		version, err := database.Migrate(ctx, owner, files(c.files))
		if err != nil || version != int64(c.version) {
			t.Fatalf("%d files: version %d, %v, want %d", c.files, version, err, c.version)
		}
	}
	for version, ok := range map[int64]bool{1: true, 3: true, 4: false} {
		err := database.RequireSchema(ctx, service, version)
		if (err == nil) != ok {
			t.Errorf("version %d: %v", version, err)
		}
		if err != nil && !strings.Contains(err.Error(), "is at version 3, version 4 is needed: run the migrations") {
			t.Errorf("version %d: %v", version, err)
		}
	}
	if _, err := service.ExecContext(ctx, `delete from goose_db_version`); err == nil {
		t.Error("a service may change the version")
	}
	exec(t, owner, `revoke select on goose_db_version from public`)
	if err := database.RequireSchema(ctx, service, 1); err == nil || !strings.Contains(err.Error(), "run the migrations") {
		t.Errorf("unreadable version: %v", err)
	}
}

// TestMigrateBreaks: a broken file leaves the database before it, and the next call goes on.
func TestMigrateBreaks(t *testing.T) {
	t.Parallel()
	d := postgres.ForTest(t).TestDatabase(t, "migratebreaks")
	owner := open(t, d, d.Owner)
	ctx := within(t)
	broken := files(3).(fstest.MapFS)
	broken["00002_step.sql"] = &fstest.MapFile{Data: []byte("-- +goose Up\ncreate table t2 (n int);\ncreate table t2 (n int);\n")}
	if _, err := database.Migrate(ctx, owner, broken); err == nil || !strings.Contains(err.Error(), "00002_step.sql") {
		t.Fatalf("broken file: %v", err)
	}
	if n := one[int](t, owner, `select count(*) from pg_tables where tablename in ('t1', 't2', 't3')`); n != 1 {
		t.Errorf("%d tables, want t1 alone", n)
	}
	if version, err := database.Migrate(ctx, owner, files(3)); err != nil || version != 3 {
		t.Errorf("after mending: version %d, %v", version, err)
	}
	if _, err := database.Migrate(ctx, owner, fstest.MapFS{}); err == nil || !strings.Contains(err.Error(), "database.Folder") {
		t.Errorf("no files: %v", err)
	}
}

// TestMigrateTogether: several starters at once, none fails.
func TestMigrateTogether(t *testing.T) {
	t.Parallel()
	d := postgres.ForTest(t).TestDatabase(t, "migratetogether")
	var wait sync.WaitGroup
	for range 3 {
		db := open(t, d, d.Owner)
		wait.Go(func() {
			if version, err := database.Migrate(within(t), db, files(20)); err != nil || version != 20 {
				t.Errorf("version %d, %v", version, err)
			}
		})
	}
	wait.Wait()
}

func TestLatest(t *testing.T) {
	t.Parallel()
	if v, err := database.Latest(files(12)); err != nil || v != 12 {
		t.Errorf("%d, %v", v, err)
	}
	if _, err := database.Latest(fstest.MapFS{}); err == nil {
		t.Error("no files have a version")
	}
}
