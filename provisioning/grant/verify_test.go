package grant_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"math/big"
	"testing"
	"time"

	"github.com/devicekeys/devicekeys/provisioning/grant"
)

// TestVerify: a certificate of the CA's is taken from its beginning on and past
// its end; nobody else's is, at any time.
func TestVerify(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	day := 24 * time.Hour
	key := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	sign := func(template, parent *x509.Certificate, public *ecdsa.PublicKey, by *ecdsa.PrivateKey) *x509.Certificate {
		der, err := x509.CreateCertificate(rand.Reader, template, parent, public, by)
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	authority := func() (*ecdsa.PrivateKey, *x509.Certificate, *x509.CertPool) {
		k := key()
		template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: start, NotAfter: start.Add(100 * day), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
		c := sign(template, template, &k.PublicKey, k)
		pool := x509.NewCertPool()
		pool.AddCert(c)
		return k, c, pool
	}
	caKey, caCert, cas := authority()
	_, _, foreign := authority()
	leaf := func(usage x509.ExtKeyUsage) []*x509.Certificate {
		return []*x509.Certificate{sign(&x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: start.Add(10 * day), NotAfter: start.Add(20 * day),
			ExtKeyUsage: []x509.ExtKeyUsage{usage}}, caCert, &key().PublicKey, caKey)}
	}
	station, server := leaf(x509.ExtKeyUsageClientAuth), leaf(x509.ExtKeyUsageServerAuth)
	for _, c := range []struct {
		name  string
		cas   *x509.CertPool
		chain []*x509.Certificate
		at    time.Duration
		taken bool
	}{
		{"valid", cas, station, 15 * day, true},
		{"on its last day", cas, station, 20 * day, true},
		{"expired", cas, station, 30 * day, true},
		{"expired, and its CA too", cas, station, 1000 * day, true},
		{"not yet valid", cas, station, 9 * day, false},
		{"of another CA", foreign, station, 15 * day, false},
		{"of another CA, expired", foreign, station, 30 * day, false},
		{"a server's", cas, server, 15 * day, false},
		{"none", cas, nil, 15 * day, false},
		{"no CA", nil, station, 15 * day, false},
	} {
		if err := grant.Verify(c.cas, c.chain, start.Add(c.at)); (err == nil) != c.taken {
			t.Errorf("%s: %v, want it taken: %v", c.name, err, c.taken)
		}
	}
}
