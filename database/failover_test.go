package database_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/devicekeys/devicekeys/database"
	"github.com/devicekeys/devicekeys/deploy/postgres"
)

// node is a server of the test's own, which it may stop, kill and spoil. All nodes of a test have the same
// database, role and password, as those of one cluster.
type node struct {
	*postgres.Server
	t        *testing.T
	dir      string
	settings map[string]string
}

const (
	nodeDatabase = "line"
	nodeRole     = "line_owner"
)

// newNode starts a server with the database. password is another node's file, "" for the first.
func newNode(t *testing.T, password string, settings map[string]string) (n *node, passwordFile string) {
	t.Helper()
	postgres.ForTest(t) // skips where Postgres is missing
	dir, err := os.MkdirTemp("/tmp", "dkdb-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { postgres.Remove(context.Background(), dir) })
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	if password != "" {
		b, err := os.ReadFile(password)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "role-"+nodeRole+".password"), b, 0o400); err != nil {
			t.Fatal(err)
		}
	}
	n = &node{t: t, dir: dir, settings: map[string]string{
		"wal_level": "replica", "max_wal_senders": "2",
		"synchronous_commit": "on", // it need not be durable, but replicated where that is asked for
		"test.node":          dir,
	}}
	for k, v := range settings {
		n.settings[k] = v
	}
	n.start()
	if passwordFile, err = n.Role(within(t), nodeRole); err != nil {
		t.Fatal(err)
	}
	if err := n.CreateDatabase(within(t), nodeDatabase, nodeRole); err != nil {
		t.Fatal(err)
	}
	db := open1(t, n.DSN(nodeDatabase, nodeRole), passwordFile)
	exec(t, db, `create table t (a int primary key, n int not null)`)
	exec(t, db, `insert into t values (0, 0)`)
	db.Close()
	return n, passwordFile
}

func (n *node) start() {
	n.t.Helper()
	s, err := postgres.Start(within(n.t), postgres.Config{Dir: n.dir, Settings: n.settings})
	if err != nil {
		n.t.Fatal(err)
	}
	n.Server = s
}

// standby has the node come back as a hot standby, which nobody feeds.
func (n *node) standby() {
	n.t.Helper()
	if err := n.Stop(within(n.t)); err != nil {
		n.t.Fatal(err)
	}
	signal := filepath.Join(n.dir, "data", "standby.signal")
	info, err := os.Stat(filepath.Dir(signal))
	if err != nil {
		n.t.Fatal(err)
	}
	if err := os.WriteFile(signal, nil, 0o600); err != nil {
		n.t.Fatal(err)
	}
	own := info.Sys().(*syscall.Stat_t)
	if err := os.Chown(signal, int(own.Uid), int(own.Gid)); err != nil {
		n.t.Fatal(err)
	}
	n.start()
}

// super runs a statement as the superuser.
func (n *node) super(query string, args ...any) {
	n.t.Helper()
	db := open1(n.t, n.DSN("postgres", "postgres"), n.SuperuserPasswordFile())
	defer db.Close()
	exec(n.t, db, query, args...)
}

// set changes a setting of the running server.
func (n *node) set(name, value string) {
	n.t.Helper()
	n.super(`alter system set ` + name + ` = '` + value + `'`)
	n.super(`select pg_reload_conf()`)
	db := open1(n.t, n.DSN(nodeDatabase, "postgres"), n.SuperuserPasswordFile())
	defer db.Close()
	for one[string](n.t, db, `select current_setting($1)`, name) != value {
		time.Sleep(time.Millisecond)
	}
}

