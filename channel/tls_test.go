package channel_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/devicekeys/devicekeys/channel"
	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/softhsm"
	"github.com/devicekeys/devicekeys/untested"
)

func serverTLS(c tls.Certificate, devices *authority) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{c}, ClientCAs: devices.pool()}
}

func clientTLS(service *authority) *tls.Config {
	return &tls.Config{RootCAs: service.pool(), ServerName: "service.example"}
}

// certificate lets in whoever has shown a certificate of the device CA, as device 1.
func (m *maker) certificate(_ context.Context, h channel.Hello, c *x509.Certificate, _ netip.Addr) error {
	m.asked.Add(1)
	if c.Subject.CommonName != "leaf " || h.Identity.Value()[8:] != "000001" || h.Generation != 1 {
		return errUnknown
	}
	return m.refuse
}

// TestCertificateRefused: who comes with another CA's certificate, none, or to another's service.
func TestCertificateRefused(t *testing.T) {
	t.Parallel()
	service, devices, strangers := newAuthority(t, "services"), newAuthority(t, "devices"), newAuthority(t, "strangers")
	server := service.leaf("service.example")
	m := &maker{}
	s := m.config()
	s.TLS, s.AdmitCertificate = serverTLS(server, devices), m.certificate
	good := func() channel.DeviceConfig {
		d := device(t, channel.SuiteCertificate, 1)
		d.MAC, d.TLS = nil, clientTLS(service)
		d.TLS.Certificates = []tls.Certificate{devices.leaf("")}
		return d
	}
	opened(t, good(), s)
	for name, c := range map[string]struct {
		spoil         func(*channel.DeviceConfig, *channel.ServiceConfig)
		device, there error // what each side says of it; nil: only that it is an error
	}{
		"a stranger's certificate": {func(d *channel.DeviceConfig, _ *channel.ServiceConfig) {
			d.TLS.Certificates = []tls.Certificate{strangers.leaf("")}
		}, channel.ErrRefused, channel.ErrStranger},
		"a service's certificate": {func(d *channel.DeviceConfig, s *channel.ServiceConfig) {
			d.TLS.Certificates = []tls.Certificate{devices.leaf("service.example")}
		}, channel.ErrRefused, channel.ErrStranger},
		"too long a chain": {func(d *channel.DeviceConfig, _ *channel.ServiceConfig) {
			c := &d.TLS.Certificates[0]
			c.Certificate = append(c.Certificate, c.Certificate[0], c.Certificate[0], c.Certificate[0], c.Certificate[0])
		}, channel.ErrRefused, channel.ErrStranger},
		"none is shown": {func(d *channel.DeviceConfig, _ *channel.ServiceConfig) {
			d.TLS.Certificates, d.TLS.GetClientCertificate = nil, func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &tls.Certificate{}, nil }
		}, channel.ErrRefused, channel.ErrStranger},
		"no certificate":     {func(d *channel.DeviceConfig, _ *channel.ServiceConfig) { d.TLS.Certificates = nil }, nil, channel.ErrNoHello},
		"another service CA": {func(d *channel.DeviceConfig, _ *channel.ServiceConfig) { d.TLS.RootCAs = strangers.pool() }, nil, channel.ErrForm},
		"another name":       {func(d *channel.DeviceConfig, _ *channel.ServiceConfig) { d.TLS.ServerName = "other.example" }, nil, channel.ErrForm},
		"no TLS there":       {func(_ *channel.DeviceConfig, s *channel.ServiceConfig) { s.TLS = nil }, channel.ErrTurnedAway, channel.ErrForm},
		"a key instead": {func(d *channel.DeviceConfig, s *channel.ServiceConfig) {
			d.Hello.Suite, d.TLS.Certificates, d.MAC = channel.SuiteTLS, nil, software("wrong").MAC
		}, channel.ErrRefused, channel.ErrRefused},
		"not let in": {func(_ *channel.DeviceConfig, s *channel.ServiceConfig) {
			s.AdmitCertificate = func(context.Context, channel.Hello, *x509.Certificate, netip.Addr) error { return errUnknown }
		}, channel.ErrRefused, errUnknown},
		"no device CA there": {func(_ *channel.DeviceConfig, s *channel.ServiceConfig) {
			s.TLS = &tls.Config{Certificates: s.TLS.Certificates}
		}, channel.ErrRefused, channel.ErrStranger},
		"no configuration": {func(d *channel.DeviceConfig, _ *channel.ServiceConfig) { d.TLS = nil }, nil, channel.ErrNoHello},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, s := good(), s
			c.spoil(&d, &s)
			a, b := pair(t)
			one, other := meet(t, a, b, d, s)
			if one.err == nil || c.device != nil && !errors.Is(one.err, c.device) || !errors.Is(other.err, c.there) {
				t.Errorf("device: %v; service: %v", one.err, other.err)
			}
		})
	}
}

