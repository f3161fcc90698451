package deviceservice_test

import (
	"context"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/devicekeys/devicekeys/channel"
	"github.com/devicekeys/devicekeys/deviceservice"
	"github.com/devicekeys/devicekeys/deviceservice/client"
	"github.com/devicekeys/devicekeys/provisioning/records"
)

// from dials the service from an address of loopback: each is a source of its own.
func (p *plant) from(address string) net.Conn {
	p.t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}, Timeout: bound}
	c, err := d.DialContext(p.t.Context(), "tcp", p.addr)
	must(p.t, err)
	p.t.Cleanup(func() { _ = c.Close() })
	return c
}

// TestSilentFlood: connections that say nothing, from one source, are gone long before the handshake's limit, and none of
// them keeps a device out; the log of what was refused stays quiet.
func TestSilentFlood(t *testing.T) {
	t.Parallel()
	const silent = 60
	for name, change := range map[string]func(*deviceservice.Options){
		"by the rate": func(o *deviceservice.Options) {
			o.Channel.Limiter = channel.NewLimiter(channel.Rate{PerSecond: 1e-3, Burst: 1}, channel.Rate{})
			o.MaxPerSource, o.MaxHandshakes = silent, silent+1
		},
		"by the places of a source": func(o *deviceservice.Options) { o.MaxPerSource, o.MaxHandshakes = 1, 2 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlant(t, func(o *deviceservice.Options) {
				o.Channel.Limits.Handshake = bound
				change(o)
			})
			p.records.Put(1, 1, records.Shipped)
			d := p.device(1, 1)
			gone := make(chan error, silent)
			began := time.Now()
			for range silent {
				c := p.from("127.0.0.1")
				go func() {
					_ = c.SetReadDeadline(began.Add(bound / 3)) // a third of what each would have without the limit
					_, err := c.Read(make([]byte, 1))
					gone <- err
				}()
			}
			c, err := client.Open(t.Context(), p.from("127.0.0.2"), d)
			must(t, err)
			if _, err := c.Echo(t.Context(), nil); err != nil {
				t.Error(err)
			}
			stay := 0
			for range silent {
				if err := <-gone; err != io.EOF {
					stay++
				}
			}
			if stay != 1 { // the one that the limits allow
				t.Errorf("%d silent connections stay, of %d, for %s", stay, silent, time.Since(began))
			}
		})
	}
}

// TestKnocks: what is no device is told from devices that are refused.
func TestKnocks(t *testing.T) {
	t.Parallel()
	p := newPlant(t, func(o *deviceservice.Options) {
		o.Channel.Limiter = channel.NewLimiter(channel.Rate{PerSecond: 1e-3, Burst: 2}, channel.Rate{})
	})
	for _, c := range []struct {
		from, says string
		reason     deviceservice.Reason
	}{
		{"127.0.0.1", "", deviceservice.ReasonNoHello},
		{"127.0.0.1", "\x00\x30\x01", deviceservice.ReasonNoHello},
		{"127.0.0.1", "", deviceservice.ReasonLimited},
		{"127.0.0.1", "\x00\x30\x01", deviceservice.ReasonLimited},
		{"127.0.0.2", "GET / HTTP/1.1\r\n\r\n", deviceservice.ReasonForm},
	} {
		before := p.metric("devicekeys_service_handshakes_total", "outcome="+string(c.reason))
		conn := p.from(c.from)
		_, err := conn.Write([]byte(c.says))
		must(t, err)
		must(t, conn.Close())
		await(t, c.says+" is counted as "+string(c.reason), func() bool {
			return p.metric("devicekeys_service_handshakes_total", "outcome="+string(c.reason)) == before+1
		})
	}
	if n := p.metric("devicekeys_service_handshakes_total"); n != 5 {
		t.Errorf("%g handshakes were counted", n)
	}
}

