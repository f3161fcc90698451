package postgres_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/devicekeys/devicekeys/database"
	"github.com/devicekeys/devicekeys/deploy/postgres"
	"github.com/devicekeys/devicekeys/secret"
	"github.com/devicekeys/devicekeys/untested"
)

// start starts a server of the test's own, so that it can be killed.
func start(t *testing.T, cfg postgres.Config) *postgres.Server {
	t.Helper()
	s, err := postgres.Start(t.Context(), cfg)
	if errors.Is(err, postgres.ErrNotInstalled) {
		untested.Skip(t, "%v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

// connect opens a database as a role.
func connect(t *testing.T, dsn, passwordFile string) (query func(string) (string, error)) {
	t.Helper()
	db, err := database.Open(t.Context(), database.Config{DSN: dsn, PasswordFile: passwordFile, MaxConns: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return func(q string) (out string, err error) {
		err = db.QueryRowContext(t.Context(), q).Scan(&out)
		return
	}
}

func role(t *testing.T, s *postgres.Server, name string) string {
	t.Helper()
	file, err := s.Role(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// TestLife goes through what the demo does with a server, over a stop, a crash and a
// stay.
func TestLife(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	dir := filepath.Join(t.TempDir(), "with space", "postgres")
	cfg := postgres.Config{Dir: dir}
	began := time.Now()
	s := start(t, cfg)
	t.Logf("first start %v", time.Since(began))

	password := role(t, s, "spp")
	if err := s.CreateDatabase(ctx, "pool", "spp"); err != nil {
		t.Fatal(err)
	}
	query := connect(t, s.DSN("pool", "spp"), password)
	if _, err := query(`create table t (n int); insert into t values (7)`); err != nil && !strings.Contains(err.Error(), "no rows") {
		t.Fatal(err)
	}
	if _, err := postgres.Start(ctx, cfg); err == nil || !strings.Contains(err.Error(), "runs there already") {
		t.Errorf("second server in the folder: %v", err)
	}
	for _, err := range []error{s.Stop(ctx), s.Stop(ctx)} { // the second does nothing
		if err != nil {
			t.Fatal(err)
		}
	}
	if alive(s.PID()) {
		t.Fatal("stopped server is alive")
	}
	if _, err := os.Stat(s.SocketDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("socket folder is left: %v", err)
	}
	if _, err := postgres.Attach(ctx, dir); !errors.Is(err, postgres.ErrNotRunning) {
		t.Errorf("attach to a stopped server: %v", err)
	}

	began = time.Now()
	s = start(t, cfg)
	t.Logf("second start %v", time.Since(began))
	if again := role(t, s, "spp"); again != password {
		t.Errorf("password file moved to %s", again)
	}
	query = connect(t, s.DSN("pool", "spp"), password) // the password is kept
	if got, err := query(`select n::text from t`); err != nil || got != "7" {
		t.Fatalf("after a stop: %q, %v", got, err)
	}
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	if got, err := query(`select n::text from t`); err == nil || !database.Transient(err) {
		t.Errorf("a killed server answers %q, %v", got, err)
	}
	began = time.Now()
	s = start(t, cfg)
	t.Logf("start after kill %v", time.Since(began))
	query = connect(t, s.DSN("pool", "spp"), password)
	if got, err := query(`select n::text from t`); err != nil || got != "7" {
		t.Fatalf("after a kill: %q, %v", got, err)
	}
	if err := postgres.Remove(ctx, dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("folder is left: %v", err)
	}
	if alive(s.PID()) {
		t.Error("removed server is alive")
	}
}

// alive tells whether a process exists and isn't just unreaped.
func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || !bytes.Contains(stat, []byte(") Z "))
}

// TestRights: who may connect, and what an ordinary role may do.
func TestRights(t *testing.T) {
	t.Parallel()
	s := postgres.ForTest(t)
	ctx := t.Context()
	d := s.TestDatabase(t, "rights")
	userDSN, userFile := d.As("rights_user")
	strangerFile := role(t, s, "rights_stranger")
	ownerDSN, ownerFile := d.As(d.Owner)

	owner := connect(t, ownerDSN, ownerFile)
	user := connect(t, userDSN, userFile)
	for name, c := range map[string]struct {
		query  func(string) (string, error)
		sql    string
		code   string
		answer string
	}{
		"owner makes tables":   {owner, `create table t (n int); select 'made'`, "", ""},
		"user is himself":      {user, `select current_user::text`, "", "rights_user"},
		"user makes no table":  {user, `create table u (n int)`, "42501", ""},
		"user makes no role":   {user, `create role evil superuser`, "42501", ""},
		"user sees no secrets": {user, `select rolpassword from pg_authid limit 1`, "42501", ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := c.query(c.sql)
			var state interface{ SQLState() string }
			switch {
			case c.code != "":
				if !errors.As(err, &state) || state.SQLState() != c.code {
					t.Errorf("%v, want %s", err, c.code)
				}
			case c.answer != "" && (err != nil || got != c.answer):
				t.Errorf("%q, %v, want %q", got, err, c.answer)
			}
		})
	}
	wrong := filepath.Join(t.TempDir(), "wrong")
	if err := secret.WriteFile(wrong, secret.Random(20)); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]database.Config{
		"stranger":                    {DSN: s.DSN(d.Name, "rights_stranger"), PasswordFile: strangerFile},
		"wrong password":              {DSN: userDSN, PasswordFile: wrong},
		"no password":                 {DSN: userDSN},
		"superuser, wrong password":   {DSN: s.DSN(d.Name, "postgres"), PasswordFile: wrong},
		"superuser, without password": {DSN: s.DSN(d.Name, "postgres")},
	} {
		if db, err := database.Open(ctx, c); err == nil {
			db.Close()
			t.Errorf("%s got in", name)
		} else if database.Transient(err) {
			t.Errorf("%s: refusal is called transient: %v", name, err)
		}
	}
	if err := s.CreateDatabase(ctx, d.Name, "rights_user"); err == nil || !strings.Contains(err.Error(), "belongs to") {
		t.Errorf("a database of another owner was taken: %v", err)
	}
	if err := s.CreateDatabase(ctx, d.Name, d.Owner, "rights_stranger"); err != nil {
		t.Error(err)
	}
	connect(t, s.DSN(d.Name, "rights_stranger"), strangerFile)
}

// TestRolePassword: a lost file gets a new password, and passwords aren't in the log or
// the dump.
func TestRolePassword(t *testing.T) {
	t.Parallel()
	s := postgres.ForTest(t)
	d := s.TestDatabase(t, "password")
	dsn, file := d.As("password_user")
	old, err := secret.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	renewed, err := secret.ReadFile(role(t, s, "password_user"))
	if err != nil {
		t.Fatal(err)
	}
	if renewed.Equal(old) {
		t.Error("the password is the old one")
	}
	query := connect(t, dsn, file)
	if _, err := query(`select broken from nothing where x = '` + string(renewed.Bytes()) + `'`); err == nil {
		t.Error("a broken statement went through")
	}
	var dump bytes.Buffer
	if err := s.Dump(t.Context(), d.Name, &dump); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(dump.String(), "PostgreSQL database dump complete") {
		t.Errorf("dump is %d bytes and not complete", dump.Len())
	}
	log, err := os.ReadFile(filepath.Join(filepath.Dir(file), "postgres.log"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(log, []byte("ready to accept connections")) {
		t.Error("this is not the log")
	}
	for name, p := range map[string]secret.Secret{"old": old, "new": renewed} {
		if bytes.Contains(log, p.Bytes()) || bytes.Contains(dump.Bytes(), p.Bytes()) {
			t.Errorf("%s password shows in log or dump", name)
		}
	}
}

// TestSocketOnly: nothing listens on the network, and all see the same scram.
func TestSocketOnly(t *testing.T) {
	t.Parallel()
	s := postgres.ForTest(t)
	query := connect(t, s.DSN("postgres", "postgres"), s.SuperuserPasswordFile())
	for setting, want := range map[string]string{
		"listen_addresses":        "",
		"password_encryption":     "scram-sha-256",
		"unix_socket_directories": s.SocketDir(),
		"fsync":                   "off",
	} {
		if got, err := query(`select current_setting('` + setting + `')`); err != nil || got != want {
			t.Errorf("%s is %q, %v, want %q", setting, got, err, want)
		}
	}
	if got, err := query(`select string_agg(distinct type || ' ' || auth_method, ',') from pg_hba_file_rules`); err != nil || got != "local scram-sha-256" {
		t.Errorf("rules of access: %q, %v", got, err)
	}
	if n := len(s.SocketDir()) + len("/.s.PGSQL.5432"); n > 103 {
		t.Errorf("socket path has %d bytes", n)
	}
}

func TestDurableSetting(t *testing.T) {
	t.Parallel()
	s := start(t, postgres.Config{Dir: t.TempDir(), Durable: true, Settings: map[string]string{"work_mem": "5MB"}})
	query := connect(t, s.DSN("postgres", "postgres"), s.SuperuserPasswordFile())
	for setting, want := range map[string]string{"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on", "work_mem": "5MB"} {
		if got, err := query(`select current_setting('` + setting + `')`); err != nil || got != want {
			t.Errorf("%s is %q, %v, want %q", setting, got, err, want)
		}
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	s := postgres.ForTest(t)
	ctx := t.Context()
	for _, name := range []string{"", "Pool", "1a", "a-b", "a b", "a;drop", `a"b`, "postgres", "pg_x", strings.Repeat("a", 64), "ä"} {
		if _, err := s.Role(ctx, name); err == nil {
			t.Errorf("role %q made", name)
		}
		if err := s.CreateDatabase(ctx, name, "refusals_owner"); err == nil {
			t.Errorf("database %q made", name)
		}
		if err := s.CreateDatabase(ctx, "refusals", name); err == nil {
			t.Errorf("database of %q made", name)
		}
	}
	if _, err := postgres.Start(ctx, postgres.Config{}); err == nil {
		t.Error("started without a folder")
	}
	dir := t.TempDir()
	if _, err := postgres.Start(ctx, postgres.Config{Dir: dir, Settings: map[string]string{"listen_addresses": "*"}}); err == nil || !strings.Contains(err.Error(), "private") {
		t.Errorf("opened to the network: %v", err)
	}
	if _, err := postgres.Start(ctx, postgres.Config{Dir: dir, Settings: map[string]string{"no_such_setting": "1"}}); err == nil || !strings.Contains(err.Error(), "no_such_setting") {
		t.Errorf("the server's complaint is not in the error: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "superuser.password")); err != nil {
		t.Fatal(err)
	}
	if _, err := postgres.Start(ctx, postgres.Config{Dir: dir}); err == nil || !strings.Contains(err.Error(), "to begin anew") {
		t.Errorf("started without the superuser's password: %v", err)
	}
	if err := postgres.StopDir(ctx, filepath.Join(dir, "absent")); err != nil {
		t.Errorf("stop where nothing is: %v", err)
	}
}

// TestWatchdog runs a child that starts a server and ends in each way a program ends.
func TestWatchdog(t *testing.T) {
	t.Parallel()
	postgres.ForTest(t) // or skip
	for _, c := range []struct {
		how       string
		ephemeral bool
		lives     bool
	}{
		{"exit", false, false},
		{"kill", false, false},
		{"detach", false, true},
		{"fortest", true, false},
	} {
		t.Run(c.how, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "it's a $folder")
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			cmd := childCommand(t, c.how, dir)
			if c.ephemeral {
				// For root: a folder from which only the capability removes anything.
				cmd.Env = append(cmd.Env, "TMPDIR="+dir)
			}
			out, err := cmd.Output()
			if c.how != "kill" && err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			var pid int
			var place string
			if _, err := fmt.Sscanf(string(out), "%d %q", &pid, &place); err != nil {
				t.Fatalf("child said %q: %v", out, err)
			}
			if c.ephemeral && filepath.Dir(place) != dir {
				t.Errorf("the server is in %s, not below %s", place, dir)
			}
			gone := func() bool {
				_, err := os.Stat(place)
				return !alive(pid) && errors.Is(err, fs.ErrNotExist)
			}
			if c.lives {
				time.Sleep(time.Second)
				if !alive(pid) {
					t.Fatal("the detached server is gone")
				}
				s, err := postgres.Attach(t.Context(), dir)
				if err != nil {
					t.Fatal(err)
				}
				role(t, s, "later")
				if s.PID() != pid {
					t.Errorf("attached to process %d, not %d", s.PID(), pid)
				}
				if err := postgres.StopDir(t.Context(), dir); err != nil {
					t.Fatal(err)
				}
				if alive(pid) {
					t.Error("the server outlives its stop")
				}
				return
			}
			for until := time.Now().Add(20 * time.Second); !gone(); time.Sleep(20 * time.Millisecond) {
				if time.Now().After(until) {
					t.Fatalf("alive: %v; folder %s still there", alive(pid), place)
				}
			}
		})
	}
}

// TestMissing: without Postgres tests are skipped on a laptop and fail in CI.
func TestMissing(t *testing.T) {
	t.Parallel()
	for ci, says := range map[string]string{"": "--- SKIP: TestChild", "true": "--- FAIL: TestChild"} {
		cmd := childCommand(t, "missing", t.TempDir())
		cmd.Args = append(cmd.Args, "-test.v")
		cmd.Env = append(cmd.Env, "CI="+ci, "PATH=/nowhere")
		out, err := cmd.Output()
		if (err == nil) != (ci == "") || !strings.Contains(string(out), says) || !strings.Contains(string(out), "install the package postgresql") {
			t.Errorf("CI=%s: %v, want %q in:\n%s", ci, err, says, out)
		}
	}
}

func childCommand(t *testing.T, how, dir string) *exec.Cmd {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, "-test.run=^TestChild$")
	cmd.Env = append(os.Environ(), "POSTGRES_TEST_CHILD="+how, "POSTGRES_TEST_DIR="+dir)
	cmd.Stderr = os.Stderr
	return cmd
}

// TestChild is the child of TestWatchdog. It prints the process and the folder that have
// to vanish, and ends.
func TestChild(t *testing.T) {
	how := os.Getenv("POSTGRES_TEST_CHILD")
	if how == "" {
		return
	}
	if how == "fallback" {
		postgres.ForbidCapability()
		s, err := postgres.Start(context.Background(), postgres.Config{Dir: os.Getenv("POSTGRES_TEST_DIR")})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Detach(); err != nil {
			t.Fatal(err)
		}
		fmt.Println(s.PID(), s.SocketDir())
		os.Exit(0)
	}
	if how == "missing" {
		postgres.ForgetPlaces()
		postgres.ForTest(t)
	}
	if how == "fortest" {
		s := postgres.ForTest(t)
		fmt.Printf("%d %q\n", s.PID(), filepath.Dir(s.Passfile()))
		os.Exit(0)
	}
	s, err := postgres.Start(context.Background(), postgres.Config{Dir: os.Getenv("POSTGRES_TEST_DIR")})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("%d %q\n", s.PID(), filepath.Join(s.SocketDir(), ".s.PGSQL.5432"))
	switch how {
	case "kill":
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
	case "detach":
		if err := s.Detach(); err != nil {
			t.Fatal(err)
		}
	}
	os.Exit(0)
}
