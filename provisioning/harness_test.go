package provisioning_test

import (
	"bytes"
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
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/devicekeys/devicekeys/audit"
	"github.com/devicekeys/devicekeys/audit/check"
	"github.com/devicekeys/devicekeys/device"
	"github.com/devicekeys/devicekeys/device/chip"
	"github.com/devicekeys/devicekeys/device/flash"
	"github.com/devicekeys/devicekeys/devicecert"
	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/hsm/maker"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning"
	"github.com/devicekeys/devicekeys/provisioning/grant"
	"github.com/devicekeys/devicekeys/provisioning/pool"
	"github.com/devicekeys/devicekeys/provisioning/pool/pooltest"
	"github.com/devicekeys/devicekeys/provisioning/profile"
	"github.com/devicekeys/devicekeys/provisioning/records"
	"github.com/devicekeys/devicekeys/provisioning/records/recordstest"
	provisioningrpc "github.com/devicekeys/devicekeys/provisioning/rpc"
	"github.com/devicekeys/devicekeys/registry/registrytest"
	"github.com/devicekeys/devicekeys/registry/sequencer"
	"github.com/devicekeys/devicekeys/registry/store"
	"github.com/devicekeys/devicekeys/registry/store/storetest"
	"github.com/devicekeys/devicekeys/softhsm"
	"github.com/devicekeys/devicekeys/statement"
)

const (
	dev = identity.Development
	tac = identity.TAC("00440200")
)

func TestMain(m *testing.M) { os.Exit(softhsm.Main(m)) }

// authority is a certificate authority of software keys.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pool *x509.CertPool
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	return &authority{key, cert, roots}
}

func (a *authority) issue(t testing.TB, life time.Duration, uris ...*url.URL) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), URIs: uris,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(life), DNSNames: []string{"example.com"},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	must(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// buffer is a bytes.Buffer for several goroutines.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// line is an SPP on real parts: keys in SoftHSM, three databases in Postgres, a
// sequencer, all RPC over mutual TLS.
type line struct {
	hsm       *softhsm.HSM
	token     *hsm.Token
	keys      *maker.Keys
	pool      *pooltest.Pool
	records   *recordstest.Records
	registry  *storetest.Database
	log       *buffer
	ca        *authority
	deviceCA  *devicecert.Authority
	roots     *devicecert.Roots
	front     *front // stands before the sequencer
	profiles  []profile.Profile
	maker     registrytest.Signer // the chip maker's key
	submitter sequencer.Client
	planted   map[string]bool // invariants that the test itself broke
	spp       *spp
}

// front is what a network does to the sequencer.
type front struct {
	mu     sync.Mutex
	handle http.Handler
	fault  func(w http.ResponseWriter, r *http.Request, next http.Handler)
}

func (f *front) set(fault func(w http.ResponseWriter, r *http.Request, next http.Handler)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault = fault
}

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	fault := f.fault
	f.mu.Unlock()
	if fault != nil {
		fault(w, r, f.handle)
		return
	}
	f.handle.ServeHTTP(w, r)
}

// newLine starts a line of the profile (default: the example, phone).
func newLine(t testing.TB, profiles ...string) *line {
	t.Helper()
	l := &line{hsm: softhsm.New(t), log: &buffer{}, ca: newAuthority(t), maker: registrytest.NewSigner(t, "chip maker")}
	l.token = l.hsm.Open(t, l.hsm.Token(t, "spp"))
	must(t, maker.Create(t.Context(), l.token, maker.Plan{Realm: dev, Masters: []maker.Master{{Version: 1, KDF: hsm.KDF1}}, Purposes: []string{"channel", "drm"}}))
	l.openKeys(t)
	l.pool, l.records, l.registry = pooltest.New(t), recordstest.New(t), storetest.New(t)
	l.newDeviceCA(t)
	if len(profiles) == 0 {
		profiles = []string{string(profile.Phone)}
	}
	for _, text := range profiles {
		p, err := profile.Parse([]byte(text), t.TempDir())
		must(t, err)
		l.profiles = append(l.profiles, p)
	}
	l.startSequencer(t)
	// Opened now, since t's context is over when the check begins, after the
	// SPPs' own ends.
	entries, log := l.registry.Reader(), l.records.As("auditor")
	identities := l.pool.As("auditor")
	t.Cleanup(func() {
		l.check(t, check.Sources{
			Realm: dev, Pool: pool.New(identities), Records: records.New(log), Audit: audit.New(log, dev),
			RegistryStore: entries, Keys: checkKeys{l.keys},
		})
	})
	l.spp = l.start(t)
	return l
}

// checkKeys are the keys as the checker wants them.
type checkKeys struct{ *maker.Keys }