func open1(t *testing.T, dsn, passwordFile string) *sql.DB {
	t.Helper()
	db, err := database.Open(within(t), database.Config{DSN: dsn, PasswordFile: passwordFile, MaxConns: 4})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// several is a DSN that names all nodes.
func several(more string, nodes ...*node) string {
	var hosts []string
	for _, n := range nodes {
		hosts = append(hosts, n.SocketDir())
	}
	return fmt.Sprintf("host=%s port=5432 dbname=%s user=%s sslmode=disable %s", strings.Join(hosts, ","), nodeDatabase, nodeRole, more)
}

// fill has the pool hold as many connections as it may, and returns their backends.
func fill(t *testing.T, db *sql.DB) map[int]bool {
	t.Helper()
	pids := map[int]bool{}
	var conns []*sql.Conn
	for range db.Stats().MaxOpenConnections {
		c, err := db.Conn(within(t))
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
		var pid int
		if err := c.QueryRowContext(within(t), `select pg_backend_pid()`).Scan(&pid); err != nil {
			t.Fatal(err)
		}
		pids[pid] = true
	}
	for _, c := range conns {
		c.Close()
	}
	return pids
}

// TestFailover has several callers write through several hosts while the primary is killed, the standby promoted,
// and the former primary comes back as a standby. Every failure says that it passes, every write that was
// acknowledged is there, none is there twice, and the prepared statement goes on.
func TestFailover(t *testing.T) {
	t.Parallel()
	a, password := newNode(t, "", nil)
	b, _ := newNode(t, password, nil)
	b.standby()
	// The standby stands first: it is passed over at every attempt.
	db := open1(t, several("target_session_attrs=read-write connect_timeout=2", b, a), password)
	statements := database.NewStatements(db)
	ctx := within(t)

	const workers = 4
	var (
		mu       sync.Mutex
		acked    = map[string]int{} // node's folder → writes acknowledged
		failures int
		stop     = make(chan struct{})
		wg       sync.WaitGroup
	)
	for w := range workers {
		wg.Go(func() {
			for i := w; ; i += workers {
				select {
				case <-stop:
					return
				default:
				}
				var where string
				var count int
				// The same row again is no error, so that an unknown outcome may be repeated; the count tells
				// whether it was.
				err := statements.Row(ctx, `insert into t values ($1, 1) on conflict (a) do update set n = t.n
					returning current_setting('test.node'), n`, []any{i + 1}, &where, &count)
				if err != nil && !database.Transient(err) {
					t.Errorf("not transient: %v", err)
					return
				}
				mu.Lock()
				if err == nil {
					acked[where]++
				} else {
					failures++
				}
				mu.Unlock()
				if err != nil {
					i -= workers
					time.Sleep(time.Millisecond)
				}
			}
		})
	}
	await := func(n *node) {
		t.Helper()
		for {
			mu.Lock()
			enough := acked[n.dir] >= 20*workers
			mu.Unlock()
			if enough {
				return
			}
			if ctx.Err() != nil {
				t.Fatal("nobody gets through")
			}
			time.Sleep(time.Millisecond)
		}
	}
	await(a)
	if err := a.Kill(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(20 * time.Millisecond) // neither is primary: all fail
	if _, err := database.Open(ctx, database.Config{DSN: several("target_session_attrs=read-write", b, a), PasswordFile: password}); !database.Transient(err) ||
		!strings.Contains(err.Error(), "failover") {
		t.Errorf("a program that starts without primary is told: %v", err)
	}
	b.super(`select pg_promote()`)
	await(b)
	a.start()
	a.standby()
	await(b)
	close(stop)
	wg.Wait()
	if failures == 0 {
		t.Error("nothing failed: the test shows nothing")
	}
	if got := one[string](t, db, `select current_setting('test.node')`); got != b.dir {
		t.Errorf("the pool is at %q, want %q", got, b.dir)
	}
}

// TestReadOnlyServer: connections to a server that became read-only beneath them are given up at the first refusal,
// all of them. (Transactions are for TestStandbyByMistake: lib/pq begins them "read write", which this server grants.)
func TestReadOnlyServer(t *testing.T) {
	t.Parallel()
	n, password := newNode(t, "", nil)
	for name, write := range map[string]func(*sql.DB) error{
		"statement": func(db *sql.DB) error {
			_, err := db.ExecContext(within(t), `update t set n = 1`)
			return err
		},
		"prepared": func(db *sql.DB) error {
			var v int
			return database.NewStatements(db).Row(within(t), `update t set n = $1 returning n`, []any{1}, &v)
		},
	} {
		db := open1(t, several("target_session_attrs=read-write", n), password)
		before := fill(t, db)
		n.set("default_transaction_read_only", "on")
		failed := 0
		for range 3 {
			// The first is refused as read-only, the next don't find a server.
			if err := write(db); err == nil {
				continue
			} else if failed++; !database.Transient(err) {
				t.Errorf("%s: %v is not transient", name, err)
			} else if failed > 1 && !strings.Contains(err.Error(), "session is read-only") {
				t.Errorf("%s: a connection of before was used again: %v", name, err)
			}
		}
		n.set("default_transaction_read_only", "off")
		if err := write(db); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if failed != 3 {
			t.Errorf("%s: %d of 3 failed", name, failed)
		}
		for pid := range fill(t, db) {
			if before[pid] {
				t.Errorf("%s: the connection to backend %d was kept", name, pid)
			}
		}
		db.Close()
	}
}

// TestStandbyByMistake: a DSN without target_session_attrs leads to a standby; that is an error which passes, and with
// the promotion it does.
func TestStandbyByMistake(t *testing.T) {
	t.Parallel()
	n, password := newNode(t, "", nil)
	n.standby()
	db := open1(t, n.DSN(nodeDatabase, nodeRole), password)
	write := func() error {
		return database.InTx(within(t), db, nil, func(tx *sql.Tx) error {
			_, err := tx.ExecContext(within(t), `update t set n = n + 1`)
			return err
		})
	}
	fill(t, db)
	if err := write(); !database.Transient(err) || !strings.Contains(err.Error(), "standby") {
		t.Errorf("begin on a standby: %v", err)
	}
	// To read is allowed, and a write then is the caller's mistake, no word about the server.
	before := fill(t, db)
	err := database.InTx(within(t), db, &sql.TxOptions{ReadOnly: true}, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(within(t), `update t set n = n + 1`)
		return err
	})
	if err == nil {
		t.Error("a read-only transaction wrote")
	}
	for pid := range fill(t, db) {
		if !before[pid] {
			t.Errorf("backend %d is new: a read-only transaction cost the connections", pid)
		}
	}
	if _, err := db.ExecContext(within(t), `update t set n = n + 1`); !database.Transient(err) {
		t.Errorf("write on a standby: %v", err)
	}
	n.super(`select pg_promote()`)
	if err := write(); err != nil {
		t.Errorf("after the promotion: %v", err)
	}
}

// TestCommitWithoutStandby: a commit that ends its wait for the synchronous standby is not acknowledged, although the
// server says that it committed. The wait ends because the caller goes away, or somebody cancels it;
// statement_timeout doesn't end it.
func TestCommitWithoutStandby(t *testing.T) {
	t.Parallel()
	n, password := newNode(t, "", nil)
	super := open1(t, n.DSN("postgres", "postgres"), n.SuperuserPasswordFile())
	db := open1(t, several("target_session_attrs=read-write statement_timeout=100", n), password)
	n.set("synchronous_standby_names", "nobody")
	a := 100
	for name, write := range map[string]func(ctx context.Context, query string, a int) error{
		"statement": func(ctx context.Context, q string, a int) error { _, err := db.ExecContext(ctx, q, a); return err },
		"prepared": func(ctx context.Context, q string, a int) error {
			st, err := database.NewStatements(db).Prepare(ctx, q)
			if err == nil {
				_, err = st.ExecContext(ctx, a)
			}
			return err
		},
		"row": func(ctx context.Context, q string, a int) error {
			return database.NewStatements(db).Row(ctx, q+` returning a`, []any{a}, new(int))
		},
		"row, read slowly": func(ctx context.Context, q string, a int) error {
			return database.NewStatements(db).Row(ctx, q+` returning a`, []any{a}, slowReader{})
		},
		"rows": func(ctx context.Context, q string, a int) error {
			rows, err := db.QueryContext(ctx, q+` returning a`, a)
			if err != nil {
				return err
			}
			defer rows.Close()
			for rows.Next() {
			}
			return rows.Err()
		},
		"transaction": func(ctx context.Context, q string, a int) error {
			return database.InTx(ctx, db, nil, func(tx *sql.Tx) error {
				_, err := tx.ExecContext(ctx, q, a)
				return err
			})
		},
	} {
		for how, end := range map[string]func(cancel func()){
			"caller goes away": func(cancel func()) { cancel() },
			"operator cancels": func(func()) {
				exec(t, super, `select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'SyncRep'`)
			},
		} {
			a++
			ctx, cancel := context.WithCancel(within(t))
			var ending sync.WaitGroup
			ending.Go(func() {
				awaitWaiting(t, super)
				end(cancel)
			})
			err := write(ctx, `insert into t values ($1, 0)`, a)
			ending.Wait()
			unknown := errors.Is(err, database.ErrCommitUnknown) && database.Transient(err)
			// Where rows are read database/sql may notice first that the caller is gone. That acknowledges nothing either.
			gone := how == "caller goes away" && errors.Is(err, context.Canceled)
			if !unknown && !gone {
				t.Errorf("%s, %s: %v, want one that says the outcome is unknown", name, how, err)
			}
			cancel()
			if one[int](t, super, `select count(*) from pg_stat_activity where wait_event = 'SyncRep'`) != 0 {
				t.Errorf("%s, %s: a commit still waits", name, how)
			}
			if one[int](t, db, `select count(*) from t where a = $1`, a) != 1 {
				t.Errorf("%s, %s: the row is not there: the test shows nothing", name, how)
			}
		}
	}
	n.set("synchronous_standby_names", "")
	if err := database.InTx(within(t), db, nil, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(within(t), `update t set n = n + 1`)
		return err
	}); err != nil {
		t.Errorf("without standbys to wait for: %v", err)
	}
}

