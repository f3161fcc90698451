package database

import (
	"errors"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// control bounds how long sent bytes may stay unacknowledged. Keep-alive says nothing
// about those, and the kernel's own patience is a quarter of an hour.
func control(network, _ string, raw syscall.RawConn) error {
	if !strings.HasPrefix(network, "tcp") {
		return nil
	}
	var failed error
	err := raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(peerTimeout.Milliseconds()))
	})
	return errors.Join(err, failed)
}

// silent tells whether there is nothing to read, the end of the stream included.
func silent(raw syscall.RawConn) bool {
	var err error
	tried := raw.Read(func(fd uintptr) bool {
		_, _, err = unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
		return true // once: no waiting for more
	})
	return tried == nil && (errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR))
}
