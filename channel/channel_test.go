package channel_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"io"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/devicekeys/devicekeys/channel"
	"github.com/devicekeys/devicekeys/identity"
)

// suites gives a device and a service for each suite, that know each other.
func suites(t testing.TB) map[channel.Suite]func() (channel.DeviceConfig, channel.ServiceConfig, *maker) {
	service, devices := newAuthority(t, "services"), newAuthority(t, "devices")
	server := service.leaf("service.example")
	cert := devices.leaf("")
	withTLS := func(suite channel.Suite) (channel.DeviceConfig, channel.ServiceConfig, *maker) {
		m := &maker{}
		s, d := m.config(), device(t, suite, 1)
		s.TLS = serverTLS(server, devices)
		s.AdmitCertificate = m.certificate
		d.TLS = clientTLS(service)
		if suite == channel.SuiteCertificate {
			d.MAC, d.TLS.Certificates = nil, append(d.TLS.Certificates, cert)
		}
		return d, s, m
	}
	return map[channel.Suite]func() (channel.DeviceConfig, channel.ServiceConfig, *maker){
		channel.SuiteNoise: func() (channel.DeviceConfig, channel.ServiceConfig, *maker) {
			m := &maker{}
			return device(t, channel.SuiteNoise, 1), m.config(), m
		},
		channel.SuiteTLS:         func() (channel.DeviceConfig, channel.ServiceConfig, *maker) { return withTLS(channel.SuiteTLS) },
		channel.SuiteCertificate: func() (channel.DeviceConfig, channel.ServiceConfig, *maker) { return withTLS(channel.SuiteCertificate) },
	}
}

// TestChannel: of each suite, messages of every size go both ways, and each end is told.
func TestChannel(t *testing.T) {
	t.Parallel()
	for suite, make2 := range suites(t) {
		t.Run(suite.String(), func(t *testing.T) {
			t.Parallel()
			d, s, m := make2()
			a, b := opened(t, d, s)
			ctx := t.Context()
			if !bytes.Equal(a.Binding(), b.Binding()) || len(a.Binding()) != 32 || a.SessionID() != b.SessionID() || !a.ServiceTime().Equal(b.ServiceTime()) {
				t.Error("the ends disagree on what binds them")
			}
			if b.Hello() != d.Hello {
				t.Errorf("the service heard %+v", b.Hello())
			}
			if m.open.Load() != 0 {
				t.Errorf("%d keys were not given back", m.open.Load())
			}
			for _, n := range []int{0, 1, 16<<10 - 1, 16 << 10, 16<<10 + 1, 200_000, 1 << 20} {
				message := make([]byte, n)
				rand.Read(message)
				for from, to := range map[*channel.Conn]*channel.Conn{a: b, b: a} {
					sent := make(chan error, 1)
					go func() { sent <- from.Send(ctx, message) }()
					got, err := to.Receive(ctx)
					if err != nil || !bytes.Equal(got, message) {
						t.Fatalf("a message of %d bytes: %d came, %v", n, len(got), err)
					}
					must(t, <-sent)
				}
			}
			if err := a.Send(ctx, make([]byte, 1<<20+1)); !errors.Is(err, channel.ErrTooLarge) {
				t.Errorf("too long a message: %v", err)
			}
			must(t, a.CloseWrite(ctx))
			must(t, a.CloseWrite(ctx))
			if err := a.Send(ctx, nil); !errors.Is(err, channel.ErrEnded) {
				t.Errorf("sent after the end: %v", err)
			}
			if _, err := b.Receive(ctx); err != io.EOF {
				t.Errorf("the end: %v", err)
			}
			// The other direction goes on.
			must(t, b.Send(ctx, []byte("still here")))
			if got, err := a.Receive(ctx); err != nil || string(got) != "still here" {
				t.Errorf("%q, %v", got, err)
			}
			must(t, b.Close())
			if _, err := a.Receive(ctx); !errors.Is(err, channel.ErrTruncated) {
				t.Errorf("a cut: %v", err)
			}
		})
	}
}

// refusals is what a device is told, by suite, whatever the reason.
var refusals = map[channel.Suite]string{
	channel.SuiteNoise:       "open channel: " + channel.ErrRefused.Error(),
	channel.SuiteTLS:         "open channel: " + channel.ErrRefused.Error() + ": the service ended the connection",
	channel.SuiteCertificate: "open channel: " + channel.ErrRefused.Error() + ": the service ended the connection",
}

