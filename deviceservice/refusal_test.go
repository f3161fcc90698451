package deviceservice_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/devicekeys/devicekeys/channel"
	"github.com/devicekeys/devicekeys/deviceservice"
	"github.com/devicekeys/devicekeys/deviceservice/client"
	"github.com/devicekeys/devicekeys/deviceservice/issued/issuedtest"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning/records"
)

// tap is a connection that notes what the service sends, and how.
type tap struct {
	net.Conn
	mu   sync.Mutex
	got  int
	last string // how it ended
}

func (c *tap) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.got += n
	if err != nil && c.last == "" {
		c.last = "closed"
		if !errors.Is(err, io.EOF) {
			c.last = "cut"
		}
	}
	return n, err
}

// shape is what a stranger sees of a refusal.
func (c *tap) shape() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return fmt.Sprintf("%d bytes, then %s", c.got, c.last)
}

// try opens a channel and tells what the service's side looked like, and how long it took.
func (p *plant) try(d channel.DeviceConfig) (shape string, took time.Duration, err error) {
	p.t.Helper()
	conn, err := net.Dial("tcp", p.addr)
	must(p.t, err)
	defer conn.Close()
	must(p.t, conn.SetDeadline(time.Now().Add(bound)))
	c := &tap{Conn: conn}
	began := time.Now()
	ctx, cancel := context.WithTimeout(p.t.Context(), bound)
	defer cancel()
	_, err = client.Open(ctx, c, d)
	took = time.Since(began)
	if err != nil {
		must(p.t, conn.(*net.TCPConn).CloseWrite()) // or the service waits for the device's confirmation
		_, _ = io.Copy(io.Discard, c)               // until the service's end
	}
	return c.shape(), took, err
}