func (k checkKeys) Inventory(ctx context.Context) ([]check.Key, error) {
	items, err := k.Keys.Inventory(ctx)
	var all []check.Key
	for _, i := range items {
		all = append(all, check.Key{Label: i.Label, Secret: true, Token: true, Sensitive: i.Value("CKA_SENSITIVE") == "true", Extractable: i.Value("CKA_EXTRACTABLE") == "true"})
	}
	return all, err
}

// check holds the invariants against what a test leaves, restore proofs in the
// HSM included.
func (l *line) check(t testing.TB, sources check.Sources) {
	t.Helper()
	if t.Failed() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	report := check.Run(ctx, sources)
	for _, i := range report.Invariants {
		if i.Unread != "" {
			t.Errorf("invariant %q: unread: %s", i.Name, i.Unread)
		}
		for _, v := range i.Violations {
			if !l.planted[i.Name] {
				t.Errorf("invariant %q, device %s, %v: %s", i.Name, v.Device, v.Rows, v.Cause)
			}
		}
	}
}

// newDeviceCA makes a device CA of a software key; the one in the HSM has a test
// with the program.
func (l *line) newDeviceCA(t testing.TB) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	cert, err := devicecert.SelfSigned(dev, "Test", key)
	must(t, err)
	l.deviceCA, err = devicecert.New(cert, key)
	must(t, err)
	l.roots, err = devicecert.NewRoots(dev, cert)
	must(t, err)
}

func (l *line) openKeys(t testing.TB) {
	t.Helper()
	var err error
	l.keys, err = maker.Open(t.Context(), l.token, dev)
	must(t, err)
}

func (l *line) startSequencer(t testing.TB) {
	t.Helper()
	s, err := sequencer.New(t.Context(), store.NewWriter(l.registry.Open(l.registry.Roles.Sequencer)), sequencer.Options{
		Realm: dev, Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
		SubmissionKeys: []statement.PublicKey{l.keys.SubmissionKey()}, IdentityKeys: []statement.PublicKey{l.keys.ROMKey()},
	})
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	l.front = &front{handle: s.Handler()}
	server := l.serve(t, l.front, "sequencer", "one")
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	l.submitter = *sequencer.NewClient(l.client(t, l.ca.issue(t, time.Hour, grant.PeerURI(dev, "spp", "spp-1"))), server.URL)
}

func (l *line) serve(t testing.TB, h http.Handler, role, name string) *httptest.Server {
	t.Helper()
	return l.serveWith(t, h, role, name, true)
}

// serveWith serves behind TLS that asks for a client's certificate, and verifies
// it or not.
func (l *line) serveWith(t testing.TB, h http.Handler, role, name string, verify bool) *httptest.Server {
	t.Helper()
	auth := tls.RequireAndVerifyClientCert
	if !verify {
		auth = tls.RequireAnyClientCert
	}
	server := httptest.NewUnstartedServer(h)
	server.EnableHTTP2 = true
	server.TLS = &tls.Config{MinVersion: tls.VersionTLS13, ClientAuth: auth, ClientCAs: l.ca.pool,
		Certificates: []tls.Certificate{l.ca.issue(t, time.Hour, grant.PeerURI(dev, role, name))}}
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	server.StartTLS()
	t.Cleanup(server.Close)
	return server
}

func (l *line) client(t testing.TB, certificates ...tls.Certificate) *http.Client {
	t.Helper()
	transport := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{
		RootCAs: l.ca.pool, ServerName: "example.com", Certificates: certificates}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: time.Minute}
}

// spp is one process's worth of an SPP.
type spp struct {
	*provisioning.Assembly
	server  *httptest.Server
	metrics *prometheus.Registry
	stop    func() // as a program stops; may be called twice
}

