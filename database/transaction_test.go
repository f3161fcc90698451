package database_test

import (
	"context"
	"database/sql"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/devicekeys/devicekeys/database"
	"github.com/devicekeys/devicekeys/deploy/postgres"
	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"
)

func counter(t *testing.T) (*postgres.TestDatabase, *sql.DB) {
	t.Helper()
	d := postgres.ForTest(t).TestDatabase(t, "tx")
	db := open(t, d, d.Owner)
	exec(t, db, `create table c (id int primary key, n int not null)`)
	exec(t, db, `insert into c values (1, 0), (2, 0)`)
	return d, db
}

func TestInTxCommitsOrRollsBack(t *testing.T) {
	t.Parallel()
	_, db := counter(t)
	ctx := within(t)
	set := func(n int) func(*sql.Tx) error {
		return func(tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, `update c set n = $1 where id = 1`, n)
			return err
		}
	}
	if err := database.InTx(ctx, db, nil, set(1)); err != nil {
		t.Fatal(err)
	}
	refusal := errors.New("changed my mind")
	err := database.InTx(ctx, db, nil, func(tx *sql.Tx) error { return errors.Join(set(2)(tx), refusal) })
	if !errors.Is(err, refusal) {
		t.Errorf("error is %v", err)
	}
	func() {
		defer func() { recover() }()
		database.InTx(ctx, db, nil, func(tx *sql.Tx) error { set(3)(tx); panic("in the middle") })
	}()
	// f hides that a statement failed: the commit must not succeed.
	err = database.InTx(ctx, db, nil, func(tx *sql.Tx) error {
		set(4)(tx)
		tx.ExecContext(ctx, `select 1/0`)
		return nil
	})
	if err == nil || errors.Is(err, database.ErrCommitUnknown) {
		t.Errorf("commit after a failed statement: %v", err)
	}
	ending, cancel := context.WithCancel(ctx)
	err = database.InTx(ending, db, nil, func(tx *sql.Tx) error { defer cancel(); return set(5)(tx) })
	if !errors.Is(err, context.Canceled) && !errors.Is(err, sql.ErrTxDone) && !errors.Is(err, database.ErrCommitUnknown) {
		t.Errorf("commit after the context ended: %v", err)
	}
	if n := one[int](t, db, `select n from c where id = 1`); n != 1 {
		t.Errorf("n is %d, want 1", n)
	}
	if n := db.Stats().InUse; n != 0 {
		t.Errorf("%d connections are not given back", n)
	}
}

// TestInTxRepeats has two transactions that must lose against each other, by
// serialization or by deadlock: both take effect once, and one was run again.
func TestInTxRepeats(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		opts          *sql.TxOptions
		first, second [2]string // statements of the two, before and after they meet
	}{
		"serializable": {
			&sql.TxOptions{Isolation: sql.LevelSerializable},
			[2]string{`select from c where n = -1`, `update c set n = n + 1 where id = 1`},
			[2]string{`select from c where n = -1`, `update c set n = n + 1 where id = 1`},
		},
		"deadlock": {
			nil,
			[2]string{`update c set n = n + 1 where id = 1`, `update c set n = n + 1 where id = 2`},
			[2]string{`update c set n = n + 1 where id = 2`, `update c set n = n + 1 where id = 1`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, db := counter(t)
			ctx := within(t)
			var meet, wait sync.WaitGroup
			meet.Add(2)
			var tries [2]int
			for worker, statements := range [][2]string{c.first, c.second} {
				wait.Go(func() {
					err := database.InTx(ctx, db, c.opts, func(tx *sql.Tx) error {
						tries[worker]++
						_, err := tx.ExecContext(ctx, statements[0])
						if tries[worker] == 1 {
							meet.Done()
							meet.Wait()
						}
						if err == nil {
							_, err = tx.ExecContext(ctx, statements[1])
						}
						return wrap(err)
					})
					if err != nil {
						t.Errorf("worker %d: %v", worker, err)
					}
				})
			}
			wait.Wait()
			want := 2
			if name == "deadlock" {
				want = 4
			}
			if got := one[int](t, db, `select sum(n) from c`); got != want {
				t.Errorf("sum is %d, want %d", got, want)
			}
			if tries[0]+tries[1] < 3 {
				t.Errorf("tries are %v: none was repeated, the test shows nothing", tries)
			}
		})
	}
}

