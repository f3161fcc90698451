package tokenconfig_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/cmd/internal/tokenconfig"
	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/provisioning/grant"
	"github.com/devicekeys/devicekeys/secret"
	"github.com/devicekeys/devicekeys/softhsm"
)

const dev = identity.Development

// handshakeTime bounds a handshake of this test: three signatures of a token on a loaded machine.
const handshakeTime = 20 * time.Second

// ca is a CA in software.
type ca struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string
}

func newCA(t *testing.T) ca {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	c := ca{key: key}
	c.cert, c.file = c.sign(t, template, template, &key.PublicKey)
	return c
}

func (c ca) sign(t *testing.T, template, parent *x509.Certificate, public any) (*x509.Certificate, string) {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, c.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "cert.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return cert, file
}

// leaf gives the file of a certificate for a key of the token.
func (c ca) leaf(t *testing.T, tok *hsm.Token, label string, uri *url.URL, from, to time.Time, usage ...x509.ExtKeyUsage) string {
	t.Helper()
	signer, err := tok.Signer(label)
	if err != nil {
		t.Fatal(err)
	}
	_, file := c.sign(t, &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: from, NotAfter: to, ExtKeyUsage: usage, KeyUsage: x509.KeyUsageDigitalSignature,
		URIs: []*url.URL{uri}, DNSNames: []string{"localhost"},
	}, c.cert, signer.Public())
	return file
}

// signToken opens the token that this process's crypto11 has, with a fresh TLS key.
func signToken(t *testing.T) (*hsm.Token, string) {
	t.Helper()
	h := softhsm.New(t)
	tok := h.Open(t, h.SignToken)
	label := "dev-tls-" + strings.ToLower(rand.Text())
	if _, err := tok.Generate(t.Context(), hsm.Spec{Kind: hsm.TLSKey, Label: label, Token: true}); err != nil {
		t.Fatal(err)
	}
	return tok, label
}

// handshake lets client and server shake hands and say one word each; it gives both sides' errors.
func handshake(t *testing.T, server, client *tls.Config) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), handshakeTime)
	defer cancel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() {
		defer l.Close()
		raw, err := l.Accept()
		if err != nil {
			served <- err
			return
		}
		conn := tls.Server(raw, server)
		defer conn.Close()
		if err = conn.HandshakeContext(ctx); err == nil {
			_, err = conn.Write([]byte("x"))
		}
		served <- err
	}()
	client = client.Clone()
	client.ServerName = "localhost"
	conn, err := (&tls.Dialer{Config: client}).DialContext(ctx, "tcp", l.Addr().String())
	if err == nil {
		_, err = io.ReadFull(conn, make([]byte, 1)) // a refusal of the client's certificate arrives here
		conn.Close()
	}
	return errors.Join(err, <-served)
}

func TestTLS(t *testing.T) {
	t.Parallel()
	tok, label := signToken(t)
	ours, foreign := newCA(t), newCA(t)
	now := time.Now()
	from, to := now.Add(-time.Minute), now.Add(time.Minute)
	both := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	spp, sequencer := grant.PeerURI(dev, "spp", "spp-1"), grant.PeerURI(dev, "sequencer", "sequencer-1")
	station := grant.Grant{Realm: dev, Station: "line-1", Line: "phone", Quota: 1}.URI()
	server, err := tokenconfig.ServerTLS(tok, label, ours.leaf(t, tok, label, sequencer, from, to, both...), ours.file)
	if err != nil {
		t.Fatal(err)
	}
	open := server.Clone()
	tokenconfig.RequirePeer(server, dev, "spp")
	for _, c := range []struct {
		name   string
		server *tls.Config
		by     ca
		uri    *url.URL
		trust  ca
		peers  []string
		change func(*tls.Config)
		works  bool
	}{
		{"spp", server, ours, spp, ours, []string{"sequencer"}, nil, true},
		{"any role", open, ours, station, ours, nil, nil, true},
		{"station", server, ours, station, ours, nil, nil, false},
		{"sequencer as client", server, ours, sequencer, ours, nil, nil, false},
		{"production", server, ours, grant.PeerURI(identity.Production, "spp", "spp-1"), ours, nil, nil, false},
		{"foreign client", open, foreign, spp, ours, nil, nil, false},
		{"foreign server", open, ours, spp, foreign, nil, nil, false},
		{"server of another role", open, ours, spp, ours, []string{"spp"}, nil, false},
		{"no certificate", open, ours, spp, ours, nil, func(c *tls.Config) { c.Certificates = nil }, false},
		{"TLS 1.2", open, ours, spp, ours, nil, func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			client, err := tokenconfig.ClientTLS(tok, label, c.by.leaf(t, tok, label, c.uri, from, to, x509.ExtKeyUsageClientAuth), c.trust.file)
			if err != nil {
				t.Fatal(err)
			}
			if c.peers != nil {
				tokenconfig.RequirePeer(client, dev, c.peers...)
			}
			if c.change != nil {
				c.change(client)
			}
			if err := handshake(t, c.server, client); (err == nil) != c.works {
				t.Errorf("the handshake gives %v, want it to work: %v", err, c.works)
			}
		})
	}
}

