package channel_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/devicekeys/devicekeys/channel"
)

// TestSilent: who came too often and says nothing is gone in a moment, who did not has the handshake's time; both reasons
// are told.
func TestSilent(t *testing.T) {
	t.Parallel()
	m := &maker{}
	s := m.config()
	s.Limits.Handshake = bound
	s.Limiter = channel.NewLimiter(channel.Rate{PerSecond: 1e-3, Burst: 1}, channel.Rate{})
	opened(t, device(t, channel.SuiteNoise, 1), s)
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	_, b := pair(t)
	began := time.Now()
	_, err := channel.Server(ctx, b, s)
	var busy *channel.BusyError
	if took := time.Since(began); took > bound/3 || !errors.As(err, &busy) || !errors.Is(err, channel.ErrNoHello) {
		t.Errorf("after %s: %v", took, err)
	}
	s.Limiter, s.Limits.Handshake = nil, 300*time.Millisecond
	for name, c := range map[string]struct {
		says string
		want error
	}{
		"silent":                {"", channel.ErrNoHello},
		"half a hello":          {"\x00\x30\x01\x88", channel.ErrNoHello},
		"half a hello of TLS":   {"\x16\x03\x01\x02", channel.ErrNoHello},
		"another protocol":      {"GET / HTTP/1.1\r\n\r\n", channel.ErrForm},
		"another hello of TLS":  {"\x16\x03\x01\x00\x04\x01\x00\x00\x00", channel.ErrForm},
		"not a frame of hellos": {"\x00\x01\x09", channel.ErrForm},
	} {
		service := newAuthority(t, "services")
		s.TLS = &tls.Config{Certificates: []tls.Certificate{service.leaf("service.example")}}
		for _, closes := range []bool{true, false} {
			a, b := pair(t)
			_, err := a.Write([]byte(c.says))
			must(t, err)
			if closes {
				must(t, a.Close())
			}
			if _, err := channel.Server(ctx, b, s); !errors.Is(err, c.want) || c.want == channel.ErrNoHello && errors.Is(err, channel.ErrForm) {
				t.Errorf("%s, then closed is %v: %v", name, closes, err)
			}
		}
	}
}

// TestNetworks: what is one source.
func TestNetworks(t *testing.T) {
	t.Parallel()
	for address, want := range map[string][2]string{
		"192.0.2.7":            {"192.0.2.7/32", "invalid Prefix"},
		"::ffff:192.0.2.7":     {"192.0.2.7/32", "invalid Prefix"},
		"2001:db8:1:2:3:4:5:6": {"2001:db8:1:2::/64", "2001:db8:1::/48"},
		"fe80::1%eth0":         {"fe80::/64", "fe80::/48"},
		"":                     {"invalid Prefix", "invalid Prefix"},
	} {
		a, _ := netip.ParseAddr(address)
		if near, far := channel.Networks(a); near.String() != want[0] || far.String() != want[1] {
			t.Errorf("%q counts for %s and %s, want %s", address, near, far, want)
		}
	}
}

// TestSites: more networks of one IPv6 /48 don't have more than their share.
func TestSites(t *testing.T) {
	t.Parallel()
	l := channel.NewLimiter(channel.Rate{PerSecond: 1e-3, Burst: 2}, channel.Rate{})
	in := 0
	for i := range 40 {
		for range 2 {
			if l.Source(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 7: byte(i), 15: 1})) == nil {
				in++
			}
		}
	}
	if in != 2*channel.SiteSources {
		t.Errorf("%d handshakes of one /48", in)
	}
	if l.Source(netip.MustParseAddr("2001:db8:1::1")) != nil || l.Source(netip.MustParseAddr("192.0.2.1")) != nil {
		t.Error("another site is held up")
	}
}