// TestRefused: whoever isn't let in sees the same, whatever the reason, and the service has it.
func TestRefused(t *testing.T) {
	t.Parallel()
	for suite, make2 := range suites(t) {
		for name, spoil := range map[string]func(*channel.DeviceConfig, *channel.ServiceConfig, *maker){
			"wrong key": func(d *channel.DeviceConfig, _ *channel.ServiceConfig, _ *maker) {
				if d.MAC = software("another").MAC; suite == channel.SuiteCertificate {
					d.TLS.Certificates = []tls.Certificate{newAuthority(t, "devices").leaf("")}
				}
			},
			"unknown": func(d *channel.DeviceConfig, _ *channel.ServiceConfig, _ *maker) {
				d.Hello.Identity = imei(t, known+1)
				d.MAC = keyOf(d.Hello.Identity).MAC
			},
			"another's identity":  func(d *channel.DeviceConfig, _ *channel.ServiceConfig, _ *maker) { d.Hello.Identity = imei(t, 2) },
			"a generation before": func(d *channel.DeviceConfig, _ *channel.ServiceConfig, _ *maker) { d.Hello.Generation = 2 },
			"another realm":       func(_ *channel.DeviceConfig, s *channel.ServiceConfig, _ *maker) { s.Realm = identity.Production },
			"the HSM fails":       func(_ *channel.DeviceConfig, _ *channel.ServiceConfig, m *maker) { m.refuse = errors.New("token lost") },
			"nobody of this kind here": func(_ *channel.DeviceConfig, s *channel.ServiceConfig, _ *maker) {
				s.Admit, s.AdmitCertificate = nil, nil
			},
		} {
			t.Run(suite.String()+", "+name, func(t *testing.T) {
				t.Parallel()
				d, s, m := make2()
				spoil(&d, &s, m)
				a, b, w := between(t, nil)
				one, other := meet(t, a, b, d, s)
				// A frame with an ephemeral key, a greeting that doesn't open and its tag: as if the device were let in.
				if _, n := w.lengths(); suite == channel.SuiteNoise && n != 2+1+32+24+16 {
					t.Errorf("the device sees %d bytes", n)
				}
				if !errors.Is(one.err, channel.ErrRefused) || !errors.Is(other.err, channel.ErrRefused) {
					t.Errorf("device: %v; service: %v", one.err, other.err)
				}
				if want := refusals[suite]; one.err == nil || one.err.Error() != want {
					t.Errorf("the device is told %q, like every other %q", one.err, want)
				}
				if m.open.Load() != 0 {
					t.Error("a key was not given back")
				}
			})
		}
	}
}

// TestBusy: a service without time says so, before any key is asked for.
func TestBusy(t *testing.T) {
	t.Parallel()
	away := errors.Join(errors.New("the records are away"), &channel.BusyError{After: 15 * time.Second})
	for suite, make2 := range suites(t) {
		for name, make3 := range map[string]func(s *channel.ServiceConfig, m *maker){
			"away": func(_ *channel.ServiceConfig, m *maker) { m.refuse = away },
			"an identity": func(s *channel.ServiceConfig, _ *maker) {
				s.Limiter = channel.NewLimiter(channel.Rate{}, channel.Rate{PerSecond: 0.1, Burst: 1})
			},
		} {
			t.Run(suite.String()+", "+name, func(t *testing.T) {
				t.Parallel()
				d, s, m := make2()
				make3(&s, m)
				if s.Limiter != nil {
					opened(t, d, s)
				}
				asked := m.asked.Load()
				a, b := pair(t)
				one, other := meet(t, a, b, d, s)
				var told *channel.BusyError
				if !errors.As(one.err, &told) || told.After < time.Second || told.After > 15*time.Second || other.err == nil {
					t.Errorf("device: %v; service: %v", one.err, other.err)
				}
				if s.Limiter != nil && m.asked.Load() != asked {
					t.Error("the limiter came after the key")
				}
			})
		}
	}
}

