package database_test

import (
	"context"
	"database/sql"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/devicekeys/devicekeys/database"
	"github.com/devicekeys/devicekeys/deploy/postgres"
	"github.com/devicekeys/devicekeys/secret"
)

// testTime bounds each test: a wait that should have had a bound fails here.
const testTime = time.Minute

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testTime)
	t.Cleanup(cancel)
	return ctx
}

// open connects to d as role.
func open(t *testing.T, d *postgres.TestDatabase, role string) *sql.DB {
	t.Helper()
	dsn, file := d.As(role)
	db, err := database.Open(within(t), database.Config{DSN: dsn, PasswordFile: file})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func exec(t *testing.T, db *sql.DB, query string, args ...any) {
	t.Helper()
	if _, err := db.ExecContext(within(t), query, args...); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

// one reads one value.
func one[T any](t *testing.T, db *sql.DB, query string, args ...any) (v T) {
	t.Helper()
	if err := db.QueryRowContext(within(t), query, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return v
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	const planted = "hunter2hunter2"
	wide := filepath.Join(t.TempDir(), "wide")
	if err := os.WriteFile(wide, []byte(planted), 0o644); err != nil {
		t.Fatal(err)
	}
	const base = "host=/nowhere dbname=d user=u sslmode=disable"
	for name, c := range map[string]struct {
		cfg     database.Config
		refusal string
	}{
		"nothing":                 {database.Config{}, "no dsn"},
		"url":                     {database.Config{DSN: "postgres://u:" + planted + "@h/d?sslmode=disable"}, "key=value"},
		"password":                {database.Config{DSN: base + " password=" + planted}, "password_file"},
		"password, spaced":        {database.Config{DSN: base + "\tpassword = '" + planted + "'"}, "password_file"},
		"password, broken quotes": {database.Config{DSN: base + " password=my " + planted}, "password_file"},
		"passfile":                {database.Config{DSN: base + " passfile=/root/.pgpass"}, "passfile"},
		"service":                 {database.Config{DSN: base + " service=s"}, "service"},
		"no host":                 {database.Config{DSN: "dbname=d user=u sslmode=disable"}, "no host"},
		"hostaddr is not host":    {database.Config{DSN: "hostaddr=127.0.0.1 dbname=d user=u sslmode=disable"}, "no host"},
		"no dbname":               {database.Config{DSN: "host=h user=u sslmode=disable"}, "no dbname"},
		"no user":                 {database.Config{DSN: "host=h dbname=d sslmode=disable"}, "no user"},
		"no sslmode":              {database.Config{DSN: "host=h dbname=d user=u"}, "no sslmode"},
		"sslmode prefer":          {database.Config{DSN: "host=h dbname=d user=u sslmode=prefer"}, "verify-full"},
		"sslmode allow":           {database.Config{DSN: "host=h dbname=d user=u sslmode=allow"}, "verify-full"},
		"sslmode unknown":         {database.Config{DSN: "host=h dbname=d user=u sslmode=maybe"}, "sslmode"},
		"several, no attributes":  {database.Config{DSN: "host=a,b dbname=d user=u sslmode=verify-full"}, "target_session_attrs"},
		"socket and network":      {database.Config{DSN: "host=/run,b dbname=d user=u sslmode=verify-full target_session_attrs=read-write"}, "mixes"},
		"network and socket":      {database.Config{DSN: "host=a,/run dbname=d user=u sslmode=verify-full target_session_attrs=read-write"}, "mixes"},
		"no such password file":   {database.Config{DSN: base, PasswordFile: "/nowhere/p"}, "no such file"},
		"password file too open":  {database.Config{DSN: base, PasswordFile: wide}, "chmod 0400"},
		"negative connections":    {database.Config{DSN: base, MaxConns: -1}, "max_conns"},
		"nobody there":            {database.Config{DSN: base}, "is Postgres running"},
	} {
		db, err := database.Open(within(t), c.cfg)
		if err == nil {
			db.Close()
			t.Errorf("%s: opened", name)
			continue
		}
		if !strings.Contains(err.Error(), c.refusal) {
			t.Errorf("%s: %v, want %q", name, err, c.refusal)
		}
		if strings.Contains(err.Error(), planted) {
			t.Errorf("%s: the error shows the password: %v", name, err)
		}
		if got, want := database.Transient(err), name == "nobody there"; got != want {
			t.Errorf("%s: Transient is %v", name, got)
		}
	}
}

func TestOpenRefusesEnvironment(t *testing.T) {
	for _, name := range []string{"PGPASSWORD", "PGOPTIONS", "PGSERVICE", "PGSERVICEFILE", "PGHOSTADDR", "PGTARGETSESSIONATTRS", "PGLOADBALANCEHOSTS"} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(name, "x")
			_, err := database.Open(within(t), database.Config{DSN: "host=/nowhere dbname=d user=u sslmode=disable"})
			if err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("%v, want one that names %s", err, name)
			}
		})
	}
}

func TestOpenSettings(t *testing.T) {
	t.Parallel()
	d := postgres.ForTest(t).TestDatabase(t, "settings")
	db := open(t, d, d.Owner)
	for setting, want := range map[string]string{
		"statement_timeout":                   "30s",
		"idle_in_transaction_session_timeout": "1min",
		"application_name":                    filepath.Base(os.Args[0]),
	} {
		if got := one[string](t, db, `select current_setting($1)`, setting); got != want {
			t.Errorf("%s is %q, want %q", setting, got, want)
		}
	}
	if got := db.Stats().MaxOpenConnections; got != database.DefaultMaxConns {
		t.Errorf("%d connections at most", got)
	}
	// Bytes that are no text go as they are only with binary parameters; hex text would
	// be as good for the result, so look at what the server was told.
	data := []byte{0, 0xff, '\\', '\''}
	if got := one[[]byte](t, db, `select $1::bytea`, data); string(got) != string(data) {
		t.Errorf("bytes came back as %x", got)
	}

	dsn, file := d.As(d.Owner)
	db, err := database.Open(within(t), database.Config{DSN: dsn + " statement_timeout=100 application_name=x", PasswordFile: file, MaxConns: 3})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if got := db.Stats().MaxOpenConnections; got != 3 {
		t.Errorf("%d connections at most, want 3", got)
	}
	_, err = db.ExecContext(within(t), `select pg_sleep(30)`)
	if err == nil || !strings.Contains(err.Error(), "57014") || database.Transient(err) {
		t.Errorf("statement of 30 s under a bound of 100 ms: %v", err)
	}
}

// TestPasswordByDescriptor: a parent may pass the password through a pipe.
func TestPasswordByDescriptor(t *testing.T) {
	t.Parallel()
	d := postgres.ForTest(t).TestDatabase(t, "descriptor")
	dsn, file := d.As("descriptor_user")
	password, err := secret.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	name := pipe(t, append(password.Bytes(), '\n'))
	db, err := database.Open(within(t), database.Config{DSN: dsn, PasswordFile: name})
	if err != nil {
		t.Fatal(err)
	}
	db.Close()
}