// slowReader takes its time to read a value: meanwhile database/sql closes the rows of a caller that went away.
type slowReader struct{}

func (slowReader) Scan(any) error {
	time.Sleep(50 * time.Millisecond)
	return nil
}

// awaitWaiting returns when a commit waits for its standby, and has for longer than db's statement_timeout.
func awaitWaiting(t *testing.T, super *sql.DB) {
	const query = `select count(*) from pg_stat_activity where wait_event = 'SyncRep' and clock_timestamp() > query_start + interval '200 ms'`
	for one[int](t, super, query) == 0 {
		time.Sleep(time.Millisecond)
	}
}

// TestLostAnswer: a statement whose answer is lost took effect once. It is not sent again.
func TestLostAnswer(t *testing.T) {
	t.Parallel()
	s := postgres.ForTest(t)
	d, db := counter(t)
	proxy := newProxy(t, s.SocketDir())
	dsn, file := d.As(d.Owner)
	through := open1(t, strings.Replace(dsn, s.SocketDir(), proxy.dir, 1), file)
	statements := database.NewStatements(through)
	const query = `update c set n = n + $1 where id = 1 returning n`
	prepared := func(by int) error {
		return statements.Row(within(t), query, []any{by}, new(int))
	}
	want := 0
	for name, act := range map[string]func() error{
		"statement": func() error { _, err := through.ExecContext(within(t), query, 1); return err },
		"prepared":  func() error { return prepared(1) },
		"query": func() error {
			rows, err := through.QueryContext(within(t), query, 1)
			if err == nil {
				err = rows.Close()
			}
			return err
		},
	} {
		if err := prepared(0); err != nil { // also on the connection that replaces a lost one
			t.Fatalf("%s: %v", name, err)
		}
		proxy.dropAnswer()
		if err := act(); !errors.Is(err, database.ErrCommitUnknown) || !database.Transient(err) {
			t.Errorf("%s: %v, want one that says the outcome is unknown", name, err)
		}
		want++
		for until := time.Now().Add(10 * time.Second); one[int](t, db, `select n from c where id = 1`) < want; {
			if time.Now().After(until) {
				t.Fatalf("%s: it took no effect: the test shows nothing", name)
			}
		}
		if n := one[int](t, db, `select n from c where id = 1`); n != want {
			t.Fatalf("%s: it took effect %d times", name, n-want+1)
		}
	}
}

