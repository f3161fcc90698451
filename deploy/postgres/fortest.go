package postgres

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/devicekeys/devicekeys/untested"
)

// testBound bounds each act of a test's database: far more than it takes on a loaded
// machine, less than go test's own limit.
const testBound = time.Minute

// shared is the server of this test process. It has no end: see ForTest.
var shared struct {
	sync.Once
	server *Server
	err    error
}

// ForTest returns the server of this test process, starting it on first use (one to two
// seconds; not durable). All tests of the process share it and take a database
// each ([Server.TestDatabase]).
//
// It lives as long as the process. When that ends, in whatever way, os.Exit in a
// TestMain and SIGKILL included, the watchdog stops the server and removes its folder;
// this takes a moment after go test has returned. Don't Stop or Kill it, others
// use it: fault tests [Start] one of their own.
//
// Without Postgres the test is skipped, and fails where CI=true.
func ForTest(t testing.TB) *Server {
	t.Helper()
	shared.Do(func() { shared.server, shared.err = startForTest() })
	if err := shared.err; err != nil {
		if errors.Is(err, ErrNotInstalled) {
			untested.Skip(t, "%v", err)
		}
		t.Fatal(err)
	}
	return shared.server
}

func startForTest() (*Server, error) {
	who, err := runAs()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), startBound+initBound)
	defer cancel()
	if _, err := findBinaries(ctx, 0); err != nil {
		return nil, err
	}
	for _, parent := range []string{os.TempDir(), "/tmp"} {
		// The watchdog, which is the account, must be able to remove the folder from
		// there.
		who, ok := who.reach(parent)
		if !ok {
			continue
		}
		dir, err := os.MkdirTemp(parent, "dkpg-")
		if err != nil {
			return nil, err
		}
		if err := who.own(dir); err != nil {
			return nil, errors.Join(err, os.Remove(dir))
		}
		s, err := start(ctx, Config{Dir: dir}, who, true)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("start postgres for the tests: %w", err), os.RemoveAll(dir))
		}
		return s, nil
	}
	return nil, fmt.Errorf("start postgres for the tests: user %d can write neither in %q nor in /tmp: set TMPDIR to a folder where it can", who.uid, os.TempDir())
}

// TestDatabase is the database of one test.
type TestDatabase struct {
	Name  string // unique in the server
	Owner string // the role that owns it and runs the migrations

	t      testing.TB
	server *Server
}

// TestDatabase makes an empty database whose name begins with name ("pool"), owned by the
// role name_owner ("pool_owner"). It is dropped at the end of the test, whoever is
// still connected. Failures end the test.
func (s *Server) TestDatabase(t testing.TB, name string) *TestDatabase {
	t.Helper()
	d := &TestDatabase{
		Name:   name + "_" + strings.ToLower(rand.Text()[:12]),
		Owner:  name + "_owner",
		t:      t,
		server: s,
	}
	ctx, cancel := context.WithTimeout(context.Background(), testBound)
	defer cancel()
	if _, err := s.Role(ctx, d.Owner); err != nil {
		t.Fatal(err)
	}
	if err := s.CreateDatabase(ctx, d.Name, d.Owner); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), testBound)
		defer cancel()
		if _, err := s.admin.ExecContext(ctx, `drop database `+d.Name+` with (force)`); err != nil {
			t.Errorf("drop database %q: %v", d.Name, err)
		}
	})
	return d
}

// As makes the role if need be, lets it connect to the database, and returns what
// [github.com/devicekeys/devicekeys/database.Config] asks for. Roles belong to the server:
// tests that use the same name share one, each grants it what it needs in its own database.
func (d *TestDatabase) As(role string) (dsn, passwordFile string) {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testBound)
	defer cancel()
	passwordFile, err := d.server.Role(ctx, role)
	if err != nil {
		d.t.Fatal(err)
	}
	if _, err := d.server.admin.ExecContext(ctx, `grant connect on database `+d.Name+` to `+role); err != nil {
		d.t.Fatal(err)
	}
	return d.server.DSN(d.Name, role), passwordFile
}
