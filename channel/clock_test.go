package channel_test

import (
	"crypto/tls"
	"errors"
	"testing"
	"time"

	"github.com/devicekeys/devicekeys/channel"
)

// TestClocks: each end's clock far off, in each suite. SuiteNoise needs none; a device without one learns that of the TLS
// suites; devices outlive their CA.
func TestClocks(t *testing.T) {
	t.Parallel()
	at := func(year int) func() time.Time {
		return func() time.Time { return time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC) }
	}
	for suite, make2 := range suites(t) {
		for name, c := range map[string]struct {
			device, service func() time.Time
			// What each end says of the TLS suites; nil: the channel opens. certificate is what the service says of SuiteCertificate.
			told, heard, certificate error
		}{
			"the device's at 1970":               {at(1970), nil, channel.ErrClock, channel.ErrForm, channel.ErrForm},
			"the device's far ahead":             {at(2100), nil, channel.ErrClock, channel.ErrForm, channel.ErrForm},
			"the service's after the CA's end":   {nil, at(2100), nil, nil, nil},
			"the service's before anyone's time": {nil, at(1970), nil, nil, channel.ErrClock},
		} {
			t.Run(suite.String()+", "+name, func(t *testing.T) {
				t.Parallel()
				d, s, _ := make2()
				if s.Now = c.service; s.TLS != nil {
					s.TLS.Time, d.TLS.Time = c.service, c.device
				}
				a, b := pair(t)
				one, other := meet(t, a, b, d, s)
				told, heard := c.told, c.heard
				switch suite {
				case channel.SuiteNoise:
					told, heard = nil, nil
				case channel.SuiteCertificate:
					if heard = c.certificate; told == nil && heard != nil {
						told = channel.ErrRefused
					}
				}
				if !errors.Is(one.err, told) || !errors.Is(other.err, heard) {
					t.Errorf("device: %v, want %v; service: %v, want %v", one.err, told, other.err, heard)
				}
			})
		}
	}
}

// TestExpired: a device's certificate that has an end is not taken after it, whatever the chain.
func TestExpired(t *testing.T) {
	t.Parallel()
	d, s, _ := suites(t)[channel.SuiteCertificate]()
	service, devices := newAuthority(t, "services"), newAuthority(t, "devices")
	s.TLS, d.TLS = serverTLS(service.leaf("service.example"), devices), clientTLS(service)
	d.TLS.Certificates = []tls.Certificate{devices.lasting(time.Hour)}
	s.Now = func() time.Time { return time.Now().Add(2 * time.Hour) }
	a, b := pair(t)
	if one, other := meet(t, a, b, d, s); !errors.Is(one.err, channel.ErrRefused) || !errors.Is(other.err, channel.ErrClock) {
		t.Errorf("device: %v; service: %v", one.err, other.err)
	}
}
