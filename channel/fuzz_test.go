package channel_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"testing"
	"time"

	"github.com/devicekeys/devicekeys/channel"
	"github.com/devicekeys/devicekeys/identity"
)

// FuzzHello: what reads encodes to the same bytes.
func FuzzHello(f *testing.F) {
	for _, suite := range []channel.Suite{channel.SuiteNoise, channel.SuiteTLS, channel.SuiteCertificate} {
		b, err := hello(f, suite, 7).Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)-1])
	}
	f.Add([]byte{0x88})
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := channel.ParseHello(b)
		if err != nil {
			return
		}
		if again, err := h.Encode(); err != nil || !bytes.Equal(again, b) {
			t.Errorf("%v: %x and %x", err, b, again)
		}
	})
}

// endless is a connection that brings some bytes and then ends.
type endless struct {
	net.Conn
	in *bytes.Reader
}

func (c endless) Read(b []byte) (int, error)         { return c.in.Read(b) }
func (c endless) Write(b []byte) (int, error)        { return len(b), nil }
func (c endless) SetDeadline(time.Time) error        { return nil }
func (c endless) SetReadDeadline(time.Time) error    { return nil }
func (c endless) SetWriteDeadline(t time.Time) error { return nil }
func (c endless) RemoteAddr() net.Addr               { return nil }
func (c endless) Close() error                       { return nil }

func frames(bodies ...[]byte) []byte {
	var out []byte
	for _, b := range bodies {
		out = append(binary.BigEndian.AppendUint16(out, uint16(len(b))), b...)
	}
	return out
}

// FuzzServer: no bytes of a stranger open a channel, or keep a key.
func FuzzServer(f *testing.F) {
	h, err := hello(f, channel.SuiteNoise, 1).Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(frames(append([]byte{1}, h...), append([]byte{2}, make([]byte, 48)...)))
	f.Add(frames(append([]byte{1}, h...)))
	f.Add([]byte{0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0})
	f.Add(frames([]byte{3, 1}, nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		m := &maker{}
		s := m.config()
		if _, err := channel.Server(context.Background(), endless{in: bytes.NewReader(b)}, s); err == nil {
			t.Error("a channel was opened")
		}
		if m.open.Load() != 0 {
			t.Error("a key was kept")
		}
	})
}

// FuzzClient: no bytes of a stranger open a channel with a device.
func FuzzClient(f *testing.F) {
	f.Add(frames(append([]byte{2}, make([]byte, 80)...)))
	f.Add(frames([]byte{3, 15}))
	f.Add(frames([]byte{3, 0}))
	f.Add([]byte{0})
	f.Fuzz(func(t *testing.T, b []byte) {
		h := channel.Hello{Suite: channel.SuiteNoise, Realm: identity.Development, Key: hello(t, channel.SuiteNoise, 1).Key, Identity: imei(t, 1), Generation: 1}
		if _, err := channel.Client(context.Background(), endless{in: bytes.NewReader(b)}, channel.DeviceConfig{Hello: h, MAC: keyOf(h.Identity).MAC}); err == nil {
			t.Error("a channel was opened")
		}
	})
}

// FuzzReceive: what a peer that has the key sends is received as a message or refused, whatever it is.
func FuzzReceive(f *testing.F) {
	f.Add(frames([]byte{2, 'a'}, []byte{3}))
	f.Add(frames([]byte{1, 'a'}, []byte{2, 'b'}))
	f.Add(frames([]byte{1}, []byte{3, 1}, []byte{9}))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := channel.Plain(endless{in: bytes.NewReader(b)}, channel.Limits{Message: 1000})
		for range len(b) + 1 {
			m, err := c.Receive(context.Background())
			if err != nil {
				if again, e := c.Receive(context.Background()); again != nil || e != err {
					t.Errorf("after %v comes %v", err, e)
				}
				return
			}
			if len(m) > 1000 {
				t.Errorf("a message of %d bytes", len(m))
			}
		}
		t.Error("there is no end")
	})
}
