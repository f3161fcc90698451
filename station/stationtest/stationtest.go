// Package stationtest gives tests of stations everything around one: SPPs with
// keys in SoftHSM and databases in Postgres, a sequencer with the registry's,
// mutual TLS between them. It is for tests alone.
package stationtest

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/devicekeys/devicekeys/audit"
	"github.com/devicekeys/devicekeys/device/chip"
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
	// Realm is the plant's.
	Realm = identity.Development
	// TAC is that of the identities it imports.
	TAC = identity.TAC("00440200")
	// Line is its product line.
	Line = "phone"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Plant is everything around a station.
type Plant struct {
	Keys     *maker.Keys
	Pool     *pooltest.Pool
	Records  *recordstest.Records
	CA       *Authority
	Maker    registrytest.Signer // the chip maker's key
	Modules  string              // folder of the product line's software modules
	Registry *Gate               // before the sequencer: shut, the registry is away
	SPP      *SPP                // the first one

	profile   profile.Profile
	sequencer string // its URL
}

// New makes a plant with one SPP; all of it ends with the test.
func New(t testing.TB) *Plant {
	t.Helper()
	h := softhsm.New(t)
	token := h.Open(t, h.Token(t, "spp"))
	must(t, maker.Create(t.Context(), token, maker.Plan{Realm: Realm, Masters: []maker.Master{{Version: 1, KDF: hsm.KDF1}}, Purposes: []string{"channel"}}))
	keys, err := maker.Open(t.Context(), token, Realm)
	must(t, err)
	p := &Plant{Keys: keys, Pool: pooltest.New(t), Records: recordstest.New(t), CA: NewAuthority(t), Maker: registrytest.NewSigner(t, "chip maker")}

	dir := t.TempDir()
	p.Modules = filepath.Join(dir, "modules")
	must(t, os.Mkdir(p.Modules, 0o700))
	for _, name := range []string{"boot.bin", "io.bin"} {
		must(t, os.WriteFile(filepath.Join(p.Modules, name), []byte("module "+name), 0o600))
	}
	text := string(profile.Phone) + "\nmodules: modules\n"
	must(t, os.WriteFile(filepath.Join(dir, "phone.yaml"), []byte(text), 0o600))
	p.profile, err = profile.Load(filepath.Join(dir, "phone.yaml"))
	must(t, err)
	p.startSequencer(t)
	p.SPP = p.AddSPP(t, "spp-1")
	return p
}

// run runs something until the test ends, or until stop is called.
func run(t testing.TB, f func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := f(ctx); err != nil {
			t.Error(err)
		}
	}()
	stop = func() { cancel(); <-ended }
	t.Cleanup(stop)
	return stop
}

func (p *Plant) startSequencer(t testing.TB) {
	t.Helper()
	db := storetest.New(t)
	s, err := sequencer.New(t.Context(), store.NewWriter(db.Open(db.Roles.Sequencer)), sequencer.Options{
		Realm: Realm, Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
		SubmissionKeys: []statement.PublicKey{p.Keys.SubmissionKey()}, IdentityKeys: []statement.PublicKey{p.Keys.ROMKey()},
	})
	must(t, err)
	run(t, s.Run)
	p.Registry = &Gate{next: s.Handler()}
	p.sequencer = p.CA.Serve(t, p.Registry, grant.PeerURI(Realm, "sequencer", "one")).URL
}

// SPP is one SPP of a plant; all of a plant have the same keys and databases.
type SPP struct {
	URL  string
	Gate *Gate // before it

	plant    *Plant
	name     string
	tls      *tls.Config
	registry *sequencer.Client
	assembly *provisioning.Assembly
	server   *http.Server
	stop     func()
}

// AddSPP starts another SPP.
func (p *Plant) AddSPP(t testing.TB, name string) *SPP {
	t.Helper()
	uri := grant.PeerURI(Realm, "spp", name)
	s := &SPP{plant: p, name: name, tls: p.CA.TLS(t, uri), registry: sequencer.NewClient(p.HTTP(t, uri), p.sequencer), Gate: &Gate{}}
	s.tls.NextProtos = []string{"h2", "http/1.1"}
	s.start(t, "127.0.0.1:0")
	t.Cleanup(func() { s.Stop(t) })
	return s
}

