package issued_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/devicekeys/devicekeys/database"
	"github.com/devicekeys/devicekeys/deploy/postgres"
	"github.com/devicekeys/devicekeys/deviceservice/issued"
	"github.com/devicekeys/devicekeys/deviceservice/issued/issuedtest"
	"github.com/devicekeys/devicekeys/fault"
	"github.com/devicekeys/devicekeys/provisioning/records"
	"github.com/devicekeys/devicekeys/untested"
)

// machine is a Postgres server of one test, with its settings.
type machine struct {
	t        *testing.T
	dir      string
	settings map[string]string
	server   *postgres.Server
}

func newMachine(t *testing.T, settings map[string]string) *machine {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "dkpg-") // where another account can reach it, should the test run as root
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	must(t, os.Chmod(dir, 0o755))
	return &machine{t: t, dir: dir, settings: settings}
}

func (m *machine) start() {
	m.t.Helper()
	s, err := postgres.Start(m.t.Context(), postgres.Config{Dir: m.dir, Settings: m.settings})
	if errors.Is(err, postgres.ErrNotInstalled) {
		untested.Skip(m.t, "%v", err)
	}
	must(m.t, err)
	m.server = s
	m.t.Cleanup(func() { _ = s.Stop(context.Background()) }) // some are stopped by then
}

func (m *machine) stop() {
	m.t.Helper()
	must(m.t, m.server.Stop(context.Background()))
}

// data is the folder of the cluster.
func (m *machine) data() string {
	m.t.Helper()
	data, err := filepath.EvalSymlinks(filepath.Join(m.dir, "data"))
	must(m.t, err)
	return data
}

func (m *machine) add(file, text string) {
	m.t.Helper()
	f, err := os.OpenFile(filepath.Join(m.data(), file), os.O_APPEND|os.O_WRONLY, 0)
	must(m.t, err)
	_, err = f.WriteString(text)
	must(m.t, errors.Join(err, f.Close()))
}

func (m *machine) as(name, role, password string) *sql.DB {
	m.t.Helper()
	db, err := database.Open(m.t.Context(), database.Config{DSN: m.server.DSN(name, role), PasswordFile: password, MaxConns: 2})
	must(m.t, err)
	m.t.Cleanup(func() { must(m.t, db.Close()) })
	return db
}

// standby gives a standby of a server that was set up and is stopped.
func (m *machine) standby(settings map[string]string) *machine {
	m.t.Helper()
	s := newMachine(m.t, settings)
	out, err := exec.CommandContext(m.t.Context(), "cp", "-a", m.data(), filepath.Join(s.dir, "data")).CombinedOutput()
	if err != nil {
		m.t.Fatalf("copy the cluster: %v: %s", err, out)
	}
	out, err = exec.CommandContext(m.t.Context(), "cp", "-a", filepath.Join(m.dir, "superuser.password"), filepath.Join(m.dir, "pgpass"), s.dir).CombinedOutput()
	if err != nil {
		m.t.Fatalf("copy its password: %v: %s", err, out)
	}
	// Beside the settings, for there is no room for it on the command line.
	out, err = exec.CommandContext(m.t.Context(), "cp", "-p", filepath.Join(s.data(), "PG_VERSION"), filepath.Join(s.data(), "standby.signal")).CombinedOutput()
	if err != nil {
		m.t.Fatalf("make it a standby: %v: %s", err, out)
	}
	return s
}