// TestFlood: a source that begins too often is told to wait before its hello is read; another goes on.
func TestFlood(t *testing.T) {
	t.Parallel()
	m := &maker{}
	s := m.config()
	s.Limiter = channel.NewLimiter(channel.Rate{PerSecond: 0.01, Burst: 3}, channel.Rate{})
	in, out := 0, 0
	for i := range 10 {
		a, b := pair(t)
		one, _ := meet(t, a, b, device(t, channel.SuiteNoise, i), s)
		var busy *channel.BusyError
		switch {
		case one.err == nil:
			in++
		case errors.As(one.err, &busy):
			out++
		default:
			t.Error(one.err)
		}
	}
	if in != 3 || out != 7 || m.asked.Load() != 3 {
		t.Errorf("%d in, %d told to wait, %d keys asked for", in, out, m.asked.Load())
	}
}

// TestManyAtOnce: channels don't disturb one another.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	m := &maker{}
	var group sync.WaitGroup
	for i := range 60 {
		group.Go(func() {
			a, b := opened(t, device(t, channel.SuiteNoise, i), m.config())
			ctx, cancel := context.WithTimeout(context.Background(), bound)
			defer cancel()
			for range 20 {
				message := bytes.Repeat([]byte{byte(i)}, 1+500*i)
				if err := a.Send(ctx, message); err != nil {
					t.Error(err)
					return
				}
				if got, err := b.Receive(ctx); err != nil || !bytes.Equal(got, message) {
					t.Errorf("%d bytes, %v", len(got), err)
					return
				}
			}
		})
	}
	group.Wait()
	if m.open.Load() != 0 {
		t.Errorf("%d keys were not given back", m.open.Load())
	}
}

// TestAnyMessages: whatever is sent is received, in order, in both directions, over any number of rekeys.
func TestAnyMessages(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		limits := channel.Limits{Rekey: uint64(rapid.IntRange(1, 5).Draw(rt, "frames to a rekey"))}
		m := &maker{}
		s, d := m.config(), device(t, channel.SuiteNoise, 1)
		s.Limits, d.Limits = limits, limits
		a, b := opened(t, d, s)
		ctx, cancel := context.WithTimeout(context.Background(), bound)
		defer cancel()
		messages := rapid.SliceOfN(rapid.IntRange(0, 70_000), 1, 12).Draw(rt, "sizes")
		back := rapid.Bool().Draw(rt, "from the service")
		if back {
			a, b = b, a
		}
		sent := make(chan error, 1)
		go func() {
			for i, n := range messages {
				if err := a.Send(ctx, bytes.Repeat([]byte{byte(i)}, n)); err != nil {
					sent <- err
					return
				}
			}
			sent <- a.CloseWrite(ctx)
		}()
		for i, n := range messages {
			got, err := b.Receive(ctx)
			if err != nil || !bytes.Equal(got, bytes.Repeat([]byte{byte(i)}, n)) {
				rt.Fatalf("message %d of %d bytes: %d came, %v", i, n, len(got), err)
			}
		}
		if _, err := b.Receive(ctx); err != io.EOF {
			rt.Fatalf("the end: %v", err)
		}
		if err := <-sent; err != nil {
			rt.Fatal(err)
		}
		a.Close()
		b.Close()
	})
}

// TestReceiveInto: a message comes whole into whatever room the reader has, or beside it; a room that was large enough
// is used.
func TestReceiveInto(t *testing.T) {
	t.Parallel()
	const chunk = 16 << 10
	for suite, make2 := range suites(t) {
		t.Run(suite.String(), func(t *testing.T) {
			t.Parallel()
			d, s, _ := make2()
			device, service := opened(t, d, s)
			rapid.Check(t, func(t *rapid.T) {
				size := rapid.OneOf(rapid.IntRange(0, 3), rapid.SampledFrom([]int{chunk - 1, chunk, chunk + 1, 3 * chunk, 5*chunk + 7})).Draw(t, "size")
				message := make([]byte, size)
				for i := range message {
					message[i] = byte(i*7 + i>>8)
				}
				room := bytes.Repeat([]byte{0xee}, rapid.SampledFrom([]int{0, 1, 17, chunk, 2 * chunk, 8 * chunk}).Draw(t, "room"))
				sent := make(chan error, 1)
				go func() { sent <- device.Send(context.Background(), message) }()
				got, err := service.ReceiveInto(context.Background(), room)
				if err != nil || !bytes.Equal(got, message) {
					t.Fatalf("%d bytes of %d: %v", len(got), size, err)
				}
				if err := <-sent; err != nil {
					t.Fatal(err)
				}
				if size > 0 && len(room) == 8*chunk && &got[0] != &room[0] {
					t.Fatal("a room that was large enough was not used")
				}
			})
		})
	}
}