// TestNoProtocol: TLS that doesn't name this protocol is none of it, at either end.
func TestNoProtocol(t *testing.T) {
	t.Parallel()
	service, devices := newAuthority(t, "services"), newAuthority(t, "devices")
	server, cert := service.leaf("service.example"), devices.leaf("")
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	plain := func(c *tls.Config) *tls.Config {
		c.MinVersion = tls.VersionTLS13
		return c
	}
	t.Run("device", func(t *testing.T) {
		a, b := pair(t)
		config := plain(clientTLS(service))
		config.Certificates = []tls.Certificate{cert}
		go func() { _ = tls.Client(a, config).HandshakeContext(ctx) }()
		m := &maker{}
		s := m.config()
		s.TLS, s.AdmitCertificate = serverTLS(server, devices), m.certificate
		if _, err := channel.Server(ctx, b, s); !errors.Is(err, channel.ErrForm) {
			t.Errorf("%v", err)
		}
	})
	t.Run("service", func(t *testing.T) {
		a, b := pair(t)
		go func() { _ = tls.Server(b, plain(serverTLS(server, devices))).HandshakeContext(ctx) }()
		d := device(t, channel.SuiteTLS, 1)
		d.TLS = clientTLS(service)
		if _, err := channel.Client(ctx, a, d); !errors.Is(err, channel.ErrForm) {
			t.Errorf("%v", err)
		}
	})
}

func openssl(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("openssl")
	if err != nil {
		untested.Skip(t, "the channel against openssl: it is not installed")
	}
	return path
}

