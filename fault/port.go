package fault

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// port is a TCP port of the loopback address that stays this process's while
// nobody listens at it: connections are refused then, and no other program can get it.
type port struct {
	number int
	hold   int // a socket that is bound and never listens
}

func newPort() (*port, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	unix.CloseOnExec(fd)
	p := &port{hold: fd}
	if err := p.bind(); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return p, nil
}

func (p *port) bind() error {
	// The listener shares the port with the socket that holds it.
	if err := unix.SetsockoptInt(p.hold, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	if err := unix.Bind(p.hold, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return os.NewSyscallError("bind", err)
	}
	at, err := unix.Getsockname(p.hold)
	if err != nil {
		return os.NewSyscallError("getsockname", err)
	}
	in4, ok := at.(*unix.SockaddrInet4)
	if !ok {
		return fmt.Errorf("the socket is bound to a %T", at)
	}
	p.number = in4.Port
	return nil
}

func (p *port) address() string { return fmt.Sprintf("127.0.0.1:%d", p.number) }

// listen listens at the port; it is refused again when the listener is closed.
func (p *port) listen() (net.Listener, error) {
	share := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var failed error
		err := raw.Control(func(fd uintptr) {
			failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
		})
		return errors.Join(err, failed)
	}}
	return share.Listen(context.Background(), "tcp", p.address())
}

func (p *port) close() error { return os.NewSyscallError("close", unix.Close(p.hold)) }
