package channel

import (
	"bufio"
	"net"

	"github.com/flynn/noise"
)

// Plain gives a channel without a handshake, as inside TLS.
func Plain(conn net.Conn, limits Limits) *Conn {
	limits, err := limits.withDefaults()
	if err != nil {
		panic(err)
	}
	return &Conn{conn: conn, reader: bufio.NewReaderSize(conn, readAhead), limits: limits, in: plainRecords{}, out: plainRecords{}}
}

// FirstMessage gives a device's first message of Noise with any ephemeral key, whoever has its private part.
func FirstMessage(prologue, public []byte) ([]byte, error) {
	hs, err := newNoise(true, prologue, noise.DHKey{Private: make([]byte, ephemeralSize), Public: public})
	if err != nil {
		return nil, err
	}
	return hs.write(nil)
}