func (s *SPP) start(t testing.TB, address string) {
	t.Helper()
	p := s.plant
	var err error
	s.assembly, err = provisioning.New(provisioning.Config{
		Realm: Realm, Name: s.name, Profiles: []profile.Profile{p.profile}, Keys: p.Keys, Pool: p.Pool.Store, Records: p.Records.Store,
		Sequencer: s.registry, AuditLog: audit.New(p.Records.As("spp"), Realm),
		Metrics: provisioning.NewMetrics(prometheus.NewRegistry()), Log: slog.New(slog.DiscardHandler),
	})
	must(t, err)
	s.stop = run(t, func(ctx context.Context) error { s.assembly.Run(ctx); return nil })
	mux := http.NewServeMux()
	mux.Handle(provisioning.NewHandler(s.assembly))
	s.Gate.lead(mux)
	l, err := net.Listen("tcp", address)
	must(t, err)
	s.URL = "https://" + l.Addr().String()
	server := &http.Server{Handler: s.Gate, TLSConfig: s.tls.Clone(), ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	s.server = server
	go func() {
		if err := server.ServeTLS(l, "", ""); !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	}()
}

// stopTimeout bounds a graceful stop: calls under way end by themselves.
const stopTimeout = 30 * time.Second

// Stop stops the SPP as SIGTERM does: who waits is told so, calls under way end.
func (s *SPP) Stop(t testing.TB) {
	t.Helper()
	if s.server == nil {
		return
	}
	s.assembly.Stop()
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	must(t, s.server.Shutdown(ctx))
	s.ended()
}

// Cut ends the SPP's connections at once, as its host's death does, and stops it.
func (s *SPP) Cut(t testing.TB) {
	t.Helper()
	must(t, s.server.Close())
	s.ended()
}

func (s *SPP) ended() {
	s.Gate.drain()
	s.stop()
	s.assembly.Close(context.Background())
	s.server = nil
}

// Start starts a stopped SPP again, at its old address.
func (s *SPP) Start(t testing.TB) {
	t.Helper()
	s.start(t, s.URL[len("https://"):])
}

// HTTP gives a client with a certificate of the plant's authority.
func (p *Plant) HTTP(t testing.TB, uri *url.URL) *http.Client {
	t.Helper()
	transport := station.NewTransport(&tls.Config{RootCAs: p.CA.Pool, ServerName: "example.com", Certificates: []tls.Certificate{p.CA.Issue(t, time.Hour, uri)}}, 4)
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// Grant is what a station of the plant's line may.
func Grant(name string) grant.Grant {
	return grant.Grant{Realm: Realm, Station: name, Line: Line, TACs: []grant.TACRange{{From: TAC, To: TAC}}, Quota: 1000}
}

// Stock imports n identities.
func (p *Plant) Stock(t testing.TB, n int) {
	t.Helper()
	var ids []identity.Identity
	for i := range n {
		id, err := TAC.IMEI(i)
		must(t, err)
		ids = append(ids, id)
	}
	_, err := p.Pool.Store.Import(t.Context(), "batch", Line, identity.TypeIMEI, ids)
	must(t, err)
}

// Batch gives the counts of the one batch, which always add up.
func (p *Plant) Batch(t testing.TB) pool.Batch {
	t.Helper()
	b, err := p.Pool.Store.Batches(t.Context())
	must(t, err)
	if b[0].Imported != b[0].Free+b[0].Reserved+b[0].Used+b[0].Burned {
		t.Errorf("the batch does not add up: %+v", b[0])
	}
	return b[0]
}

// Chips makes n software chips that a delivery list names.
func (p *Plant) Chips(t testing.TB, n int) []*chip.Software {
	t.Helper()
	var all []*chip.Software
	for range n {
		c, err := chip.NewSoftware(Realm, 32, "")
		must(t, err)
		all = append(all, c)
	}
	p.Deliver(t, all...)
	return all
}

// Deliver imports a delivery list that names these chips.
func (p *Plant) Deliver(t testing.TB, chips ...*chip.Software) {
	t.Helper()
	var delivered []keypackage.DeliveredChip
	for _, c := range chips {
		delivered = append(delivered, keypackage.DeliveredChip{Record: c.ID().RecordID(), Attestation: c.Attester().Public()})
	}
	p.DeliverList(t, delivered...)
}

// DeliverList is Deliver for chips of any kind.
func (p *Plant) DeliverList(t testing.TB, chips ...keypackage.DeliveredChip) {
	t.Helper()
	list := keypackage.DeliveryList{Realm: Realm, Maker: "chips and sons", Lot: "lot " + rand.Text(), Chips: chips}
	_, _, err := p.Records.Store.ImportChips(t.Context(), list, p.Maker.Public())
	must(t, err)
}

// Newest gives what the SPP's records have of a device; ok is false where they
// have nothing.
func (p *Plant) Newest(t testing.TB, r identity.RecordID) (d records.Device, ok bool) {
	t.Helper()
	d, err := p.Records.Store.Newest(t.Context(), r)
	if errors.Is(err, records.ErrNotFound) {
		return d, false
	}
	must(t, err)
	return d, true
}
