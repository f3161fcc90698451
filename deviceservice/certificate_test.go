package deviceservice_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/devicekeys/devicekeys/channel"
	"github.com/devicekeys/devicekeys/devicecert"
	"github.com/devicekeys/devicekeys/deviceservice"
	"github.com/devicekeys/devicekeys/deviceservice/issued"
	"github.com/devicekeys/devicekeys/deviceservice/issued/issuedtest"
	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning/records"
	"github.com/devicekeys/devicekeys/statement"
)

// published are the certificates of a registry.
type published struct {
	mu         sync.Mutex
	generation identity.Generation
	all        [][]byte
	err        error
}

func (p *published) Certificates(context.Context, identity.RecordID) (identity.Generation, [][]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.generation, p.all, p.err
}

func (p *published) set(g identity.Generation, err error, all ...[]byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.generation, p.all, p.err = g, all, err
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return k
}

// ca is a device CA.
type ca struct {
	cert      *x509.Certificate
	authority *devicecert.Authority
	roots     *devicecert.Roots
}

func newCA(t testing.TB) ca {
	t.Helper()
	signer := newKey(t)
	cert, err := devicecert.SelfSigned(dev, "Test", signer)
	must(t, err)
	a, err := devicecert.New(cert, signer)
	must(t, err)
	r, err := devicecert.NewRoots(dev, cert)
	must(t, err)
	return ca{cert, a, r}
}

// certify gives a certificate of a key, for a record or made in advance.
func (c ca) certify(t testing.TB, public crypto.PublicKey, r devicecert.Request) *x509.Certificate {
	t.Helper()
	point, err := public.(*ecdsa.PublicKey).Bytes()
	must(t, err)
	r.Public, err = statement.ParsePoint(point)
	must(t, err)
	r.Realm, r.ProductLine = dev, "phone"
	if r.Use == keypackage.UseNone {
		r.Use = keypackage.UseSignature
	}
	der, err := c.authority.Certify(t.Context(), r)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	return cert
}