// TestStationTLS: as ServerTLS, but an expired certificate gets through, on a
// connection that is resumed too, and leaves no verified chain.
func TestStationTLS(t *testing.T) {
	t.Parallel()
	tok, label := signToken(t)
	ours, foreign := newCA(t), newCA(t)
	now := time.Now()
	from, to := now.Add(-30*time.Minute), now.Add(time.Minute)
	client := x509.ExtKeyUsageClientAuth
	server, err := tokenconfig.StationTLS(tok, label, ours.leaf(t, tok, label, grant.PeerURI(dev, "spp", "spp-1"), from, to, x509.ExtKeyUsageServerAuth), ours.file)
	if err != nil {
		t.Fatal(err)
	}
	station := grant.Grant{Realm: dev, Station: "line-1", Line: "phone", Quota: 1}.URI()
	// A client's own configuration refuses what has expired, so it is put together here.
	certificate := func(by ca, from, to time.Time, usage x509.ExtKeyUsage) tls.Certificate {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		c, _ := by.sign(t, &x509.Certificate{SerialNumber: big.NewInt(3), NotBefore: from, NotAfter: to, URIs: []*url.URL{station},
			ExtKeyUsage: []x509.ExtKeyUsage{usage}, KeyUsage: x509.KeyUsageDigitalSignature}, by.cert, &key.PublicKey)
		return tls.Certificate{Certificate: [][]byte{c.Raw}, PrivateKey: key}
	}
	roots := x509.NewCertPool()
	roots.AddCert(ours.cert)
	for _, c := range []struct {
		name  string
		shown []tls.Certificate
		works bool
	}{
		{"valid", []tls.Certificate{certificate(ours, from, to, client)}, true},
		{"expired", []tls.Certificate{certificate(ours, from, now.Add(-time.Minute), client)}, true},
		{"not yet valid", []tls.Certificate{certificate(ours, now.Add(10*time.Minute), now.Add(time.Hour), client)}, false},
		{"expired before its CA began", []tls.Certificate{certificate(ours, now.Add(-4*time.Hour), now.Add(-3*time.Hour), client)}, false},
		{"of another CA", []tls.Certificate{certificate(foreign, from, to, client)}, false},
		{"of another CA and expired", []tls.Certificate{certificate(foreign, from, now.Add(-time.Minute), client)}, false},
		{"a server's", []tls.Certificate{certificate(ours, from, to, x509.ExtKeyUsageServerAuth)}, false},
		{"none", nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			config := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, Certificates: c.shown, ClientSessionCache: tls.NewLRUClientSessionCache(1)}
			for range 2 {
				if err := handshake(t, server, config); (err == nil) != c.works {
					t.Errorf("the handshake gives %v, want it to work: %v", err, c.works)
				}
			}
		})
	}
}

