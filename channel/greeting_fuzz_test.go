package channel_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/devicekeys/devicekeys/channel"
)

// FuzzGreeting: what reads as a greeting is written as the same bytes.
func FuzzGreeting(f *testing.F) {
	g := channel.NewGreeting(time.Unix(1_800_000_000, 0))
	f.Add(g)
	f.Add(g[:len(g)-1])
	f.Add(append(bytes.Clone(g), 0))
	f.Add([]byte{0x83, 1, 0x20, 0x40}) // before 1970
	f.Fuzz(func(t *testing.T, b []byte) {
		again, err := channel.Regreet(b)
		if err == nil && !bytes.Equal(again, b) {
			t.Errorf("%x reads, and is written as %x", b, again)
		}
		if err != nil && !errors.Is(err, channel.ErrForm) {
			t.Error(err)
		}
	})
}

// FuzzClientTLS: inside TLS, what a service answers a device opens a channel where it is a greeting, behind the service's proof
// in the suite that has one, and nothing else does.
func FuzzClientTLS(f *testing.F) {
	services, devices := newAuthority(f, "services"), newAuthority(f, "devices")
	config, err := channel.ServerTLS(serverTLS(services.leaf("service.example"), devices))
	must(f, err)
	leaf := devices.leaf("")
	g := channel.NewGreeting(time.Unix(1_800_000_000, 0))
	for _, certificate := range []bool{true, false} {
		for _, proven := range []bool{true, false} {
			f.Add(certificate, proven, g)
		}
		f.Add(certificate, true, g[:len(g)-1])
		f.Add(certificate, true, append(bytes.Clone(g), 0))
		f.Add(certificate, true, []byte{})
	}
	f.Fuzz(func(t *testing.T, certificate, proven bool, answer []byte) {
		if len(answer) > 1<<15 {
			return
		}
		suite := channel.SuiteTLS
		if certificate {
			suite = channel.SuiteCertificate
		}
		d := device(t, suite, 1)
		d.TLS = clientTLS(services)
		if certificate {
			d.MAC, d.TLS.Certificates = nil, []tls.Certificate{leaf}
		}
		hello, err := d.Hello.Encode()
		must(t, err)
		a, b := net.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			defer b.Close()
			s := tls.Server(b, config)
			if s.Handshake() != nil {
				return
			}
			read := make(chan struct{})
			go func() { defer close(read); io.Copy(io.Discard, s) }()
			var proof []byte
			if exporter, err := channel.Exported(s); err == nil && proven && !certificate {
				proof, _ = keyOf(d.Hello.Identity).MAC(context.Background(), channel.ServiceProof(hello, exporter))
			}
			s.Write(frames(append(append([]byte{2}, proof...), answer...)))
			s.Close()
			<-read
		}()
		ctx, cancel := context.WithTimeout(t.Context(), bound)
		defer cancel()
		c, err := channel.Client(ctx, a, d)
		a.Close()
		<-done
		_, wrong := channel.Regreet(answer)
		if want := wrong == nil && (certificate || proven); want != (err == nil) || (c != nil) != (err == nil) {
			t.Errorf("suite %s, proven %t, %x: %v", suite, proven, answer, err)
		}
	})
}
