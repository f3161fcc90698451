package fault_test

import (
	"database/sql"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/devicekeys/devicekeys/database"
	"github.com/devicekeys/devicekeys/deploy/postgres"
	"github.com/devicekeys/devicekeys/fault"
)

// Requests over TLS and HTTP/2: the effect of a lost answer is kept, that of a lost
// request isn't.
func TestTLS(t *testing.T) {
	t.Parallel()
	var served atomic.Int64
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, served.Add(1))
	}))
	s.EnableHTTP2 = true
	s.StartTLS()
	defer s.Close()
	p := newProxy(t, s.Listener)
	post := func() error {
		res, err := s.Client().Post("https://"+p.Addr(), "text/plain", strings.NewReader("question"))
		if err != nil {
			return err
		}
		defer res.Body.Close()
		_, err = io.Copy(io.Discard, res.Body)
		return err
	}
	for _, kept := range []bool{false, true} {
		must(t, post()) // a connection with its handshake done
		must(t, post())
		before := served.Load()
		struck, err := p.Lose(fault.Loss{Nth: 1, Kept: kept})
		must(t, err)
		if err := post(); err == nil {
			t.Errorf("kept %v: answered", kept)
		}
		<-struck
		if now := served.Load(); now-before != map[bool]int64{true: 1}[kept] {
			t.Errorf("kept %v: %d requests were served", kept, now-before)
		}
	}
}

// Postgres behind a proxy: a row whose insertion was not answered is there, one whose
// insertion was not forwarded isn't.
func TestPostgres(t *testing.T) {
	t.Parallel()
	server := postgres.ForTest(t)
	d := server.TestDatabase(t, "fault")
	_, file := d.As(d.Owner)
	p, err := fault.NewProxy("unix", filepath.Join(server.SocketDir(), ".s.PGSQL.5432"))
	must(t, err)
	defer p.Close()
	host, port, err := net.SplitHostPort(p.Addr())
	must(t, err)
	db, err := database.Open(t.Context(), database.Config{
		DSN: fmt.Sprintf("host=%s port=%s dbname=%s user=%s sslmode=disable", host, port, d.Name, d.Owner), PasswordFile: file, MaxConns: 1,
	})
	must(t, err)
	defer db.Close()
	_, err = db.ExecContext(t.Context(), `create table t (a int)`)
	must(t, err)
	for a, kept := range []bool{false, true} {
		must(t, db.PingContext(t.Context()))
		struck, err := p.Lose(fault.Loss{Nth: 1, Kept: kept, How: fault.Finish})
		must(t, err)
		// In a transaction of its own statement: database/sql would repeat a bare Exec on a new connection.
		conn, err := db.Conn(t.Context())
		if err == nil {
			_, err = conn.ExecContext(t.Context(), `insert into t values ($1)`, a)
			conn.Close()
		}
		if err == nil {
			t.Errorf("kept %v: answered", kept)
		}
		<-struck
		if there := count(t, db, a) == 1; there != kept {
			t.Errorf("kept %v: the row is there: %v", kept, there)
		}
	}
}

func count(t *testing.T, db *sql.DB, a int) (n int) {
	t.Helper()
	must(t, db.QueryRowContext(t.Context(), `select count(*) from t where a = $1`, a).Scan(&n))
	return n
}
