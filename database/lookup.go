package database

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
)

// Lookup is a prepared query that reads a few rows by a key, for what a program does
// thousands of times a second. It takes a connection out of the pool as every statement does, and
// then speaks to lib/pq itself: database/sql's and lib/pq's goroutines for each query, one
// apiece to wait for the end of its context, the copies of values and their conversions are what a
// lookup costs a client most. It is safe for concurrent use.
//
// Its waits are bounded like all others, and by the context: waiting for a connection as
// database/sql does it; waiting for the server, by a deadline on the socket that the
// end of the context sets. The difference is that the server isn't asked to cancel what it does. A
// lookup's statement is over before such a request arrives, or it hangs, and then StatementTimeout ends it; so use it
// for nothing that waits for locks or changes anything. The connection is lost with it, as it is when lib/pq cancels.
type Lookup struct {
	db    *sql.DB
	query string
}

// NewLookup makes one, and prepares the query on a connection to see that the server takes it.
// It needs no closing: what is prepared ends with the connections.
func NewLookup(ctx context.Context, db *sql.DB, query string) (*Lookup, error) {
	l := &Lookup{db, query}
	err := l.on(ctx, func(c *conn) error {
		_, err := c.lookup(ctx, query)
		return err
	})
	if err != nil {
		return nil, err
	}
	return l, nil
}

// Rows runs the query, with int64, []byte, string, bool or float64 as its arguments, and calls row with every row's values: int64,
// []byte or nil for the types bigint, integer, smallint, bytea and null, and what lib/pq makes of others. They hold until row returns; byte strings
// that are kept are copied. An error of row ends the rows and is returned.
//
// Errors are as those of other statements ([Transient]); where the context ended it is the context's.
func (l *Lookup) Rows(ctx context.Context, row func(values []driver.Value) error, args ...any) error {
	return l.on(ctx, func(c *conn) error { return c.rowsOf(ctx, l.query, row, args) })
}

// on runs f with a connection of the pool.
func (l *Lookup) on(ctx context.Context, f func(*conn) error) error {
	pooled, err := l.db.Conn(ctx)
	if err != nil {
		return err
	}
	defer pooled.Close() // it fails only if the connection turned out to be bad and isn't in the pool any more
	return pooled.Raw(func(inner any) error {
		c, ok := inner.(*conn)
		if !ok {
			return fmt.Errorf("run lookup: the pool was not opened by this package: its connections are %T", inner)
		}
		return f(c)
	})
}

// maxLookups bounds the lookups prepared on one connection: a program has a handful.
const maxLookups = 64

// lookup gives a query prepared on this connection.
func (c *conn) lookup(ctx context.Context, query string) (pqStmt, error) {
	if st, ok := c.lookups[query]; ok {
		return st, nil
	}
	if len(c.lookups) >= maxLookups {
		return nil, fmt.Errorf("prepare lookup: the connection has %d already: make each Lookup once", maxLookups)
	}
	st, err := c.pqConn.PrepareContext(ctx, query)
	if err != nil {
		if err = c.judge(ctx, err); ctx.Err() != nil {
			return nil, ctx.Err() // lib/pq has the server cancel it, and the connection is lost
		}
		return nil, err
	}
	inner, ok := st.(pqStmt)
	if !ok {
		return nil, errors.Join(errors.New("prepare lookup: it is no query"), st.Close())
	}
	if c.lookups == nil {
		c.lookups = map[string]pqStmt{}
	}
	c.lookups[query] = inner
	return inner, nil
}

func (c *conn) rowsOf(ctx context.Context, query string, row func([]driver.Value) error, args []any) (err error) {
	st, err := c.lookup(ctx, query)
	if err != nil {
		return err
	}
	named := make([]driver.NamedValue, len(args))
	for i, a := range args {
		named[i] = driver.NamedValue{Ordinal: i + 1, Value: a}
	}
	stop := context.AfterFunc(ctx, c.socket.interrupt)
	defer func() {
		if stop() {
			return
		}
		// The socket has a deadline in the past, or gets one any moment.
		c.interrupted = true
		if err != nil {
			err = ctx.Err()
		}
	}()
	c.begin()
	// A context without an end: its end is ours to watch.
	r, err := st.QueryContext(context.WithoutCancel(ctx), named)
	if err != nil {
		return c.judge(ctx, err)
	}
	got := r.(pqRows)
	if n := len(got.Columns()); cap(c.values) < n {
		c.values = make([]driver.Value, n)
	}
	values := c.values[:len(got.Columns())]
	defer clear(values) // what they held isn't kept with the connection
	for {
		switch err := c.judge(ctx, got.Next(values)); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if err := row(values); err != nil {
			return errors.Join(err, got.Close()) // reads the rest, so that the connection can serve again
		}
	}
}
