package database_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"syscall"
	"testing"

	"github.com/devicekeys/devicekeys/database"
	"github.com/devicekeys/devicekeys/deploy/postgres"
	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"
)

func TestTransient(t *testing.T) {
	t.Parallel()
	sqlstate := func(c string) error { return &pq.Error{Code: pqerror.Code(c)} }
	for name, c := range map[string]struct {
		err  error
		want bool
	}{
		"nil":                    {nil, false},
		"serialization failure":  {sqlstate("40001"), true},
		"deadlock":               {sqlstate("40P01"), true},
		"admin shutdown":         {sqlstate("57P01"), true},
		"crash shutdown":         {sqlstate("57P02"), true},
		"cannot connect now":     {sqlstate("57P03"), true},
		"database dropped":       {sqlstate("57P04"), false},
		"connection failure":     {sqlstate("08006"), true},
		"read only":              {sqlstate("25006"), true},
		"too many connections":   {sqlstate("53300"), true},
		"disk full":              {sqlstate("53100"), true},
		"statement timeout":      {sqlstate("57014"), false},
		"unique violation":       {sqlstate("23505"), false},
		"check violation":        {sqlstate("23514"), false},
		"wrong password":         {sqlstate("28P01"), false},
		"bad connection":         {driver.ErrBadConn, true},
		"end of stream":          {io.EOF, true},
		"cut in a message":       {io.ErrUnexpectedEOF, true},
		"refused":                {&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, true},
		"missing file":           {&fs.PathError{Op: "open", Err: syscall.ENOENT}, false},
		"commit unknown":         {database.ErrCommitUnknown, true},
		"context canceled":       {context.Canceled, false},
		"context deadline":       {context.DeadlineExceeded, false},
		"no rows":                {sql.ErrNoRows, false},
		"something else":         {errors.New("x"), false},
		"no rows in transaction": {sql.ErrTxDone, false},
	} {
		for _, err := range []error{c.err, wrap(c.err)} {
			if got := database.Transient(err); got != c.want {
				t.Errorf("%s (%v): %v", name, err, got)
			}
		}
	}
}

func wrap(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("store pool: %w", err)
}

func TestUniqueViolation(t *testing.T) {
	t.Parallel()
	d := postgres.ForTest(t).TestDatabase(t, "unique")
	db := open(t, d, d.Owner)
	exec(t, db, `create table t (a int constraint one_a unique check (a > 0))`)
	exec(t, db, `insert into t values (1)`)
	_, err := db.ExecContext(within(t), `insert into t values (1)`)
	if name, ok := database.UniqueViolation(wrap(err)); !ok || name != "one_a" {
		t.Errorf("%q, %v from %v", name, ok, err)
	}
	_, err = db.ExecContext(within(t), `insert into t values (-1)`)
	if name, ok := database.UniqueViolation(err); ok || err == nil {
		t.Errorf("a check is called a unique constraint: %q", name)
	}
	if _, ok := database.UniqueViolation(nil); ok {
		t.Error("nil is a violation")
	}
}
