package stationtest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync/atomic"
	"testing"
	"time"
)

// Authority is a certificate authority of software keys.
type Authority struct {
	Pool   *x509.CertPool // it alone
	key    *ecdsa.PrivateKey
	cert   *x509.Certificate
	serial atomic.Int64
}

// NewAuthority makes an authority that is valid for an hour.
func NewAuthority(t testing.TB) *Authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"},
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	a := &Authority{Pool: x509.NewCertPool(), key: key, cert: cert}
	a.Pool.AddCert(cert)
	return a
}

// PEM gives the authority's own certificate as a file has it.
func (a *Authority) PEM() []byte { return PEM(a.cert.Raw) }

// PEM gives a certificate as a file has it.
func PEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// Certify makes a certificate of a public key that ends after life, for a
// client and for a server on this machine.
func (a *Authority) Certify(t testing.TB, public crypto.PublicKey, life time.Duration, uris ...*url.URL) []byte {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1 + a.serial.Add(1)), URIs: uris,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(life),
		DNSNames: []string{"example.com"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, public, a.key)
	must(t, err)
	return der
}

// Issue makes a key and its certificate.
func (a *Authority) Issue(t testing.TB, life time.Duration, uris ...*url.URL) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return tls.Certificate{Certificate: [][]byte{a.Certify(t, &key.PublicKey, life, uris...)}, PrivateKey: key}
}

// TLS is the configuration of a server for clients of this authority.
func (a *Authority) TLS(t testing.TB, uris ...*url.URL) *tls.Config {
	t.Helper()
	return &tls.Config{MinVersion: tls.VersionTLS13, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: a.Pool,
		Certificates: []tls.Certificate{a.Issue(t, time.Hour, uris...)}}
}

// Serve serves clients of this authority until the test ends.
func (a *Authority) Serve(t testing.TB, h http.Handler, uris ...*url.URL) *httptest.Server {
	t.Helper()
	server := httptest.NewUnstartedServer(h)
	server.EnableHTTP2 = true
	server.TLS = a.TLS(t, uris...)
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	server.StartTLS()
	t.Cleanup(server.Close)
	return server
}
