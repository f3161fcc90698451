package database

import (
	"context"
	"net"
	"syscall"
	"time"
)

// socket is the network connection beneath a connection of lib/pq, which doesn't show it.
// The dialer leaves it here, in the context of the attempt to connect; with several
// hosts the last one dialled is the one.
type socket struct {
	raw syscall.RawConn
	net net.Conn
}

type socketKey struct{}

// in gives a context in which the dialer finds s.
func (s *socket) in(ctx context.Context) context.Context {
	return context.WithValue(ctx, socketKey{}, s)
}

// leaveSocket is the dialer's part.
func leaveSocket(ctx context.Context, c net.Conn) {
	s, ok := ctx.Value(socketKey{}).(*socket)
	if !ok {
		return // a connection that only cancels a query
	}
	s.net = c
	if sc, ok := c.(syscall.Conn); ok {
		s.raw, _ = sc.SyscallConn() // fails only on a closed one, which the next use tells
	}
}

// silent tells whether the server has sent nothing since the last answer was read. A server
// speaks unasked to say goodbye (administrator command, then end of stream), or that a
// setting changed, for which a new connection is no high price. It costs one
// system call, a hundredth of a statement.
func (s *socket) silent() bool { return s.raw == nil || silent(s.raw) }

// interrupt ends a wait for the server, this one and every later one. It may be called while another
// goroutine reads, and after the connection was closed.
func (s *socket) interrupt() {
	if s.net != nil {
		_ = s.net.SetDeadline(time.Unix(1, 0)) // fails on a closed one, where nobody waits
	}
}
