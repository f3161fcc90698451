package database

import (
	"context"
	"database/sql/driver"
	"errors"
	"slices"
	"sync/atomic"

	"github.com/lib/pq"
)

// connector makes connections by lib/pq and looks after them as conn says.
type connector struct {
	*pq.Connector

	// epoch grows when a server turned out to be gone or read-only. What was
	// connected in an earlier one is replaced when it comes out of the pool, so that
	// after a failover one caller learns it the hard way and not one a connection.
	epoch atomic.Int64
}

// Connect is asked by database/sql.
func (c *connector) Connect(ctx context.Context) (driver.Conn, error) {
	s := new(socket)
	epoch := c.epoch.Load()
	inner, err := c.Connector.Connect(s.in(ctx))
	if err != nil {
		return nil, &connectError{err, ctx.Err() == nil && passes(err)}
	}
	return newConn(c, inner.(pqConn), s, epoch), nil
}

// connectError is a failure to connect: to the one host, or to each of several.
type connectError struct {
	err       error
	transient bool // see passes
}

func (e *connectError) Error() string { return e.err.Error() }
func (e *connectError) Unwrap() error { return e.err }

// passes tells whether it may be otherwise soon at one host at least. Several hosts fail for
// several reasons at once: in the middle of a failover one refuses, the next is starting,
// the third still a standby, and lib/pq joins their errors.
func passes(err error) bool {
	return anyHost(err, func(err error) bool {
		if c := code(err); c != "" {
			return transientCode(c)
		}
		return wrongSession(err) || lost(err)
	})
}

// anyHost asks of each host's error, or of the only one.
func anyHost(err error, is func(error) bool) bool {
	for e := err; e != nil; e = errors.Unwrap(e) {
		if joined, ok := e.(interface{ Unwrap() []error }); ok {
			return slices.ContainsFunc(joined.Unwrap(), is)
		}
	}
	return is(err)
}

// anyWrongSession tells it of an error of Connect.
func anyWrongSession(err error) bool {
	var e *connectError
	return errors.As(err, &e) && anyHost(e.err, wrongSession)
}

// wrongSession: the server answered, but is not the one that target_session_attrs asks for.
// lib/pq has no type for it; a test holds these texts against real servers.
func wrongSession(err error) bool {
	for inner := err; inner != nil; inner = errors.Unwrap(inner) {
		err = inner
	}
	switch err.Error() {
	case "session is read-only", "session is not read-only", "server is in hot standby mode", "server is not in hot standby mode":
		return true
	}
	return false
}