// TestRefusedAlike: for whatever reason a peer is refused, it sees the same, and it is told nothing; the metrics know.
func TestRefusedAlike(t *testing.T) {
	t.Parallel()
	p := newPlant(t, nil)
	number := 0
	// put gives a device that is in the field, and its number.
	put := func(state records.State) (int, channel.DeviceConfig) {
		number++
		p.records.Put(number, 1, state)
		return number, p.device(number, 1)
	}
	wrong := func(ctx context.Context, msg []byte) ([]byte, error) {
		m := hmac.New(sha256.New, []byte("another key"))
		m.Write(msg)
		return m.Sum(nil), nil
	}
	_, in := put(records.Shipped)
	if _, _, err := p.try(in); err != nil { // also the first time that the pace knows
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		reason deviceservice.Reason
		device func() channel.DeviceConfig
	}{
		{"wrong key", deviceservice.ReasonProof, func() channel.DeviceConfig {
			_, d := put(records.Shipped)
			d.MAC = wrong
			return d
		}},
		{"never issued", deviceservice.ReasonUnknown, func() channel.DeviceConfig { return p.device(9000, 1) }},
		{"never issued, wrong key", deviceservice.ReasonUnknown, func() channel.DeviceConfig {
			d := p.device(9001, 1)
			d.MAC = wrong
			return d
		}},
		{"on the line", deviceservice.ReasonUnknown, func() channel.DeviceConfig { _, d := put(records.Restored); return d }},
		{"burned", deviceservice.ReasonInactive, func() channel.DeviceConfig { _, d := put(records.Burned); return d }},
		{"scrapped", deviceservice.ReasonInactive, func() channel.DeviceConfig { _, d := put(records.Scrapped); return d }},
		{"quarantined", deviceservice.ReasonInactive, func() channel.DeviceConfig { _, d := put(records.Quarantined); return d }},
		{"superseded", deviceservice.ReasonSuperseded, func() channel.DeviceConfig {
			n, d := put(records.Superseded)
			p.records.Put(n, 2, records.Shipped)
			return d
		}},
		{"generation to come", deviceservice.ReasonAhead, func() channel.DeviceConfig {
			n, _ := put(records.Shipped)
			return p.device(n, 2)
		}},
		{"another's identity", deviceservice.ReasonProof, func() channel.DeviceConfig {
			n, d := put(records.Shipped)
			_, other := put(records.Shipped)
			d.Hello.Identity = issuedtest.IMEI(t, n)
			d.MAC = other.MAC
			return d
		}},
		{"master key version that it doesn't have", deviceservice.ReasonKey, func() channel.DeviceConfig {
			_, d := put(records.Shipped)
			d.Hello.Key.Version = 2
			return d
		}},
		{"KDF that it doesn't have", deviceservice.ReasonKey, func() channel.DeviceConfig {
			_, d := put(records.Shipped)
			d.Hello.Key.KDF = 2
			return d
		}},
		{"key of another purpose", deviceservice.ReasonKey, func() channel.DeviceConfig {
			_, d := put(records.Shipped)
			d.Hello.Key.Name = "charge1" // as long as "channel", so that the frames are too
			return d
		}},
		{"way that is not its own", deviceservice.ReasonWay, func() channel.DeviceConfig {
			_, d := put(records.Shipped)
			d.Hello.Key = keypackage.KeyID{Name: "channel"}
			return d
		}},
		{"HSM fails", deviceservice.ReasonHSM, func() channel.DeviceConfig {
			_, d := put(records.Shipped)
			p.keys.fail.Store(true)
			return d
		}},
	} {
		d := c.device()
		before := p.metric("devicekeys_service_handshakes_total", "outcome="+string(c.reason))
		shape, took, err := p.try(d)
		p.keys.fail.Store(false)
		if err == nil {
			t.Errorf("%s: let in", c.name)
			continue
		}
		t.Logf("%-40s %s, after %s", c.name, shape, took.Round(time.Microsecond))
		want, _, wantErr := p.try(channel.DeviceConfig{Hello: in.Hello, MAC: wrong})
		if wantErr == nil {
			t.Fatal("a device is let in with a wrong key")
		}
		if shape != want {
			t.Errorf("%s: a stranger sees %s, with a wrong key %s", c.name, shape, want)
		}
		if err.Error() != wantErr.Error() {
			t.Errorf("%s: a stranger is told %q, with a wrong key %q", c.name, err, wantErr)
		}
		for _, word := range []string{string(c.reason), "scrap", "quarant", "issued"} {
			if c.reason != deviceservice.ReasonProof && c.reason != deviceservice.ReasonKey && strings.Contains(err.Error(), word) {
				t.Errorf("%s: a stranger is told %q", c.name, err)
			}
		}
		counted := func() float64 {
			n := p.metric("devicekeys_service_handshakes_total", "outcome="+string(c.reason)) - before
			if c.reason == deviceservice.ReasonProof {
				n-- // the wrong key that it was compared with
			}
			return n
		}
		await(t, c.name+" is counted as "+string(c.reason), func() bool { return counted() == 1 })
	}
	if _, _, err := p.try(in); err != nil {
		t.Errorf("after all of them, a device in the field gets %v", err)
	}
}

// TestFlood: strangers cost the HSM nothing, and a device gets through meanwhile.
func TestFlood(t *testing.T) {
	t.Parallel()
	p := newPlant(t, nil)
	p.records.Put(1, 1, records.Shipped)
	in, out := p.device(1, 1), p.device(2, 1)
	var group sync.WaitGroup
	for n := range 8 {
		group.Go(func() {
			d := out
			for i := range 25 {
				d.Hello.Identity = issuedtest.IMEI(t, 1000+25*n+i)
				d.Hello.Generation = identity.Generation(1 + i%3)
				if _, _, err := p.try(d); err == nil {
					t.Error("a stranger is let in")
				}
			}
		})
	}
	for range 5 {
		if _, _, err := p.try(in); err != nil {
			t.Errorf("in the flood a device gets %v", err)
		}
	}
	group.Wait()
	if n := p.metric("devicekeys_service_keys_total"); n != 5 {
		t.Errorf("%g keys were brought into the HSM for 5 devices", n)
	}
	if n := p.metric("devicekeys_service_handshakes_total", "outcome=unknown"); n != 200 {
		t.Errorf("%g strangers were counted, want 200", n)
	}
}