// write puts PEM files for openssl into a folder.
func write(t *testing.T, dir, name string, c tls.Certificate) {
	t.Helper()
	var b bytes.Buffer
	for _, der := range c.Certificate {
		must(t, pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	if c.PrivateKey != nil {
		der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
		must(t, err)
		must(t, pem.Encode(&b, &pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	}
	must(t, os.WriteFile(filepath.Join(dir, name), b.Bytes(), 0o600))
}

// TestOpenSSLClient: openssl s_client, with a device's certificate and a hello on its standard input, is let in.
func TestOpenSSLClient(t *testing.T) {
	t.Parallel()
	path, dir := openssl(t), t.TempDir()
	service, devices := newAuthority(t, "services"), newAuthority(t, "devices")
	write(t, dir, "ca.pem", tls.Certificate{Certificate: [][]byte{service.cert.Raw}})
	write(t, dir, "device.pem", devices.leaf(""))
	m := &maker{}
	s := m.config()
	s.TLS, s.AdmitCertificate = serverTLS(service.leaf("service.example"), devices), m.certificate
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	got := make(chan outcome, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			got <- outcome{err: err}
			return
		}
		defer conn.Close()
		c, err := channel.Server(context.Background(), conn, s)
		if err == nil {
			err = errors.Join(c.Send(context.Background(), []byte("hello, openssl")), c.CloseWrite(context.Background()), c.Close())
		}
		got <- outcome{c, err}
	}()
	hello, err := hello(t, channel.SuiteCertificate, 1).Encode()
	must(t, err)
	cmd := exec.CommandContext(t.Context(), path, "s_client", "-connect", l.Addr().String(), "-tls1_3", "-alpn", "devicekeys/1",
		"-CAfile", "ca.pem", "-verify_return_error", "-servername", "service.example", "-verify_hostname", "service.example",
		"-cert", "device.pem", "-key", "device.pem", "-quiet", "-ign_eof")
	cmd.Dir = dir
	cmd.Stdin = bytes.NewReader(append([]byte{0, byte(1 + len(hello)), 1}, hello...))
	out, err := cmd.CombinedOutput()
	o := <-got
	if o.err != nil || !bytes.Contains(out, []byte("hello, openssl")) {
		t.Errorf("service: %v; openssl: %v\n%s", o.err, err, out)
	}
}

// tokenKey is a device's pair in a token, through crypto11.
func tokenKey(t *testing.T) crypto.Signer {
	t.Helper()
	h := softhsm.New(t)
	token, label := h.Open(t, h.SignToken), "dev-tls-"+strings.ToLower(rand.Text())
	_, err := token.Generate(t.Context(), hsm.Spec{Kind: hsm.TLSKey, Label: label, Token: true})
	must(t, err)
	signer, err := token.Signer(label)
	must(t, err)
	return signer
}

// dialPause is between two tries to reach a server that is being started.
const dialPause = 20 * time.Millisecond

// started connects to a server that is being started.
func started(t *testing.T, addr string) net.Conn {
	t.Helper()
	for until := time.Now().Add(bound); ; time.Sleep(dialPause) {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			t.Cleanup(func() { conn.Close() })
			return conn
		}
		if time.Now().After(until) {
			t.Fatal(err)
		}
	}
}

// TestOpenSSLServer: a device whose key is in its token opens a channel with openssl s_server, which verifies the
// certificate and is verified, and gives the service's frames on its standard input (docs/formats.md §14).
func TestOpenSSLServer(t *testing.T) {
	t.Parallel()
	path, dir := openssl(t), t.TempDir()
	service, devices, strangers := newAuthority(t, "services"), newAuthority(t, "devices"), newAuthority(t, "strangers")
	key := tokenKey(t)
	write(t, dir, "ca.pem", tls.Certificate{Certificate: [][]byte{devices.cert.Raw}})
	write(t, dir, "service.pem", service.leaf("service.example"))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	addr := l.Addr().String()
	must(t, l.Close())
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "s_server", "-accept", addr, "-tls1_3", "-alpn", "devicekeys/1", "-quiet",
		"-cert", "service.pem", "-key", "service.pem", "-CAfile", "ca.pem", "-Verify", "1", "-verify_return_error")
	cmd.Dir = dir
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	must(t, cmd.Start())
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("openssl says %s", errs.String())
		}
	}()
	open := func(ca *authority) (*channel.Conn, error) {
		d := device(t, channel.SuiteCertificate, 1)
		d.MAC, d.TLS = nil, clientTLS(service)
		d.TLS.Certificates = []tls.Certificate{ca.certify("", noEnd, key)}
		return channel.Client(ctx, started(t, addr), d)
	}
	if _, err := open(strangers); !errors.Is(err, channel.ErrRefused) {
		t.Errorf("openssl let in a device of another CA: %v", err)
	}

	session := bytes.Repeat([]byte{7}, 16)
	greeting := detcbor.Must([]any{1, 1700000000, session})
	frame := func(kind byte, content []byte) []byte {
		return append([]byte{0, byte(1 + len(content)), kind}, content...)
	}
	_, err = in.Write(slices.Concat(frame(2, greeting), frame(2, []byte("hello, device"))))
	must(t, err)
	conn, err := open(devices)
	must(t, err)
	if b, err := conn.Receive(ctx); err != nil || string(b) != "hello, device" {
		t.Errorf("received %q, %v", b, err)
	}
	must(t, conn.Send(ctx, []byte("hello, openssl")))
	hello, err := hello(t, channel.SuiteCertificate, 1).Encode()
	must(t, err)
	want := slices.Concat(frame(1, hello), frame(2, []byte("hello, openssl")))
	have := make([]byte, len(want))
	if _, err := io.ReadFull(out, have); err != nil || !bytes.Equal(have, want) {
		t.Errorf("openssl has read\n%q, want\n%q: %v", have, want, err)
	}
}