// TestVictim: nobody uses up the rate of a device with a certificate whose key they lack; and who comes without a
// certificate of the device CA is not even asked about.
func TestVictim(t *testing.T) {
	t.Parallel()
	service, devices, strangers := newAuthority(t, "services"), newAuthority(t, "devices"), newAuthority(t, "strangers")
	m := &maker{}
	s := m.config()
	s.TLS, s.AdmitCertificate = serverTLS(service.leaf("service.example"), devices), m.certificate
	s.Limiter = channel.NewLimiter(channel.Rate{}, channel.Rate{PerSecond: 1e-3, Burst: 1})
	with := func(c ...tls.Certificate) channel.DeviceConfig {
		d := device(t, channel.SuiteCertificate, 1)
		d.MAC, d.TLS = nil, clientTLS(service)
		d.TLS.Certificates = c
		return d
	}
	for _, d := range []channel.DeviceConfig{with(strangers.leaf("")), with(strangers.leaf("")), device(t, channel.SuiteNoise, 1), with(devices.leaf(""))} {
		a, b := pair(t)
		_, other := meet(t, a, b, d, s)
		if d.TLS != nil && d.TLS.Certificates[0].Leaf.Issuer.CommonName == "strangers" && !errors.Is(other.err, channel.ErrStranger) {
			t.Errorf("a stranger: %v", other.err)
		}
	}
	if n := m.asked.Load(); n != 2 {
		t.Errorf("%d were asked about, want the device's key and the other device", n)
	}
	d := with(devices.leaf(""))
	opened(t, d, s)
	a, b := pair(t)
	var busy *channel.BusyError
	if one, _ := meet(t, a, b, d, s); !errors.As(one.err, &busy) {
		t.Errorf("its own second time: %v", one.err)
	}
}

// TestSignatures: the service's TLS key is used only when the service says so, and a limit of all handshakes of TLS
// leaves the other suite alone. A device learns that it was turned away.
func TestSignatures(t *testing.T) {
	t.Parallel()
	full := errors.New("no turn at the HSM")
	signatures := 0
	for name, change := range map[string]func(*channel.ServiceConfig){
		"no turn": func(s *channel.ServiceConfig) {
			s.Sign = func(context.Context, func() error) error { return full }
		},
		"no rate": func(s *channel.ServiceConfig) {
			s.Limiter = channel.NewLimiter(channel.Rate{}, channel.Rate{})
			s.Limiter.BoundTLS(channel.Rate{PerSecond: 1e-3, Burst: 1})
			s.Sign = func(_ context.Context, do func() error) error {
				signatures++
				return do()
			}
			d, _, _ := suites(t)[channel.SuiteTLS]()
			service := newAuthority(t, "services")
			s.TLS, d.TLS = serverTLS(service.leaf("service.example"), service), clientTLS(service)
			opened(t, d, *s)
		},
		"no rate for the source": func(s *channel.ServiceConfig) {
			s.Limiter = channel.NewLimiter(channel.Rate{PerSecond: 1e-3, Burst: 1}, channel.Rate{})
			opened(t, device(t, channel.SuiteNoise, 2), *s)
		},
	} {
		d, s, _ := suites(t)[channel.SuiteTLS]()
		change(&s)
		a, b := pair(t)
		one, other := meet(t, a, b, d, s)
		if !errors.Is(one.err, channel.ErrTurnedAway) || name == "no turn" && !errors.Is(other.err, full) {
			t.Errorf("%s: device: %v; service: %v", name, one.err, other.err)
		}
		if name == "no rate" {
			opened(t, device(t, channel.SuiteNoise, 1), s)
		}
	}
	if signatures != 1 {
		t.Errorf("%d signatures", signatures)
	}
}

// TestSuites: a service speaks the suites that it is told to, and no other.
func TestSuites(t *testing.T) {
	t.Parallel()
	for suite, make2 := range suites(t) {
		for _, spoken := range []channel.Suite{channel.SuiteNoise, channel.SuiteTLS, channel.SuiteCertificate} {
			d, s, _ := make2()
			s.Suites = []channel.Suite{spoken}
			a, b := pair(t)
			one, other := meet(t, a, b, d, s)
			if in := suite == spoken; (one.err == nil) != in || (other.err == nil) != in || !in && !errors.Is(other.err, channel.ErrForm) {
				t.Errorf("%s where %s is spoken: device: %v; service: %v", suite, spoken, one.err, other.err)
			}
		}
	}
}
