package station_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/devicekeys/devicekeys/audit"
	"github.com/devicekeys/devicekeys/device"
	"github.com/devicekeys/devicekeys/device/chip"
	"github.com/devicekeys/devicekeys/device/flash"
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
	"github.com/devicekeys/devicekeys/registry/registrytest"
	"github.com/devicekeys/devicekeys/registry/sequencer"
	"github.com/devicekeys/devicekeys/registry/store"
	"github.com/devicekeys/devicekeys/registry/store/storetest"
	"github.com/devicekeys/devicekeys/softhsm"
	"github.com/devicekeys/devicekeys/statement"
	"github.com/devicekeys/devicekeys/station"
)

const (
	dev = identity.Development
	tac = identity.TAC("00440200")
)

func TestMain(m *testing.M) { os.Exit(softhsm.Main(m)) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// authority is a certificate authority of software keys.
type authority struct {
	key    *ecdsa.PrivateKey
	cert   *x509.Certificate
	pool   *x509.CertPool
	serial atomic.Int64
}

func newAuthority(t testing.TB) *authority {
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
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &authority{key: key, cert: cert, pool: pool}
}

func (a *authority) issue(t testing.TB, life time.Duration, uris ...*url.URL) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1 + a.serial.Add(1)), URIs: uris,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(life), DNSNames: []string{"example.com"},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	must(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// serve serves clients of this authority.
func (a *authority) serve(t testing.TB, h http.Handler, uris ...*url.URL) *httptest.Server {
	t.Helper()
	server := httptest.NewUnstartedServer(h)
	server.EnableHTTP2 = true
	server.TLS = &tls.Config{MinVersion: tls.VersionTLS13, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: a.pool,
		Certificates: []tls.Certificate{a.issue(t, time.Hour, uris...)}}
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	server.StartTLS()
	t.Cleanup(server.Close)
	return server
}

// plant is everything that a station's line needs: an SPP with keys in SoftHSM
// and its databases, a sequencer with the registry's, TLS between them.
type plant struct {
	keys    *maker.Keys
	pool    *pooltest.Pool
	records *recordstest.Records
	ca      *authority
	maker   *registrytest.Signer // the chip maker's key
	url     string               // of the SPP
	modules string               // folder of the product line's software modules
}

func newPlant(t testing.TB) *plant {
	t.Helper()
	h := softhsm.New(t)
	token := h.Open(t, h.Token(t, "spp"))
	must(t, maker.Create(t.Context(), token, maker.Plan{Realm: dev, Masters: []maker.Master{{Version: 1, KDF: hsm.KDF1}}, Purposes: []string{"channel"}}))
	keys, err := maker.Open(t.Context(), token, dev)
	must(t, err)
	p := &plant{keys: keys, pool: pooltest.New(t), records: recordstest.New(t), ca: newAuthority(t), maker: registrytest.NewSigner(t, "chip maker")}

	dir := t.TempDir()
	p.modules = filepath.Join(dir, "modules")
	must(t, os.Mkdir(p.modules, 0o700))
	for _, name := range []string{"boot.bin", "io.bin"} {
		must(t, os.WriteFile(filepath.Join(p.modules, name), []byte("module "+name), 0o600))
	}
	text := string(profile.Phone) + "\nmodules: modules\n"
	must(t, os.WriteFile(filepath.Join(dir, "phone.yaml"), []byte(text), 0o600))
	line, err := profile.Load(filepath.Join(dir, "phone.yaml"))
	must(t, err)

	a, err := provisioning.New(provisioning.Config{
		Realm: dev, Name: "spp-1", Profiles: []profile.Profile{line}, Keys: keys, Pool: p.pool.Store, Records: p.records.Store,
		Sequencer: p.sequencer(t), AuditLog: audit.New(p.records.As("spp"), dev),
		Metrics: provisioning.NewMetrics(prometheus.NewRegistry()), Log: slog.New(slog.DiscardHandler),
	})
	must(t, err)
	p.run(t, func(ctx context.Context) error { a.Run(ctx); a.Close(context.WithoutCancel(ctx)); return nil })
	mux := http.NewServeMux()
	mux.Handle(provisioning.NewHandler(a))
	p.url = p.ca.serve(t, mux, grant.PeerURI(dev, "spp", "spp-1")).URL
	return p
}

// run runs something until the test ends.
func (p *plant) run(t testing.TB, f func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- f(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func (p *plant) sequencer(t testing.TB) *sequencer.Client {
	t.Helper()
	db := storetest.New(t)
	s, err := sequencer.New(t.Context(), store.NewWriter(db.Open(db.Roles.Sequencer)), sequencer.Options{
		Realm: dev, Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
		SubmissionKeys: []statement.PublicKey{p.keys.SubmissionKey()}, IdentityKeys: []statement.PublicKey{p.keys.ROMKey()},
	})
	must(t, err)
	p.run(t, s.Run)
	server := p.ca.serve(t, s.Handler(), grant.PeerURI(dev, "sequencer", "one"))
	return sequencer.NewClient(p.http(t, grant.PeerURI(dev, "spp", "spp-1")), server.URL)
}

// http gives a client with a certificate.
func (p *plant) http(t testing.TB, uri *url.URL) *http.Client {
	t.Helper()
	transport := station.NewTransport(&tls.Config{RootCAs: p.ca.pool, ServerName: "example.com", Certificates: []tls.Certificate{p.ca.issue(t, time.Hour, uri)}}, 4)
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// stock imports n identities.
func (p *plant) stock(t testing.TB, n int) {
	t.Helper()
	var ids []identity.Identity
	for i := range n {
		id, err := tac.IMEI(i)
		must(t, err)
		ids = append(ids, id)
	}
	_, err := p.pool.Store.Import(t.Context(), "batch", "phone", identity.TypeIMEI, ids)
	must(t, err)
}

// batch gives the counts of the one batch, which always add up.
func (p *plant) batch(t testing.TB) pool.Batch {
	t.Helper()
	b, err := p.pool.Store.Batches(t.Context())
	must(t, err)
	if b[0].Imported != b[0].Free+b[0].Reserved+b[0].Used+b[0].Burned {
		t.Errorf("the batch does not add up: %+v", b[0])
	}
	return b[0]
}

// line gives a station's line, prepared, with a journal of its own. through,
// where set, stands between the station and the network.
func (p *plant) line(t testing.TB, hands int, through func(http.RoundTripper) http.RoundTripper) *station.Line {
	t.Helper()
	hc := p.http(t, grant.Grant{Realm: dev, Station: "line-1", Line: "phone", TACs: []grant.TACRange{{From: tac, To: tac}}, Quota: 1000}.URI())
	if through != nil {
		hc.Transport = through(hc.Transport)
	}
	j, err := station.OpenJournal(filepath.Join(t.TempDir(), "journal"))
	must(t, err)
	l := &station.Line{Client: station.NewClient(hc, p.url), Journal: j, Modules: p.modules, Suite: keypackage.SuiteAttested, Hands: hands}
	must(t, l.Prepare(t.Context()))
	return l
}

// newest gives what the SPP's records have of a board.
func (p *plant) newest(t testing.TB, b *board) (records.Device, bool) {
	t.Helper()
	d, err := p.records.Store.Newest(t.Context(), b.record())
	if errors.Is(err, records.ErrNotFound) {
		return d, false
	}
	must(t, err)
	return d, true
}

// board is a device's hardware: a software chip and a flash, which outlive
// every opening. at, where set, is called before and after each use of the
// device and may end it with an error.
type board struct {
	name  string
	chip  *chip.Software
	flash *flash.Image
	at    func(ctx context.Context, point string) error

	mu     sync.Mutex
	uses   []string // since it was last asked
	opened bool
}

// boards makes n boards whose chips are listed.
func (p *plant) boards(t testing.TB, n int) []*board {
	t.Helper()
	list := keypackage.DeliveryList{Realm: dev, Maker: "chips and sons", Lot: "lot " + rand.Text()}
	var all []*board
	for i := range n {
		b := newBoard(t, fmt.Sprintf("device-%04d", i+1))
		list.Chips = append(list.Chips, keypackage.DeliveredChip{Record: b.record(), Attestation: b.chip.Attester().Public()})
		all = append(all, b)
	}
	_, _, err := p.records.Store.ImportChips(t.Context(), list, p.maker.Public())
	must(t, err)
	return all
}

func newBoard(t testing.TB, name string) *board {
	t.Helper()
	c, err := chip.NewSoftware(dev, 32, "")
	must(t, err)
	return &board{name: name, chip: c, flash: flash.NewMemory()}
}

func (b *board) record() identity.RecordID { return b.chip.ID().RecordID() }

func (b *board) fixture() station.Fixture {
	return station.Fixture{Name: b.name, Open: func(ctx context.Context) (station.Device, error) { return b.open(ctx) }}
}

func fixtures(boards []*board) []station.Fixture {
	var all []station.Fixture
	for _, b := range boards {
		all = append(all, b.fixture())
	}
	return all
}

func (b *board) open(ctx context.Context) (*hooked, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.opened {
		return nil, errors.New("the device is in use: its power was not cut")
	}
	d, err := device.Open(ctx, device.Config{Chip: b.chip, Flash: b.flash})
	if err != nil {
		return nil, err
	}
	b.opened = true
	return &hooked{d, b}, nil
}

// used gives the uses since the last call, but for closing.
func (b *board) used() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	u := slices.DeleteFunc(b.uses, func(use string) bool { return use == "Close" })
	b.uses = nil
	return u
}

// status opens the board and tells its state.
func (b *board) status(t testing.TB) device.Status {
	t.Helper()
	d, err := device.Open(t.Context(), device.Config{Chip: b.chip, Flash: b.flash})
	must(t, err)
	defer func() { must(t, d.Close(t.Context())) }()
	s, err := d.Status(t.Context())
	must(t, err)
	return s
}

// hooked is an open device with the board's hook around each call.
type hooked struct {
	*device.Device
	board *board
}

var _ station.Device = (*hooked)(nil)

func (h *hooked) around(ctx context.Context, name string, f func() error) error {
	h.board.mu.Lock()
	h.board.uses = append(h.board.uses, name)
	h.board.mu.Unlock()
	if h.board.at == nil {
		return f()
	}
	if err := h.board.at(ctx, "before "+name); err != nil {
		return err
	}
	return errors.Join(f(), h.board.at(ctx, "after "+name))
}

func (h *hooked) WriteROM(ctx context.Context, rom statement.PublicKey) error {
	return h.around(ctx, "WriteROM", func() error { return h.Device.WriteROM(ctx, rom) })
}

func (h *hooked) LoadModules(ctx context.Context, modules []device.Module) error {
	return h.around(ctx, "LoadModules", func() error { return h.Device.LoadModules(ctx, modules) })
}

func (h *hooked) Hello(ctx context.Context, suite keypackage.Suite) (hello []byte, err error) {
	err = h.around(ctx, "Hello", func() (err error) { hello, err = h.Device.Hello(ctx, suite); return err })
	return hello, err
}

func (h *hooked) Accept(ctx context.Context, pkg, unlock []byte) (a device.Accepted, err error) {
	err = h.around(ctx, "Accept", func() (err error) { a, err = h.Device.Accept(ctx, pkg, unlock); return err })
	return a, err
}

func (h *hooked) Erase(ctx context.Context) error {
	return h.around(ctx, "Erase", func() error { return h.Device.Erase(ctx) })
}

func (h *hooked) Restore(ctx context.Context, certificate, backup []byte) error {
	return h.around(ctx, "Restore", func() error { return h.Device.Restore(ctx, certificate, backup) })
}

func (h *hooked) Boot(ctx context.Context) (b *device.Booted, err error) {
	err = h.around(ctx, "Boot", func() (err error) { b, err = h.Device.Boot(ctx); return err })
	return b, err
}

func (h *hooked) Restored(ctx context.Context, challenge [32]byte) (mac []byte, err error) {
	err = h.around(ctx, "Restored", func() (err error) { mac, err = h.Device.Restored(ctx, challenge); return err })
	return mac, err
}

func (h *hooked) Published(ctx context.Context, mac []byte) (locked []byte, err error) {
	err = h.around(ctx, "Published", func() (err error) { locked, err = h.Device.Published(ctx, mac); return err })
	return locked, err
}

func (h *hooked) Stored(ctx context.Context) (certificate, backup []byte, err error) {
	err = h.around(ctx, "Stored", func() (err error) { certificate, backup, err = h.Device.Stored(ctx); return err })
	return certificate, backup, err
}

func (h *hooked) Close(ctx context.Context) error {
	return h.around(ctx, "Close", func() error {
		err := h.Device.Close(ctx)
		h.board.mu.Lock()
		defer h.board.mu.Unlock()
		h.board.opened = false
		return err
	})
}

// wire is the network under a station: at is called before a request goes out
// and after its answer came in, and may lose either.
type wire struct {
	http.RoundTripper
	at func(ctx context.Context, point string) error
}

func (w wire) RoundTrip(r *http.Request) (*http.Response, error) {
	name := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
	if err := w.at(r.Context(), "before call "+name); err != nil {
		return nil, err
	}
	res, err := w.RoundTripper.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if err := w.at(r.Context(), "after call "+name); err != nil {
		return nil, errors.Join(err, res.Body.Close())
	}
	return res, nil
}