// TestClosedWhileIdle: connections that the server closed while nobody used them cost the callers no error.
func TestClosedWhileIdle(t *testing.T) {
	t.Parallel()
	s := postgres.ForTest(t)
	_, db := counter(t)
	super := open1(t, s.DSN("postgres", "postgres"), s.SuperuserPasswordFile())
	for pid := range fill(t, db) {
		exec(t, super, `select pg_terminate_backend($1, 5000)`, pid)
	}
	var wg sync.WaitGroup
	for range db.Stats().MaxOpenConnections {
		wg.Go(func() {
			if _, err := db.ExecContext(within(t), `update c set n = n + 1 where id = 1`); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := one[int](t, db, `select n from c where id = 1`); n != db.Stats().MaxOpenConnections {
		t.Errorf("n is %d", n)
	}
}

// TestConnectErrors: what several hosts say together, and whether it passes.
func TestConnectErrors(t *testing.T) {
	t.Parallel()
	s := postgres.ForTest(t)
	d := s.TestDatabase(t, "hosts")
	_, file := d.As(d.Owner)
	wrong := filepath.Join(t.TempDir(), "wrong")
	if err := os.WriteFile(wrong, []byte("not the password"), 0o400); err != nil {
		t.Fatal(err)
	}
	mute := shortDir(t) // takes connections and says nothing, as a machine that hangs
	l, err := net.Listen("unix", mute+"/.s.PGSQL.5432")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	for name, c := range map[string]struct {
		hosts, attrs, file string
		transient          bool
		says               string
	}{
		"all refuse":                     {"/nowhere,/nowhere", "read-write", file, true, "is Postgres running"},
		"a primary where none is sought": {s.SocketDir() + "," + s.SocketDir(), "read-only", file, true, "failover"},
		"the same, by another name":      {s.SocketDir(), "standby", file, true, "failover"},
		"wrong password at both":         {s.SocketDir() + "," + s.SocketDir(), "read-write", wrong, false, "password_file"},
		"wrong password at one":          {s.SocketDir() + ",/nowhere", "read-write", wrong, true, "password_file"},
		"one hangs, one refuses":         {mute + ",/nowhere", "read-write connect_timeout=1", file, true, "timeout"},
		"two hosts, any of them":         {"/nowhere," + s.SocketDir(), "", file, false, "target_session_attrs=read-write"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dsn := fmt.Sprintf("host=%s dbname=%s user=%s sslmode=disable", c.hosts, d.Name, d.Owner)
			if c.attrs != "" {
				dsn += " target_session_attrs=" + c.attrs
			}
			_, err := database.Open(within(t), database.Config{DSN: dsn, PasswordFile: c.file})
			if err == nil || !strings.Contains(err.Error(), c.says) || database.Transient(err) != c.transient {
				t.Errorf("transient %v, want %v and %q: %v", database.Transient(err), c.transient, c.says, err)
			}
		})
	}
	for what, after := range map[string]time.Duration{"before": 0, "meanwhile": 200 * time.Millisecond} {
		ended, cancel := context.WithTimeout(within(t), after)
		_, err := database.Open(ended, database.Config{
			DSN: "host=" + mute + ",/nowhere dbname=x user=x sslmode=disable target_session_attrs=read-write connect_timeout=1", PasswordFile: file,
		})
		cancel()
		if err == nil || database.Transient(err) {
			t.Errorf("the caller went away %s: %v", what, err)
		}
	}
}