// TestGate: whatever comes and goes, nothing is above its limit, and nothing stays counted.
func TestGate(t *testing.T) {
	t.Parallel()
	var all []netip.Addr
	for _, a := range []string{"192.0.2.1", "192.0.2.2", "::ffff:192.0.2.1", "2001:db8:0:1::1", "2001:db8:0:1::2", "2001:db8:0:2::1", "2001:db8:1::1"} {
		all = append(all, netip.MustParseAddr(a))
	}
	all = append(all, netip.Addr{})
	rapid.Check(t, func(t *rapid.T) {
		const most, ofSource, channels = 20, 2, 5
		g := deviceservice.NewGate(most, ofSource, channels)
		var in []netip.Addr
		open := 0
		t.Repeat(map[string]func(*rapid.T){
			"enter": func(t *rapid.T) {
				a := rapid.SampledFrom(all).Draw(t, "source")
				near, far := 0, 0
				an, af := channel.Networks(a)
				for _, b := range in {
					bn, bf := channel.Networks(b)
					if an == bn {
						near++
					}
					if af.IsValid() && af == bf {
						far++
					}
				}
				allowed := len(in) < most && near < ofSource && far < channel.SiteSources*ofSource && open < channels
				if took := g.Enter(a); took != allowed {
					t.Fatalf("%s with %d in, %d of it, %d of its site, %d channels: %v", a, len(in), near, far, open, took)
				}
				if allowed {
					in = append(in, a)
				}
			},
			"leave": func(t *rapid.T) {
				if len(in) > 0 {
					i := rapid.IntRange(0, len(in)-1).Draw(t, "which")
					g.Leave(in[i])
					in = append(in[:i], in[i+1:]...)
				}
			},
			"open": func(t *rapid.T) {
				if g.Open() != (open < channels) {
					t.Fatalf("%d channels", open)
				}
				open = min(open+1, channels)
			},
			"close": func(*rapid.T) {
				if open > 0 {
					g.Close()
					open--
				}
			},
		})
		for _, a := range in {
			g.Leave(a)
		}
		if n := g.Sources(); n != 0 {
			t.Fatalf("%d sources stay", n)
		}
	})
	// Nine /64 of one /48 are more than the /48 may have.
	g, n := deviceservice.NewGate(100, 2, 1), 0
	for i := range 12 {
		for range 2 {
			a := netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0, 0, 0, byte(i), 15: 1})
			if g.Enter(a) {
				n++
			}
		}
	}
	if n != 2*channel.SiteSources {
		t.Errorf("%d connections of one /48", n)
	}
}

// TestPanic: a fault in the handling of one connection ends that one.
func TestPanic(t *testing.T) {
	t.Parallel()
	log := &lines{}
	p := newPlant(t, func(o *deviceservice.Options) {
		o.Log = log.logger()
		o.KeysAtOnce = 1
		o.Handlers = map[string]deviceservice.Handler{"faulty": deviceservice.HandlerFunc(
			func(context.Context, deviceservice.Caller, []byte) ([]byte, error) { panic("the device said 12345") })}
	})
	p.records.Put(1, 1, records.Shipped)
	p.records.Put(2, 1, records.Shipped)
	stays := p.mustDial(p.device(1, 1))
	if _, err := p.mustDial(p.device(2, 1)).Call(t.Context(), "faulty", nil); err == nil {
		t.Error("a fault is answered")
	}
	p.keys.panics.Store(true)
	if _, err := p.dial(p.device(2, 1)); err == nil {
		t.Error("let in by a fault")
	}
	p.keys.panics.Store(false)
	p.mustDial(p.device(2, 1)) // the one turn at the HSM was given back
	if _, err := stays.Echo(t.Context(), nil); err != nil {
		t.Errorf("another device's fault ends a channel: %v", err)
	}
	await(t, "both are counted", func() bool { return p.metric("devicekeys_service_panics_total") == 2 })
	await(t, "two channels are open", func() bool { return p.service.Sessions() == 2 && p.metric("devicekeys_service_channels") == 2 })
	if text := log.String(); log.has("12345") || !log.has("TestPanic") || !log.has("panic") && !log.has("fault") {
		t.Errorf("the log of a fault: %s", text)
	}
}
