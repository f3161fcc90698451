package channel

import (
	"bufio"
	"net"
)

// Plain gives a channel without a handshake, as inside TLS.
func Plain(conn net.Conn, message int) *Conn {
	limits, err := Limits{Message: message}.withDefaults()
	if err != nil {
		panic(err)
	}
	return &Conn{conn: conn, reader: bufio.NewReaderSize(conn, readAhead), limits: limits, in: plainRecords{}, out: plainRecords{}}
}