// TestReplica: a standby answers while it is up to date, and counts as away once it has lost its primary, or has not
// replayed what came, for longer than is allowed. One whose primary has nothing to do is up to date.
func TestReplica(t *testing.T) {
	t.Parallel()
	const lag, soon = 2 * time.Second, 60 * time.Second
	primary := newMachine(t, map[string]string{"wal_level": "replica", "max_wal_senders": "4"})
	primary.start()
	for _, role := range []string{"records_owner", "spp", "auditor", "custodian"} {
		_, err := primary.server.Role(t.Context(), role)
		must(t, err)
	}
	password, err := primary.server.Role(t.Context(), issued.DefaultRole)
	must(t, err)
	owner, err := primary.server.Role(t.Context(), "records_owner")
	must(t, err)
	must(t, primary.server.CreateDatabase(t.Context(), "records", "records_owner"))
	db := primary.as("records", "records_owner", owner)
	must(t, records.Migrate(t.Context(), db))
	_, err = db.ExecContext(t.Context(), `grant connect on database records to service`)
	must(t, err)
	primary.add("pg_hba.conf", "local replication all scram-sha-256\n")
	primary.stop()

	standby := primary.standby(map[string]string{"wal_retrieve_retry_interval": "100ms", "wal_receiver_timeout": "2s", "wal_level": "replica", "max_wal_senders": "4"})
	primary.start()
	secret, err := os.ReadFile(filepath.Join(primary.dir, "superuser.password"))
	must(t, err)
	standby.add("postgresql.auto.conf", fmt.Sprintf("primary_conninfo = 'host=%s port=5432 user=postgres password=%s'\n", primary.server.SocketDir(), strings.TrimSpace(string(secret))))
	standby.start()

	store := issued.NewReplica(standby.as("records", issued.DefaultRole, password), lag)
	blind := issued.New(standby.as("records", issued.DefaultRole, password))
	stranger := issuedtest.IMEI(t, 1)
	becomes := func(what string, want error) {
		t.Helper()
		var last error
		for end := time.Now().Add(soon); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			if _, last = store.Lookup(t.Context(), stranger); errors.Is(last, want) {
				if _, err := blind.Lookup(t.Context(), stranger); !errors.Is(err, issued.ErrNotIssued) {
					t.Fatalf("%s: the standby itself answers %v", what, err)
				}
				return
			}
		}
		t.Fatalf("%s: %v after %s, want %v", what, last, soon, want)
	}
	becomes("up to date", issued.ErrNotIssued)
	for end := time.Now().Add(3 * lag); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if _, err := store.Lookup(t.Context(), stranger); !errors.Is(err, issued.ErrNotIssued) {
			t.Fatalf("with an idle primary: %v", err)
		}
	}
	primary.stop()
	becomes("cut off", issued.ErrLag)
	if _, err := store.Key(t.Context(), issuedtest.Chip(t, 1).RecordID(), 1, "channel"); !errors.Is(err, issued.ErrLag) {
		t.Errorf("a key, cut off: %v", err)
	}
	if err := store.Check(t.Context()); !errors.Is(err, issued.ErrLag) {
		t.Errorf("ready, cut off: %v", err)
	}
	primary.start()
	becomes("connected again", issued.ErrNotIssued)

	super := standby.as("records", "postgres", standby.server.SuperuserPasswordFile())
	_, err = super.ExecContext(t.Context(), `select pg_wal_replay_pause()`)
	must(t, err)
	_, err = primary.as("records", "postgres", primary.server.SuperuserPasswordFile()).ExecContext(t.Context(), `create table more as select 1`)
	must(t, err)
	becomes("not replayed", issued.ErrLag)
	_, err = super.ExecContext(t.Context(), `select pg_wal_replay_resume()`)
	must(t, err)
	becomes("replayed", issued.ErrNotIssued)
}

// TestPrimaryLag: on a primary nothing lags.
func TestPrimaryLag(t *testing.T) {
	t.Parallel()
	r := issuedtest.New(t)
	d := r.Put(1, 1, records.Shipped)
	store := issued.NewReplica(r.As(issued.DefaultRole), time.Nanosecond)
	if have, err := store.Lookup(t.Context(), d.Identity); err != nil || have.Record != d.Record {
		t.Errorf("%+v, %v", have, err)
	}
	must(t, store.Check(t.Context()))
}

// TestBlackHole: a database that swallows questions costs its time-out once, and not with every question.
func TestBlackHole(t *testing.T) {
	t.Parallel()
	r, c := issuedtest.New(t), &clock{}
	server := postgres.ForTest(t)
	p, err := fault.NewProxy("unix", filepath.Join(server.SocketDir(), ".s.PGSQL.5432"))
	must(t, err)
	t.Cleanup(func() { must(t, p.Close()) })
	host, port, err := net.SplitHostPort(p.Addr())
	must(t, err)
	db, err := database.Open(t.Context(), database.Config{PasswordFile: r.Config(issued.DefaultRole).PasswordFile, MaxConns: 8,
		DSN: fmt.Sprintf("host=%s port=%s dbname=%s user=%s sslmode=disable", host, port, r.Name, issued.DefaultRole)})
	must(t, err)
	t.Cleanup(func() { must(t, db.Close()) })
	cache, err := issued.NewCache(issued.New(db), issued.Options{Now: c.now})
	must(t, err)
	const devices = 10
	var all []issued.Device
	for n := range devices {
		d := r.Put(n, 1, records.Shipped)
		all = append(all, d)
		_, err := cache.Lookup(t.Context(), d.Identity)
		must(t, err)
	}
	must(t, p.BlackHole())
	c.pass(issued.DefaultFresh)
	began := time.Now()
	for range 3 {
		for _, d := range all {
			if have, err := cache.Lookup(t.Context(), d.Identity); err != nil || have.Record != d.Record {
				t.Fatalf("%+v, %v", have, err)
			}
		}
	}
	// The time-out is 3 s: ten devices one after another would take half a minute, three times that much more.
	if took := time.Since(began); took > devices*3*time.Second/2 {
		t.Errorf("%d lookups took %s", 3*devices, took)
	}
	must(t, p.Pass())
	gone := all[0]
	r.Move(0, 1, records.Quarantined)
	await(t, func() bool {
		c.pass(time.Millisecond) // in all far less than DefaultMaxAge
		have, err := cache.Lookup(t.Context(), gone.Identity)
		return err == nil && !have.Active
	})
	if cache.Away() {
		t.Error("the database isn't noticed to be back")
	}
}
