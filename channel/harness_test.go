package channel_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/devicekeys/devicekeys/channel"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
)

// bound is far above what any handshake takes, on whatever machine.
const bound = 30 * time.Second

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func imei(t testing.TB, serial int) identity.Identity {
	t.Helper()
	id, err := identity.TAC("00440200").IMEI(serial)
	must(t, err)
	return id
}

func hello(t testing.TB, suite channel.Suite, serial int) channel.Hello {
	return channel.Hello{Suite: suite, Realm: identity.Development, Key: keypackage.KeyID{Name: "channel", KDF: 1, Version: 1}, Identity: imei(t, serial), Generation: 1}
}

// software is a device's key in memory: that it never leaves a token is shown where there are tokens.
type software []byte

func (k software) MAC(_ context.Context, msg []byte) ([]byte, error) {
	h := hmac.New(sha256.New, k)
	h.Write(msg)
	return h.Sum(nil), nil
}

func (k software) Verify(ctx context.Context, msg, mac []byte) error {
	want, _ := k.MAC(ctx, msg)
	if !hmac.Equal(want, mac) {
		return errors.New("wrong MAC")
	}
	return nil
}

// keyOf is the key of a device by its identity.
func keyOf(id identity.Identity) software {
	h := sha256.Sum256([]byte("device key " + id.URN()))
	return h[:]
}

// maker is a service's side: it knows identities below known.
type maker struct {
	open   atomic.Int64 // keys that were not given back
	asked  atomic.Int64
	refuse error
}

const known = 100

var errUnknown = errors.New("never issued")

func (m *maker) admit(_ context.Context, h channel.Hello, _ netip.Addr) (channel.Peer, error) {
	m.asked.Add(1)
	if m.refuse != nil {
		return nil, m.refuse
	}
	id, ok := h.Identity.(identity.IMEI)
	if !ok || id.Value()[8:] >= "000100" || h.Generation != 1 {
		return nil, errUnknown
	}
	m.open.Add(1)
	return &peer{keyOf(h.Identity), m}, nil
}

type peer struct {
	software
	m *maker
}

func (p *peer) Close(context.Context) error {
	if p.m != nil {
		p.m.open.Add(-1)
		p.m = nil
	}
	return nil
}

func (m *maker) config() channel.ServiceConfig {
	return channel.ServiceConfig{Realm: identity.Development, Admit: m.admit}
}

func device(t testing.TB, suite channel.Suite, serial int) channel.DeviceConfig {
	h := hello(t, suite, serial)
	return channel.DeviceConfig{Hello: h, MAC: keyOf(h.Identity).MAC}
}

// pair gives two ends of a TCP connection on loopback.
func pair(t testing.TB) (device, service net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			c = nil
		}
		accepted <- c
	}()
	device, err = net.Dial("tcp", l.Addr().String())
	must(t, err)
	if service = <-accepted; service == nil {
		t.Fatal("no connection was accepted")
	}
	t.Cleanup(func() { device.Close(); service.Close() })
	return device, service
}

// outcome is what one side's handshake gave.
type outcome struct {
	conn *channel.Conn
	err  error
}

// meet has both ends shake hands. A side that fails closes its connection, as callers do.
func meet(t testing.TB, a, b net.Conn, d channel.DeviceConfig, s channel.ServiceConfig) (device, service outcome) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	done := make(chan outcome, 1)
	go func() {
		c, err := channel.Server(ctx, b, s)
		if err != nil {
			b.Close()
		}
		done <- outcome{c, err}
	}()
	c, err := channel.Client(ctx, a, d)
	if err != nil {
		a.Close()
	}
	return outcome{c, err}, <-done
}

// opened gives both ends of a channel.
func opened(t testing.TB, d channel.DeviceConfig, s channel.ServiceConfig) (device, service *channel.Conn) {
	t.Helper()
	a, b := pair(t)
	one, other := meet(t, a, b, d, s)
	must(t, one.err)
	must(t, other.err)
	return one.conn, other.conn
}

// authority is a CA of tests.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB, name string) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	a := &authority{t: t, key: key}
	a.cert = a.sign(&x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, &key.PublicKey)
	return a
}

func (a *authority) sign(c *x509.Certificate, public *ecdsa.PublicKey) *x509.Certificate {
	a.t.Helper()
	c.SerialNumber = big.NewInt(time.Now().UnixNano())
	if c.NotBefore = time.Now().Add(-time.Hour); c.NotAfter.IsZero() {
		c.NotAfter = time.Now().Add(time.Hour)
	}
	parent := a.cert
	if parent == nil {
		parent = c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, public, a.key)
	must(a.t, err)
	out, err := x509.ParseCertificate(der)
	must(a.t, err)
	return out
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

// noEnd is that of devices' certificates (IEEE 802.1AR).
var noEnd = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)

// leaf makes a certificate, of a service with a name and of a device, without an end, without.
func (a *authority) leaf(name string) tls.Certificate {
	a.t.Helper()
	if name == "" {
		return a.made(name, noEnd)
	}
	return a.made(name, time.Time{})
}

// lasting makes a device's certificate that ends after a time.
func (a *authority) lasting(d time.Duration) tls.Certificate { return a.made("", time.Now().Add(d)) }

func (a *authority) made(name string, end time.Time) tls.Certificate {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(a.t, err)
	return a.certify(name, end, key)
}

// certify is made for a key that there is.
func (a *authority) certify(name string, end time.Time, key crypto.Signer) tls.Certificate {
	a.t.Helper()
	c := &x509.Certificate{Subject: pkix.Name{CommonName: "leaf " + name}, NotAfter: end, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	if name != "" {
		c.DNSNames, c.ExtKeyUsage = []string{name}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
	cert := a.sign(c, key.Public().(*ecdsa.PublicKey))
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
}
