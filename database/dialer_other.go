//go:build !linux

package database

import "syscall"

// control does nothing where the system has no bound for unacknowledged bytes:
// there a dead peer is noticed as late as the kernel likes.
func control(string, string, syscall.RawConn) error { return nil }

// silent can't tell here: a connection that the server closed is noticed by the
// statement that is sent on it, which then fails as a lost one.
func silent(syscall.RawConn) bool { return true }
