package database

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"

	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"
)

// errUnreplicated: the server says so in a mere warning, and that it committed.
var errUnreplicated = fmt.Errorf("%w: the server stopped waiting for its synchronous standby", ErrCommitUnknown)

// syncRepRoutine is the function in Postgres that waits for the standbys; it stands in the
// messages that it sends, whose text depends on the server's language.
const syncRepRoutine = "SyncRepWaitForLSN"

// pqConn, pqStmt and pqRows are what lib/pq's own types can do, and what database/sql asks of them.
type (
	pqConn interface {
		driver.Conn
		driver.ConnBeginTx
		driver.ConnPrepareContext
		driver.ExecerContext
		driver.QueryerContext
		driver.NamedValueChecker
		driver.Pinger
		driver.SessionResetter
		driver.Validator
	}
	pqStmt interface {
		driver.Stmt
		driver.StmtExecContext
		driver.StmtQueryContext
	}
	pqRows interface {
		driver.Rows
		driver.RowsNextResultSet
		driver.RowsColumnTypeScanType
		driver.RowsColumnTypeDatabaseTypeName
		driver.RowsColumnTypeLength
		driver.RowsColumnTypePrecisionScale
	}
)

// conn is a connection of lib/pq, and four promises more:
//
//   - A connection whose server is gone, stopping or read-only doesn't go back to
//     the pool, nor does any older one come out of it again.
//   - A connection that the server closed while it lay in the pool is found out
//     before anything is sent on it, so the caller gets another one and notices
//     nothing.
//   - A statement outside a transaction whose answer was lost may have taken effect. lib/pq
//     calls that a bad connection, and database/sql would run it a second time. Here it is
//     [ErrCommitUnknown].
//   - Where replication is synchronous, a commit that is cancelled while it waits for
//     the standby, because the context ended or by an operator, is reported by Postgres as
//     done, with a warning. It is on one machine only, and lost if that is. Here it is
//     [ErrCommitUnknown].
//
// One goroutine uses it at a time, as database/sql promises.
type conn struct {
	pqConn
	from   *connector
	socket *socket
	epoch  int64 // of from, when this was made

	inTx         bool // between BeginTx and the end of the transaction
	readOnly     bool // the transaction was asked to be, so that a refused write says nothing about the server
	unreplicated bool // the server warned, in answer to what was sent last

	lookups     map[string]pqStmt // query → prepared, see Lookup
	values      []driver.Value    // room for a row of a lookup
	interrupted bool              // the socket was given a deadline that is over
}

var _ pqConn = (*conn)(nil)

func newConn(from *connector, inner pqConn, s *socket, epoch int64) *conn {
	c := &conn{pqConn: inner, from: from, socket: s, epoch: epoch}
	pq.SetNoticeHandler(inner, func(n *pq.Error) {
		if n.Routine == syncRepRoutine {
			c.unreplicated = true
		}
	})
	return c
}

// IsValid is asked when the connection goes back to the pool.
func (c *conn) IsValid() bool {
	return !c.interrupted && c.epoch == c.from.epoch.Load() && c.pqConn.IsValid()
}

// ResetSession is asked when it comes out.
func (c *conn) ResetSession(ctx context.Context) error {
	if c.epoch != c.from.epoch.Load() || !c.socket.silent() {
		return driver.ErrBadConn
	}
	return c.pqConn.ResetSession(ctx)
}

// Close says goodbye if there is still somebody to hear it. That there isn't is no error: a program that
// closes its pool after a failover has nothing to report.
func (c *conn) Close() error {
	c.pqConn.Close()
	return nil
}

// begin forgets what the server said about earlier statements.
func (c *conn) begin() { c.unreplicated = false }

// judge is told the outcome of every statement and returns what the caller gets.
func (c *conn) judge(ctx context.Context, err error) error {
	switch {
	case err == nil || errors.Is(err, io.EOF): // end of rows
		if c.unreplicated && !c.inTx {
			return errUnreplicated
		}
		return err
	case code(err) == readOnlyServer && c.readOnly: // as it was asked to be
		return err
	case code(err) == readOnlyServer || stopping(code(err)) || lost(err) && ctx.Err() == nil:
		c.retire()
	}
	if errors.Is(err, driver.ErrBadConn) && !c.inTx {
		return fmt.Errorf("run statement: %w: the connection was lost", ErrCommitUnknown)
	}
	return err
}

// retire keeps this connection, and all that are older than the news, from being used again.
func (c *conn) retire() { c.from.epoch.CompareAndSwap(c.epoch, c.epoch+1) }

func (c *conn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	c.begin()
	r, err := c.pqConn.ExecContext(ctx, query, args)
	return r, c.judge(ctx, err)
}

func (c *conn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	c.begin()
	r, err := c.pqConn.QueryContext(ctx, query, args)
	return c.rows(ctx, r, err)
}

func (c *conn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	s, err := c.pqConn.PrepareContext(ctx, query)
	if inner, ok := s.(pqStmt); ok && err == nil {
		return &stmt{inner, c}, nil
	}
	return s, err // also COPY, which has a protocol of its own
}

func (c *conn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	t, err := c.pqConn.BeginTx(ctx, opts)
	if code(err) == pqerror.FeatureNotSupported && !opts.ReadOnly {
		// "cannot set transaction read-write mode during recovery"
		c.retire()
		return nil, &connectError{fmt.Errorf("the server is a standby: %w", err), true}
	}
	if err != nil {
		return nil, err // a lost connection too: database/sql may try another one, nothing has happened
	}
	c.inTx, c.readOnly = true, opts.ReadOnly
	return &tx{t, c, ctx}, nil
}

// stmt is a prepared statement on its connection.
type stmt struct {
	pqStmt
	c *conn
}

func (s *stmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	s.c.begin()
	r, err := s.pqStmt.ExecContext(ctx, args)
	return r, s.c.judge(ctx, err)
}

func (s *stmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	s.c.begin()
	r, err := s.pqStmt.QueryContext(ctx, args)
	return s.c.rows(ctx, r, err)
}

// tx is the transaction on its connection.
type tx struct {
	driver.Tx
	c   *conn
	ctx context.Context // its life, by which database/sql rolls it back
}

func (t *tx) Commit() error {
	t.c.begin()
	err := t.Tx.Commit()
	if err != nil {
		err = t.c.judge(t.ctx, err)
	}
	t.c.inTx, t.c.readOnly = false, false
	if err == nil && t.c.unreplicated {
		return errUnreplicated
	}
	return err
}

func (t *tx) Rollback() error {
	err := t.Tx.Rollback()
	t.c.inTx, t.c.readOnly = false, false
	return err
}

// rows are the answer to a query. A statement outside a transaction is committed when
// the last one was sent, so the end may hold bad news.
type rows struct {
	pqRows
	c   *conn
	ctx context.Context
}

func (c *conn) rows(ctx context.Context, r driver.Rows, err error) (driver.Rows, error) {
	if err != nil {
		return nil, c.judge(ctx, err)
	}
	return &rows{r.(pqRows), c, ctx}, nil
}

func (r *rows) Next(values []driver.Value) error { return r.c.judge(r.ctx, r.pqRows.Next(values)) }

func (r *rows) Close() error { return r.c.judge(r.ctx, r.pqRows.Close()) }