// TestCertificate: the certificate must be of the device CA, name no other device, be the device's by the records, and be
// listed for the current generation of the record.
func TestCertificate(t *testing.T) {
	t.Parallel()
	r, ours, theirs := issuedtest.New(t), newCA(t), newCA(t)
	cache, err := issued.NewCache(r.Store, issued.Options{})
	must(t, err)
	list := &published{}
	s, err := deviceservice.New(deviceservice.Options{
		Realm: dev, Ways: []deviceservice.Way{deviceservice.Certificate}, Issued: cache, Certificates: list, Roots: ours.roots,
	})
	must(t, err)
	d := r.Put(1, 2, records.Shipped)
	r.Put(2, 1, records.Quarantined)
	public := newKey(t).Public()
	strange := issuedtest.Chip(t, 9).RecordID()
	r.Put(4, 1, records.Shipped)
	r.Exec(`update device set line = 'watch' where record_id = $1`, recordOf(t, 4))
	line := issuedtest.Chip(t, 4).RecordID()
	own := ours.certify(t, public, devicecert.Request{Record: &d.Record})
	advance := ours.certify(t, public, devicecert.Request{})
	named := ours.certify(t, public, devicecert.Request{Record: &d.Record, Identity: d.Identity})
	others := ours.certify(t, public, devicecert.Request{Record: &strange})
	misnamed := ours.certify(t, public, devicecert.Request{Record: &d.Record, Identity: issuedtest.IMEI(t, 9)})
	foreign := theirs.certify(t, public, devicecert.Request{Record: &d.Record})
	agreement := ours.certify(t, public, devicecert.Request{Record: &d.Record, Use: keypackage.UseAgreement})
	watch := ours.certify(t, public, devicecert.Request{Record: &line})
	strangers := ours.certify(t, newKey(t).Public(), devicecert.Request{}) // another genuine device's
	r.Certify(1, 2, records.Shipped, own.Raw, advance.Raw, named.Raw, others.Raw, misnamed.Raw, foreign.Raw, agreement.Raw)
	const in deviceservice.Reason = ""
	for _, c := range []struct {
		name       string
		n          int
		generation identity.Generation
		shown      *x509.Certificate
		listed     identity.Generation
		list       [][]byte
		away       error
		reason     deviceservice.Reason
	}{
		{"of the record", 1, 2, own, 2, [][]byte{advance.Raw, own.Raw}, nil, in},
		{"made in advance", 1, 2, advance, 2, [][]byte{advance.Raw}, nil, in},
		{"with the identity", 1, 2, named, 2, [][]byte{named.Raw}, nil, in},
		{"not listed", 1, 2, own, 2, [][]byte{advance.Raw}, nil, deviceservice.ReasonCert},
		{"made in advance, not listed", 1, 2, advance, 2, [][]byte{own.Raw}, nil, deviceservice.ReasonCert},
		{"another device's, listed by a registry that lies", 1, 2, strangers, 2, [][]byte{strangers.Raw}, nil, deviceservice.ReasonCert},
		{"nothing is listed", 1, 2, own, 2, nil, nil, deviceservice.ReasonCert},
		{"listed for an earlier generation", 1, 2, own, 1, [][]byte{own.Raw}, nil, deviceservice.ReasonCert},
		{"of another record", 1, 2, others, 2, [][]byte{others.Raw}, nil, deviceservice.ReasonCert},
		{"of another identity", 1, 2, misnamed, 2, [][]byte{misnamed.Raw}, nil, deviceservice.ReasonCert},
		{"of another CA", 1, 2, foreign, 2, [][]byte{foreign.Raw}, nil, deviceservice.ReasonStranger},
		{"of a key that agrees", 1, 2, agreement, 2, [][]byte{agreement.Raw}, nil, deviceservice.ReasonCert},
		{"none is shown", 1, 2, nil, 2, [][]byte{own.Raw}, nil, deviceservice.ReasonStranger},
		{"of another product line", 4, 1, watch, 1, [][]byte{watch.Raw}, nil, deviceservice.ReasonCert},
		{"the registry is away", 1, 2, own, 0, nil, errors.New("connection refused"), deviceservice.ReasonAway},
		{"the registry is away, made in advance", 1, 2, advance, 0, nil, errors.New("connection refused"), deviceservice.ReasonAway},
		{"the registry is away, of another record", 1, 2, others, 0, nil, errors.New("connection refused"), deviceservice.ReasonCert},
		{"superseded", 1, 1, own, 1, [][]byte{own.Raw}, nil, deviceservice.ReasonSuperseded},
		{"quarantined", 2, 1, own, 1, [][]byte{own.Raw}, nil, deviceservice.ReasonInactive},
		{"never issued", 3, 1, own, 1, [][]byte{own.Raw}, nil, deviceservice.ReasonUnknown},
	} {
		list.set(c.listed, c.away, c.list...)
		hello := channel.Hello{Suite: channel.SuiteCertificate, Realm: dev, Identity: issuedtest.IMEI(t, c.n), Generation: c.generation}
		err := s.AdmitCertificate(t.Context(), hello, c.shown)
		var told interface{ RetryAfter() time.Duration }
		if want := c.reason == deviceservice.ReasonAway && c.shown == own; errors.As(err, &told) != want {
			t.Errorf("%s: told to come again is %v", c.name, !want)
		}
		if c.reason == in && err != nil || c.reason != in && (err == nil || deviceservice.ReasonOf(err) != c.reason) {
			t.Errorf("%s: %v, want %q", c.name, err, c.reason)
		}
	}
	// The suites don't stand in for each other.
	hello := channel.Hello{Suite: channel.SuiteNoise, Realm: dev, Key: channelKey, Identity: d.Identity, Generation: 2}
	if _, err := s.Admit(t.Context(), hello); deviceservice.ReasonOf(err) != deviceservice.ReasonWay {
		t.Errorf("a symmetric key where certificates alone are allowed: %v", err)
	}
	if err := s.AdmitCertificate(t.Context(), hello, own); deviceservice.ReasonOf(err) != deviceservice.ReasonWay {
		t.Errorf("a certificate in suite 1: %v", err)
	}
	hello.Suite = channel.SuiteCertificate
	if _, err := s.Admit(t.Context(), hello); deviceservice.ReasonOf(err) != deviceservice.ReasonWay {
		t.Errorf("a certificate asked for as a key: %v", err)
	}
}

