package channel_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/devicekeys/devicekeys/channel"
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
		t.Skip("LEFT OUT: openssl is not installed")
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

// TestOpenSSLServer: a device's end of TLS verifies openssl s_server and is verified by it.
func TestOpenSSLServer(t *testing.T) {
	t.Parallel()
	path, dir := openssl(t), t.TempDir()
	service, devices := newAuthority(t, "services"), newAuthority(t, "devices")
	write(t, dir, "ca.pem", tls.Certificate{Certificate: [][]byte{devices.cert.Raw}})
	write(t, dir, "service.pem", service.leaf("service.example"))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	addr := l.Addr().String()
	must(t, l.Close())
	cmd := exec.CommandContext(t.Context(), path, "s_server", "-accept", addr, "-tls1_3", "-alpn", "devicekeys/1", "-naccept", "1",
		"-cert", "service.pem", "-key", "service.pem", "-CAfile", "ca.pem", "-Verify", "1", "-verify_return_error", "-rev")
	cmd.Dir = dir
	out, err := cmd.StdoutPipe()
	must(t, err)
	cmd.Stderr = cmd.Stdout
	must(t, cmd.Start())
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	b := make([]byte, 4096)
	for said := ""; !strings.Contains(said, "ACCEPT"); {
		n, err := out.Read(b)
		must(t, err)
		said += string(b[:n])
	}
	config, err := channel.ClientTLS(clientTLS(service))
	must(t, err)
	config.Certificates = []tls.Certificate{devices.leaf("")}
	conn, err := tls.Dial("tcp", addr, config)
	must(t, err)
	defer conn.Close()
	_, err = conn.Write([]byte("yek ecived\n"))
	must(t, err)
	if n, err := conn.Read(b); err != nil || string(b[:n]) != "device key\n" {
		t.Errorf("%q, %v", b[:n], err)
	}
	if s := conn.ConnectionState(); s.NegotiatedProtocol != "devicekeys/1" || s.Version != tls.VersionTLS13 {
		t.Errorf("%q, version %x", s.NegotiatedProtocol, s.Version)
	}
}
