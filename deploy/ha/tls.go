package ha

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// certificateLife is longer than any trial.
const certificateLife = 30 * 24 * time.Hour

// apiTimeout bounds one call of Patroni's or etcd's API, which answer in milliseconds, or after their
// own timeouts when the other one is away.
const apiTimeout = 10 * time.Second

// tls is the path of a file of the cluster's certificates: ca.pem, server.pem, server.key.
func (c *Cluster) tls(name string) string { return filepath.Join(c.dir, "tls", name) }

// makeCertificates makes an authority, whose key is never written, and one certificate for all
// servers, who are each other's clients too. (A site has one for each machine.) It has no
// common name: etcd's gateway, by which Patroni speaks to it, refuses one that has.
func (c *Cluster) makeCertificates() error {
	// Everyone who connects needs the authority's certificate; the key belongs to the servers.
	if err := os.Mkdir(filepath.Join(c.dir, "tls"), 0o711); err != nil {
		return err
	}
	now := time.Now()
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "devicekeys ha, this folder only"},
		NotBefore: now.Add(-time.Minute), NotAfter: now.Add(certificateLife),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	authorityKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	authorityDER, err := x509.CreateCertificate(rand.Reader, authority, authority, authorityKey.Public(), authorityKey)
	if err != nil {
		return err
	}
	server := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: authority.NotBefore, NotAfter: authority.NotAfter,
		IPAddresses: []net.IP{net.ParseIP(loopback)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.CreateCertificate(rand.Reader, server, authority, key.Public(), authorityKey)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	for name, block := range map[string]*pem.Block{
		"ca.pem": {Type: "CERTIFICATE", Bytes: authorityDER}, "server.pem": {Type: "CERTIFICATE", Bytes: der}, "server.key": {Type: "PRIVATE KEY", Bytes: keyDER},
	} {
		if err := c.write(c.tls(name), pem.EncodeToMemory(block)); err != nil {
			return err
		}
	}
	if err := os.Chmod(c.tls("ca.pem"), 0o644); err != nil {
		return err
	}
	parsed, err := x509.ParseCertificate(authorityDER)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AddCert(parsed)
	c.http = &http.Client{Timeout: apiTimeout, Transport: &http.Transport{
		DisableKeepAlives: true, // the other end is killed now and then
		TLSClientConfig:   &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}},
	}}
	return nil
}