// TestTLSSuites: one service takes devices in all three suites; the device's pair is in a token.
func TestTLSSuites(t *testing.T) {
	t.Parallel()
	devices, list := newCA(t), &published{}
	service := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "service"}, DNSNames: []string{"service.example"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, service.Public(), service)
	must(t, err)
	own, err := x509.ParseCertificate(der)
	must(t, err)
	trusted, cas := x509.NewCertPool(), x509.NewCertPool()
	trusted.AddCert(own)
	cas.AddCert(devices.cert)
	p := newPlant(t, func(o *deviceservice.Options) {
		o.Ways = []deviceservice.Way{deviceservice.Derived, deviceservice.Certificate}
		o.Certificates, o.Roots = list, devices.roots
		o.Channel.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: service}}, ClientCAs: cas}
	})
	d := p.records.Put(1, 1, records.Shipped)
	tok := p.hsm.Open(t, p.hsm.SignToken)
	label := "dev-tls-" + strings.ToLower(rand.Text())
	_, err = tok.Generate(t.Context(), hsm.Spec{Kind: hsm.TLSKey, Label: label, Token: true})
	must(t, err)
	signer, err := tok.Signer(label)
	must(t, err)
	cert := devices.certify(t, signer.Public(), devicecert.Request{Record: &d.Record})
	p.records.Certify(1, 1, records.Shipped, cert.Raw)
	list.set(1, nil, cert.Raw)

	noise := p.device(1, 1)
	inTLS := noise
	inTLS.Hello.Suite = channel.SuiteTLS
	inTLS.TLS = &tls.Config{RootCAs: trusted, ServerName: "service.example"}
	pair := inTLS
	pair.MAC = nil
	pair.Hello.Suite, pair.Hello.Key = channel.SuiteCertificate, keypackage.KeyID{Name: "sign"}
	pair.TLS = &tls.Config{RootCAs: trusted, ServerName: "service.example", Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: signer}}}
	for _, c := range []channel.DeviceConfig{noise, inTLS, pair} {
		one := p.mustDial(c)
		if b, err := one.Echo(t.Context(), []byte("hi")); err != nil || string(b) != "hi" {
			t.Errorf("%s: %q, %v", c.Hello.Suite, b, err)
		}
		must(t, one.Close())
		if n := p.metric("devicekeys_service_handshakes_total", "outcome=ok", "suite="+c.Hello.Suite.String()); n != 1 {
			t.Errorf("%s: %g handshakes counted", c.Hello.Suite, n)
		}
	}
	// With the same certificate as another device; with a wrong key in TLS.
	other := p.records.Put(2, 1, records.Shipped)
	pair.Hello.Identity = other.Identity
	if _, err := p.dial(pair); err == nil {
		t.Error("a certificate serves another device")
	}
	inTLS.Hello.Identity = other.Identity
	if _, err := p.dial(inTLS); !errors.Is(err, channel.ErrRefused) {
		t.Errorf("a key serves another device: %v", err)
	}
	for _, outcome := range []string{"certificate", "proof"} {
		await(t, outcome+" is counted", func() bool {
			return p.metric("devicekeys_service_handshakes_total", "outcome="+outcome) == 1
		})
	}
}

// TestLimited: who comes too often is told when to come again, before records and HSM are asked.
func TestLimited(t *testing.T) {
	t.Parallel()
	p := newPlant(t, func(o *deviceservice.Options) {
		o.Channel.Limiter = channel.NewLimiter(channel.Rate{}, channel.Rate{PerSecond: 1e-3, Burst: 2})
	})
	p.records.Put(1, 1, records.Shipped)
	d := p.device(1, 1)
	for range 2 {
		p.mustDial(d)
	}
	var busy *channel.BusyError
	if _, err := p.dial(d); !errors.As(err, &busy) || busy.After <= 0 {
		t.Errorf("the third time gives %v", err)
	}
	await(t, "it is counted", func() bool { return p.metric("devicekeys_service_handshakes_total", "outcome=limited") == 1 })
	if n := p.metric("devicekeys_service_keys_total"); n != 2 {
		t.Errorf("%g keys were brought into the HSM", n)
	}
}