// start starts an SPP on the line's parts: another one, or the same again.
func (l *line) start(t testing.TB, change ...func(*provisioning.Config)) *spp {
	t.Helper()
	s := &spp{metrics: prometheus.NewRegistry()}
	c := provisioning.Config{
		Realm: dev, Name: "spp-1", Profiles: l.profiles, Keys: l.keys, DeviceCA: l.deviceCA, Pool: l.pool.Store, Records: l.records.Store, Sequencer: &l.submitter,
		AuditLog: audit.New(l.records.As("spp"), dev), Metrics: provisioning.NewMetrics(s.metrics),
		Log: slog.New(slog.NewTextHandler(l.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	for _, f := range change {
		f(&c)
	}
	var err error
	s.Assembly, err = provisioning.New(c)
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.Run(ctx)
	}()
	mux := http.NewServeMux()
	mux.Handle(provisioning.NewHandler(s.Assembly))
	s.server = l.serve(t, mux, "spp", "spp-1")
	s.stop = sync.OnceFunc(func() {
		s.Halt()
		s.server.Close()
		cancel()
		<-ended
		s.Close(context.Background())
	})
	t.Cleanup(s.stop)
	return s
}

// stationGrant is what the tests' stations may do, unless they say otherwise.
func stationGrant() grant.Grant {
	return grant.Grant{Realm: dev, Station: "line-1", Line: "phone", TACs: []grant.TACRange{{From: tac, To: tac}}, Quota: 1000}
}

// station gives a client with a station's certificate.
func (l *line) station(t testing.TB, change ...func(*grant.Grant)) provisioningrpc.AssemblyServiceClient {
	t.Helper()
	return l.stationOf(t, l.spp, change...)
}

func (l *line) stationOf(t testing.TB, s *spp, change ...func(*grant.Grant)) provisioningrpc.AssemblyServiceClient {
	t.Helper()
	g := stationGrant()
	for _, f := range change {
		f(&g)
	}
	return provisioningrpc.NewAssemblyServiceClient(l.client(t, l.ca.issue(t, time.Hour, g.URI())), s.server.URL)
}

// stock imports n identities into the pool of a product line.
func (l *line) stock(t testing.TB, first, n int) []identity.Identity {
	t.Helper()
	var ids []identity.Identity
	for i := range n {
		id, err := tac.IMEI(first + i)
		must(t, err)
		ids = append(ids, id)
	}
	_, err := l.pool.Store.Import(t.Context(), "batch from "+ids[0].String(), "phone", identity.TypeIMEI, ids)
	must(t, err)
	return ids
}

// hand is a device in somebody's hand: a software chip and its flash.
type hand struct {
	*device.Device
	chip  *chip.Software
	flash *flash.Image
}

// device makes a device with the maker's ROM key, listed or not.
func (l *line) device(t testing.TB, listed bool) *hand {
	t.Helper()
	return l.deviceOf(t, listed, 32)
}

func (l *line) deviceOf(t testing.TB, listed bool, size int) *hand {
	t.Helper()
	c, err := chip.NewSoftware(dev, size, "")
	must(t, err)
	h := &hand{chip: c, flash: flash.NewMemory()}
	h.Device, err = device.Open(t.Context(), device.Config{Chip: c, Flash: h.flash})
	must(t, err)
	t.Cleanup(func() {
		if err := h.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	must(t, h.WriteROM(t.Context(), l.keys.ROMKey()))
	if listed {
		l.list(t, h)
	}
	return h
}

// list imports a delivery list that names the device's chip.
func (l *line) list(t testing.TB, devices ...*hand) {
	t.Helper()
	list := keypackage.DeliveryList{Realm: dev, Maker: "chips and sons", Lot: "lot " + rand.Text()}
	for _, h := range devices {
		list.Chips = append(list.Chips, keypackage.DeliveredChip{Record: h.chip.ID().RecordID(), Attestation: h.chip.Attester().Public()})
	}
	_, _, err := l.records.Store.ImportChips(t.Context(), list, l.maker.Public())
	must(t, err)
}

func (h *hand) hello(t testing.TB, suite keypackage.Suite) []byte {
	t.Helper()
	b, err := h.Hello(t.Context(), suite)
	must(t, err)
	return b
}

// must ends the test on an error.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		var r *connect.Error
		if errors.As(err, &r) {
			t.Fatalf("%v %v", err, detail(r))
		}
		t.Fatal(err)
	}
}

// detail gives a refusal's detail.
func detail(e *connect.Error) *provisioningrpc.Refusal {
	for _, d := range e.Details() {
		if v, err := d.Value(); err == nil {
			if r, ok := v.(*provisioningrpc.Refusal); ok {
				return r
			}
		}
	}
	return nil
}

// refused checks that a call was refused as it should be, and says what to do.
func refused(t testing.TB, err error, class connect.Code, code provisioning.Code) {
	t.Helper()
	var e *connect.Error
	if !errors.As(err, &e) {
		t.Errorf("got %v, a refusal %q is expected", err, code)
		return
	}
	d := detail(e)
	if e.Code() != class || d.GetCode() != string(code) {
		t.Errorf("got %v, %q: %v; %v, %q is expected", e.Code(), d.GetCode(), err, class, code)
	}
	if d.GetNext() == "" {
		t.Errorf("refusal %q tells no next step", d.GetCode())
	}
	if (e.Code() == connect.CodeUnavailable) != (d.GetRetryAfterMs() > 0 && e.Meta().Get("Retry-After") != "") {
		t.Errorf("refusal %q, %v: retry after %d ms, header %q", d.GetCode(), e.Code(), d.GetRetryAfterMs(), e.Meta().Get("Retry-After"))
	}
	if strings.Contains(err.Error(), "provisioning.") || strings.Contains(err.Error(), "pq:") {
		t.Errorf("the message shows the inside: %v", err)
	}
}