func TestTLSRefuses(t *testing.T) {
	t.Parallel()
	tok, label := signToken(t)
	_, other := signToken(t)
	c := newCA(t)
	now := time.Now()
	uri := grant.PeerURI(dev, "spp", "spp-1")
	server := x509.ExtKeyUsageServerAuth
	good := c.leaf(t, tok, label, uri, now.Add(-time.Minute), now.Add(time.Minute), server)
	write := func(text string) string {
		file := filepath.Join(t.TempDir(), "x.pem")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	for _, r := range []struct{ name, label, cert, ca, reason string }{
		{"good", label, good, c.file, ""},
		{"another key", other, good, c.file, "is not for key"},
		{"no key", "dev-tls-nobody", good, c.file, "no such key"},
		{"expired", label, c.leaf(t, tok, label, uri, now.Add(-time.Hour), now.Add(-time.Minute), server), c.file, "expired"},
		{"not yet valid", label, c.leaf(t, tok, label, uri, now.Add(time.Minute), now.Add(time.Hour), server), c.file, "valid only from"},
		{"a client's", label, c.leaf(t, tok, label, uri, now.Add(-time.Minute), now.Add(time.Minute), x509.ExtKeyUsageClientAuth), c.file, "another kind"},
		{"missing", label, filepath.Join(t.TempDir(), "none.pem"), c.file, "no such file"},
		{"no PEM", label, write("hello"), c.file, "PEM blocks"},
		{"something else", label, write(string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY"}))), c.file, "EC PRIVATE KEY"},
		{"too large", label, write(strings.Repeat("x", 1<<17)), c.file, "limit"},
		{"CA that is none", label, good, good, "not a CA's"},
		{"no CA", label, good, filepath.Join(t.TempDir(), "none.pem"), "no such file"},
	} {
		_, err := tokenconfig.ServerTLS(tok, r.label, r.cert, r.ca)
		if r.reason == "" && err != nil || r.reason != "" && (err == nil || !strings.Contains(err.Error(), r.reason)) {
			t.Errorf("%s: ServerTLS gives %v, want a reason with %q", r.name, err, r.reason)
		}
		var next interface{ Next() string }
		if r.reason != "" && !errors.As(err, &next) {
			t.Errorf("%s: the error tells no next step: %v", r.name, err)
		}
	}
}

func TestOpen(t *testing.T) {
	t.Parallel()
	h := softhsm.New(t)
	made := h.Token(t, "dev-open")
	odd := h.Token(t, "odd")
	pin := func(s secret.Secret) console.Path {
		file := filepath.Join(t.TempDir(), "pin")
		if err := secret.WriteFile(file, s); err != nil {
			t.Fatal(err)
		}
		return console.Path(file)
	}
	good := func() tokenconfig.Config {
		return tokenconfig.Config{
			Module: console.Path(h.Directory.Module()), Token: made.Label, PINFile: pin(made.PIN),
			LockFile: console.Path(h.Directory.LockFile()), Sessions: 2,
		}
	}
	for _, c := range []struct {
		name, reason string
		realm        identity.Realm
		change       func(*tokenconfig.Config)
		sentinel     error
	}{
		{"by label", "", dev, func(*tokenconfig.Config) {}, nil},
		{"by serial number", "", dev, func(c *tokenconfig.Config) { c.Token, c.Serial = "", made.Serial }, nil},
		{"by both", "", dev, func(c *tokenconfig.Config) { c.Serial = made.Serial }, nil},
		{"module found by itself", "", dev, func(c *tokenconfig.Config) { c.Module = "" }, nil},
		{"no realm", "realm", 0, func(*tokenconfig.Config) {}, nil},
		{"no token named", "neither token nor serial", dev, func(c *tokenconfig.Config) { c.Token = "" }, nil},
		{"no such token", "no such token", dev, func(c *tokenconfig.Config) { c.Token = "dev-none" }, hsm.ErrNoToken},
		{"no PIN file", "read secret", dev, func(c *tokenconfig.Config) { c.PINFile = "none" }, nil},
		{"wrong PIN", "PIN", dev, func(c *tokenconfig.Config) { c.PINFile = pin(secret.Random(8)) }, hsm.ErrPIN},
		{"label without realm", "labels of the development realm", dev, func(c *tokenconfig.Config) { c.Token, c.PINFile = odd.Label, pin(odd.PIN) }, nil},
		{"development token in production", "refused in production", identity.Production, func(*tokenconfig.Config) {}, hsm.ErrProduction},
		{"no module in production", "no PKCS#11 module", identity.Production, func(c *tokenconfig.Config) { c.Module = "" }, nil},
		{"no module", "none.so", dev, func(c *tokenconfig.Config) { c.Module = "none.so" }, nil},
		{"no sessions", "sessions", dev, func(c *tokenconfig.Config) { c.Sessions = 0 }, nil},
		{"long label", "bytes", dev, func(c *tokenconfig.Config) { c.Token = strings.Repeat("x", 33) }, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := good()
			c.change(&config)
			module, tok, err := tokenconfig.Open(t.Context(), c.realm, config, false)
			if c.reason != "" {
				if err == nil || !strings.Contains(err.Error(), c.reason) {
					t.Errorf("Open gives %v, want a reason with %q", err, c.reason)
				}
				var next interface{ Next() string }
				if sentinel := c.sentinel; sentinel != nil && (!errors.Is(err, sentinel) || !errors.As(err, &next)) {
					t.Errorf("Open gives %v, want %v with a next step", err, sentinel)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if tok.Info().Serial != made.Serial {
				t.Errorf("another token: %+v", tok.Info())
			}
			if err := module.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestConfigFile: the section reads as it is printed, with paths beside the file.
func TestConfigFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "c.yaml")
	if err := os.WriteFile(file, []byte("token: dev-spp\npin_file: spp.pin\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var c tokenconfig.Config
	if err := console.LoadConfig(file, &c); err != nil {
		t.Fatal(err)
	}
	if want := (tokenconfig.Config{Token: "dev-spp", PINFile: console.Path(filepath.Join(dir, "spp.pin")), Sessions: 8}); c != want {
		t.Errorf("the file gives %+v, want %+v", c, want)
	}
	var b strings.Builder
	if err := console.PrintConfigHelp(&b, c); err != nil || !strings.Contains(b.String(), "pin_file") {
		t.Errorf("the help is %q, %v", b.String(), err)
	}
}
