package channel

import (
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/flynn/noise"
)

// Plain gives a channel without a handshake, as inside TLS.
func Plain(conn net.Conn, limits Limits) *Conn {
	limits, err := limits.withDefaults()
	if err != nil {
		panic(err)
	}
	return &Conn{conn: conn, stream: newStream(conn), limits: limits, in: plainRecords{}, out: plainRecords{}}
}

// foreign is an ephemeral key without its private half.
type foreign struct {
	ephemeral
	public []byte
}

func (f foreign) GenerateKeypair(io.Reader) (noise.DHKey, error) {
	return noise.DHKey{Public: f.public}, nil
}

// FirstMessage gives a device's first message of Noise with any ephemeral key, whoever has its private part.
func FirstMessage(prologue, public []byte) ([]byte, error) {
	hs, err := newNoise(true, prologue, foreign{public: public})
	if err != nil {
		return nil, err
	}
	return hs.write(nil)
}

// Source takes a handshake of an address into account.
func (l *Limiter) Source(a netip.Addr) error { return l.source(a) }

// Regreet reads a greeting and writes what it read.
func Regreet(b []byte) ([]byte, error) {
	g, err := parseGreeting(b)
	if err != nil {
		return nil, err
	}
	return g.encode(), nil
}

// NewGreeting writes a greeting.
func NewGreeting(at time.Time) []byte { return newGreeting(at).encode() }

// ServiceProof is what the service's MAC in SuiteTLS is made over.
func ServiceProof(hello, exporter []byte) []byte { return proofMessage(labelService, hello, exporter) }

// Exported gives the exporter of a TLS connection.
var Exported = exported
