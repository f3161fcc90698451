package database

import (
	"context"
	"database/sql/driver"
	"errors"
	"io"
	"net"

	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"
)

// ErrCommitUnknown: the connection was lost while a transaction was being committed, or
// while a statement ran that is its own transaction; or the server gave up waiting for its
// synchronous standby. So it may have happened or not, or not for good. The caller finds
// out by reading, or does the same thing again if that is harmless. [Transient] is true of it.
var ErrCommitUnknown = errors.New("outcome of commit unknown: look before repeating")

// code is the SQLSTATE of err, "" if it doesn't come from the server.
func code(err error) pqerror.Code {
	if e := pq.As(err); e != nil {
		return e.Code
	}
	return ""
}

// Transient tells whether err comes from a state that passes: the connection was
// lost or refused, the server is starting, stopping or full, a failover left this
// connection on a read-only server, or the transaction lost against another. Whether
// the act happened is another question: only an error for which repeating is right, a
// lost race, is repeated by [InTx]; whoever repeats for others must be idempotent.
//
// A context that ended is not transient: nobody waits for the answer.
func Transient(err error) bool {
	switch {
	case err == nil:
		return false
	case errors.Is(err, ErrCommitUnknown):
		return true
	}
	var connecting *connectError
	if errors.As(err, &connecting) {
		return connecting.transient
	}
	if c := code(err); c != "" {
		return transientCode(c)
	}
	// Looked at first, because a dial that a context ended is a network error as well.
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	return lost(err)
}

// readOnlyServer: read_only_sql_transaction, what a former primary answers to a write.
const readOnlyServer pqerror.Code = "25006"

// transientCode tells it by the SQLSTATE.
func transientCode(c pqerror.Code) bool {
	return c.Class() == "08" || // connection exception
		conflict(c) || stopping(c) || c == readOnlyServer ||
		c.Class() == "53" // insufficient resources: a full disk, no memory, too many connections
}

// conflict: the server rolled the transaction back because of another one.
func conflict(c pqerror.Code) bool {
	return c == "40001" || c == "40P01" // serialization failure, deadlock
}

// stopping: the server is stopping, has crashed, or is starting (57P01 to 57P03).
func stopping(c pqerror.Code) bool {
	return c == "57P01" || c == "57P02" || c == "57P03"
}

// lost: the connection broke or could not be made.
func lost(err error) bool {
	// Not net.Error: syscall.Errno is one too, so that a missing password file would
	// count as a lost connection.
	var network *net.OpError
	return errors.Is(err, driver.ErrBadConn) || errors.Is(err, io.EOF) ||
		errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &network)
}

// UniqueViolation tells whether err says that a row with such a key exists already,
// and by which constraint.
func UniqueViolation(err error) (constraint string, ok bool) {
	if e := pq.As(err, pqerror.UniqueViolation); e != nil {
		return e.Constraint, true
	}
	return "", false
}
