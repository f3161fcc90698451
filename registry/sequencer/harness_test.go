package sequencer_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/registry"
	"github.com/devicekeys/devicekeys/registry/registrytest"
	"github.com/devicekeys/devicekeys/registry/sequencer"
	"github.com/devicekeys/devicekeys/statement"
)

// authority is a certificate authority of software keys.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pool *x509.CertPool
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &authority{key, cert, pool}
}

// issue makes a certificate that names its holder by URIs.
func (a *authority) issue(t testing.TB, life time.Duration, uris ...string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()),
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(life),
		DNSNames: []string{"example.com"}, // what httptest's client asks for
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}
	for _, s := range uris {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		template.URIs = append(template.URIs, u)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

const (
	submitterName = "spp-1"
	submitterURI  = "devicekeys://development/spp/" + submitterName
)

// rig is a sequencer behind mutual TLS.
type rig struct {
	*sequencer.Service
	Registry *prometheus.Registry
	ca       *authority
	server   *httptest.Server
	stop     func() error // ends Run, gives its error; may be called twice
}

func submissionKey(t testing.TB) registrytest.Signer {
	return registrytest.NewSigner(t, "submission")
}

func options(t testing.TB) sequencer.Options {
	return sequencer.Options{Realm: identity.Development, Log: slog.New(slog.DiscardHandler),
		SubmissionKeys: []statement.PublicKey{submissionKey(t).Public()},
		IdentityKeys:   []statement.PublicKey{registrytest.NewSigner(t, "identity-signing before").Public(), registrytest.ROM(t).Public()}}
}

// start starts a sequencer on a log until the test ends.
func start(t testing.TB, log sequencer.Log, change ...func(*sequencer.Options)) *rig {
	t.Helper()
	o := options(t)
	r := &rig{Registry: prometheus.NewRegistry(), ca: newAuthority(t)}
	o.Registerer = r.Registry
	for _, f := range change {
		f(&o)
	}
	var err error
	if r.Service, err = sequencer.New(t.Context(), log, o); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	var runErr error
	go func() {
		defer close(ended)
		runErr = r.Run(ctx)
	}()
	r.server = httptest.NewUnstartedServer(r.Handler())
	r.server.EnableHTTP2 = true
	r.server.TLS = &tls.Config{MinVersion: tls.VersionTLS13, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: r.ca.pool,
		Certificates: []tls.Certificate{r.ca.issue(t, time.Hour, "devicekeys://development/sequencer/one")}}
	r.server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	r.server.StartTLS()
	r.stop = func() error {
		cancel()
		<-ended
		return runErr
	}
	t.Cleanup(func() {
		_ = r.stop() // what it returns is the test's to ask
		r.server.Close()
	})
	return r
}

// client connects with a certificate of the rig's CA.
func (r *rig) client(t testing.TB, certs ...tls.Certificate) *sequencer.Client {
	t.Helper()
	transport := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{
		RootCAs: r.ca.pool, ServerName: "example.com", Certificates: certs}}
	t.Cleanup(transport.CloseIdleConnections)
	return sequencer.NewClient(&http.Client{Transport: transport}, r.server.URL)
}

// spp connects as the SPP.
func (r *rig) spp(t testing.TB) *sequencer.Client {
	t.Helper()
	return r.client(t, r.ca.issue(t, time.Hour, submitterURI))
}

// submission signs entries as the SPP does.
func submission(t testing.TB, entries ...registry.Entry) []byte {
	return registrytest.Submission(t, submissionKey(t), submitterName, entries...)
}

// submit submits once, and fails the test if the whole submission is refused.
func submit(t testing.TB, c *sequencer.Client, entries ...registry.Entry) []sequencer.Ack {
	t.Helper()
	acks, err := c.Submit(t.Context(), submission(t, entries...))
	if err != nil {
		t.Fatal(err)
	}
	return acks
}

// persist submits until the sequencer has an answer, as the SPP does.
func persist(ctx context.Context, c func() *sequencer.Client, raw []byte) ([]sequencer.Ack, error) {
	for {
		acks, err := c().Submit(ctx, raw)
		if err == nil {
			return acks, nil
		}
		if _, ok := sequencer.Retry(err); !ok || ctx.Err() != nil {
			return nil, errors.Join(err, ctx.Err())
		}
		select {
		case <-time.After(20 * time.Millisecond): // the time it names is for the real world
		case <-ctx.Done():
		}
	}
}

// metric gives the value of a counter or gauge, of its only label's value.
func (r *rig) metric(t testing.TB, name string, label ...string) float64 {
	t.Helper()
	families, err := r.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			if len(label) == 0 || m.GetLabel()[0].GetValue() == label[0] {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	t.Fatalf("there is no metric %s %v", name, label)
	return 0
}