func TestInTxGivesUp(t *testing.T) {
	t.Parallel()
	_, db := counter(t)
	conflict := &pq.Error{Code: "40001", Message: "could not serialize access"}
	tries := 0
	err := database.InTx(within(t), db, nil, func(*sql.Tx) error { tries++; return wrap(conflict) })
	if tries != 8 || !errors.Is(err, error(conflict)) || !database.Transient(err) {
		t.Errorf("%d tries, %v", tries, err)
	}
	// Other errors, transient ones too, are not repeated.
	for _, code := range []string{"23505", "57P01", "25006", "08006"} {
		tries = 0
		err := database.InTx(within(t), db, nil, func(*sql.Tx) error { tries++; return &pq.Error{Code: pqerror.Code(code)} })
		if tries != 1 || err == nil {
			t.Errorf("%s: %d tries, %v", code, tries, err)
		}
	}
	ctx, cancel := context.WithCancel(within(t))
	tries = 0
	err = database.InTx(ctx, db, nil, func(*sql.Tx) error { tries++; cancel(); return wrap(conflict) })
	if tries != 1 || !errors.Is(err, context.Canceled) {
		t.Errorf("after the end of the context: %d tries, %v", tries, err)
	}
}

// TestInTxLostConnection breaks the connection in the transaction, where nothing has
// happened, and in the commit, where no one can know.
func TestInTxLostConnection(t *testing.T) {
	t.Parallel()
	s := postgres.ForTest(t)
	_, db := counter(t)
	super, err := database.Open(within(t), database.Config{DSN: s.DSN("postgres", "postgres"), PasswordFile: s.SuperuserPasswordFile()})
	if err != nil {
		t.Fatal(err)
	}
	defer super.Close()
	ctx := within(t)
	kill := func(tx *sql.Tx) {
		var pid int
		if err := tx.QueryRowContext(ctx, `select pg_backend_pid()`).Scan(&pid); err != nil {
			t.Error(err)
		}
		exec(t, super, `select pg_terminate_backend($1, 5000)`, pid)
	}
	tries := 0
	err = database.InTx(ctx, db, nil, func(tx *sql.Tx) error {
		tries++
		kill(tx)
		_, err := tx.ExecContext(ctx, `update c set n = 1`)
		return wrap(err)
	})
	if !database.Transient(err) || errors.Is(err, database.ErrCommitUnknown) || tries != 1 {
		t.Errorf("lost within: %d tries, %v", tries, err)
	}
	err = database.InTx(ctx, db, nil, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `update c set n = 2`)
		kill(tx)
		return err
	})
	if !errors.Is(err, database.ErrCommitUnknown) || !database.Transient(err) {
		t.Errorf("lost in the commit: %v", err)
	}
	if n := one[int](t, db, `select n from c where id = 1`); n != 0 {
		t.Errorf("n is %d", n)
	}
}

// TestInTxCommitKept loses the answer to a commit that happened.
func TestInTxCommitKept(t *testing.T) {
	t.Parallel()
	s := postgres.ForTest(t)
	d, db := counter(t)
	proxy := newProxy(t, s.SocketDir())
	dsn, file := d.As(d.Owner)
	through, err := database.Open(within(t), database.Config{DSN: strings.Replace(dsn, s.SocketDir(), proxy.dir, 1), PasswordFile: file})
	if err != nil {
		t.Fatal(err)
	}
	defer through.Close()
	ctx := within(t)
	tries := 0
	err = database.InTx(ctx, through, nil, func(tx *sql.Tx) error {
		tries++
		_, err := tx.ExecContext(ctx, `update c set n = n + 1 where id = 1`)
		proxy.dropAnswer()
		return err
	})
	if !errors.Is(err, database.ErrCommitUnknown) || tries != 1 {
		t.Errorf("%d tries, %v", tries, err)
	}
	for until := time.Now().Add(10 * time.Second); one[int](t, db, `select n from c where id = 1`) != 1; {
		if time.Now().After(until) {
			t.Fatal("the commit didn't happen: the test shows nothing")
		}
	}
}

// proxy passes a Unix socket on, and loses an answer when it is told to.
type proxy struct {
	dir  string
	mu   sync.Mutex
	drop bool
}

func newProxy(t *testing.T, sockets string) *proxy {
	t.Helper()
	p := &proxy{dir: shortDir(t)}
	const name = "/.s.PGSQL.5432"
	l, err := net.Listen("unix", p.dir+name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("unix", sockets+name)
			if err != nil {
				client.Close()
				return
			}
			go p.copy(server, client, false)
			go p.copy(client, server, true)
		}
	}()
	return p
}

func (p *proxy) copy(to, from net.Conn, answers bool) {
	defer to.Close()
	defer from.Close()
	b := make([]byte, 1<<16)
	for {
		n, err := from.Read(b)
		if err != nil {
			return
		}
		p.mu.Lock()
		drop := p.drop && answers
		if drop {
			p.drop = false
		}
		p.mu.Unlock()
		if drop {
			return
		}
		if _, err := to.Write(b[:n]); err != nil {
			return
		}
	}
}

// dropAnswer loses the next answer and the connection it would go to.
func (p *proxy) dropAnswer() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drop = true
}
