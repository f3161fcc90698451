// Package checktest makes small worlds to check: a maker's databases and
// registry with devices in every state, made through the real stores in the real
// formats. It is for tests alone.
package checktest

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/sha256"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/devicekeys/devicekeys/audit"
	"github.com/devicekeys/devicekeys/audit/check"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning/pool"
	"github.com/devicekeys/devicekeys/provisioning/pool/pooltest"
	"github.com/devicekeys/devicekeys/provisioning/records"
	"github.com/devicekeys/devicekeys/provisioning/records/recordstest"
	"github.com/devicekeys/devicekeys/registry"
	"github.com/devicekeys/devicekeys/registry/registrytest"
	"github.com/devicekeys/devicekeys/registry/store"
	"github.com/devicekeys/devicekeys/registry/store/storetest"
	"github.com/devicekeys/devicekeys/statement"
)

const dev = identity.Development

// Maker is what a world needs of the maker's keys; *maker.Keys and SoftKeys are
// such.
type Maker interface {
	ROMKey() statement.PublicKey
	AuditKey() statement.PublicKey
	DeviceKey(ctx context.Context, key keypackage.KeyID, context []byte) (keypackage.MACKey, error)
	SignCertificate(ctx context.Context, claims []byte) (identity.Certificate, error)
	SignUnlock(ctx context.Context, u identity.Unlock) ([]byte, error)
	SignRegistryStatement(ctx context.Context, leaf []byte) ([]byte, error)
	SignAuditHead(ctx context.Context, payload []byte) ([]byte, error)
}

// World is a maker with a line that has run for a while: three databases and the
// registry's HTTP side. It serves one test at a time; T is that one.
type World struct {
	T        testing.TB
	Pool     *pooltest.Pool
	Records  *recordstest.Records
	Registry *storetest.Database
	Maker    Maker

	pairs   *pairs // of the device that is made now; nil: it has none
	entries int64  // in the registry
	writer  *store.Writer
	reader  *store.Reader
}

// The devices of a world beside the shipped ones, as their distance from those:
// chip shipped+Abandoned is one whose next generation was abandoned.
const (
	Superseded  = iota // generation 1 superseded, generation 2 published
	Reserved           // reserved
	Packaged           // packaged
	Confirmed          // confirmed
	Restored           // restored
	Burned             // generation 1 burned, generation 2 shipped with another identity
	HeldOnLine         // quarantined by the SPP, confirmed before
	HeldInField        // quarantined by an operator, shipped before
	Released           // quarantined and released: shipped
	Returned           // shipped and returned: published
	Scrapped           // shipped and scrapped; its identity is Swapped's now
	Swapped            // shipped, with Scrapped's identity
	Spent              // shipped and scrapped; its identity waits for Planned
	Planned            // a listed chip without rows, that a board swap waits for
	ScrapLine          // scrapped on the line: it was never published
	Abandoned          // generation 1 shipped, generation 2 abandoned by an operator
	Stale              // generation 1 superseded, 2 abandoned by the SPP, 3 shipped
	Others             // how many these are
)

// Of those devices: how many generations they have, and how many of them were
// published.
const (
	generations = 21
	published   = 12
)

// ReservationLife is the one of a world's line.
const ReservationLife = 7 * 24 * time.Hour

// Order is what operators say in a world.
var Order = records.Order{Operator: "ann", Reason: "as told"}

// New makes a world with devices in every state, named by the numbers of their
// chips (registrytest.Chip): 0 to shipped-1 are shipped, from shipped on they are
// as the constants say. A station is revoked.
func New(t testing.TB, maker Maker, shipped int) *World {
	t.Helper()
	w := &World{T: t, Pool: pooltest.New(t), Records: recordstest.New(t), Registry: storetest.New(t), Maker: maker}
	w.writer, w.reader = store.NewWriter(w.Registry.Open(w.Registry.Roles.Sequencer)), w.Registry.Reader()
	var ids []identity.Identity
	for n := range 200 {
		id, err := identity.TAC("00440245").IMEI(n)
		w.Must(err)
		ids = append(ids, id)
	}
	_, err := w.Pool.Store.Import(t.Context(), "first", "phone", identity.TypeIMEI, ids)
	w.Must(err)
	for n := range shipped {
		w.Device(n, 1, records.Shipped)
	}
	at := func(n int) identity.RecordID { return registrytest.Chip(t, shipped+n).RecordID() }
	w.Device(shipped+Superseded, 1, records.Shipped)
	w.Unlock(shipped+Superseded, 2)
	w.Device(shipped+Superseded, 2, records.Published)
	w.Device(shipped+Reserved, 1, records.Reserved)
	w.Device(shipped+Packaged, 1, records.Packaged)
	w.Device(shipped+Confirmed, 1, records.Confirmed)
	w.Device(shipped+Restored, 1, records.Restored)
	lost := w.Device(shipped+Burned, 1, records.Packaged)
	w.Must(w.Records.Store.Burned(t.Context(), lost.Identity, lost.Batch, "lost"))
	w.Must(w.Pool.Store.Burn(t.Context(), lost.Identity, "lost"))
	w.Device(shipped+Burned, 2, records.Shipped) // the same chip, another identity
	w.Must(w.Pool.Store.Burn(t.Context(), ids[len(ids)-1], "doubtful"))

	w.Device(shipped+HeldOnLine, 1, records.Confirmed)
	held, err := w.Records.Store.QuarantineOnLine(t.Context(), at(HeldOnLine), "two holders of one key")
	if err != nil || !held {
		t.Fatalf("quarantine on the line: %v, %v", held, err)
	}
	for _, n := range []int{HeldInField, Released, Returned} {
		w.Device(shipped+n, 1, records.Shipped)
	}
	for _, n := range []int{HeldInField, Released} {
		w.Must(w.Records.Store.Quarantine(t.Context(), at(n), Order))
	}
	w.Must(w.Records.Store.Release(t.Context(), at(Released), Order))
	w.Must(w.Records.Store.Return(t.Context(), at(Returned), Order))

	w.Device(shipped+Scrapped, 1, records.Shipped)
	w.Scrap(shipped + Scrapped)
	w.Swap(shipped+Scrapped, shipped+Swapped)
	w.Device(shipped+Swapped, 1, records.Shipped)
	w.Device(shipped+Spent, 1, records.Shipped)
	w.Scrap(shipped + Spent)
	w.Swap(shipped+Spent, shipped+Planned)
	w.Device(shipped+ScrapLine, 1, records.Packaged)
	w.Scrap(shipped + ScrapLine)

	for _, n := range []int{Abandoned, Stale} {
		w.Device(shipped+n, 1, records.Shipped)
		w.Unlock(shipped+n, 2)
		w.Device(shipped+n, 2, records.Packaged)
	}
	w.Must(w.Records.Store.Abandon(t.Context(), at(Abandoned), 2, Order))
	w.Must(w.Records.Store.AbandonStale(t.Context(), at(Stale), 2, "nobody resumed it"))
	w.Unlock(shipped+Stale, 3)
	w.Device(shipped+Stale, 3, records.Shipped)

	_, err = w.Records.Store.Revoke(t.Context(), "line-9", Order)
	w.Must(err)
	w.Sign()
	return w
}

// Generations gives how many rows of devices a world has, and how many of them
// were published.
func Generations(shipped int) (all, out int64) {
	return int64(shipped) + generations, int64(shipped) + published
}

// Scrap takes a chip out of use, as the SPP's command does, and the registry is
// told.
func (w *World) Scrap(n int) {
	w.T.Helper()
	ctx, s := w.T.Context(), w.Records.Store
	d, err := s.Newest(ctx, registrytest.Chip(w.T, n).RecordID())
	w.Must(err)
	if d.PublishedAt.IsZero() {
		w.Must(s.Scrap(ctx, d.Record, d.Generation, nil, Order))
		w.Must(w.Pool.Store.Use(ctx, d.Identity)) // given out for good
		return
	}
	w.Must(s.License(ctx, audit.Event{Kind: audit.Registry, Key: "dev-identity-signing", Record: d.Record, Generation: d.Generation, Actor: "operator ann"}))
	e := registry.Entry{Realm: dev, Type: registry.Scrap, Record: d.Record, Generation: d.Generation}
	e.Statement, err = w.Maker.SignRegistryStatement(ctx, e.Leaf())
	w.Must(err)
	raw, err := e.Encode()
	w.Must(err)
	w.Must(s.Scrap(ctx, d.Record, d.Generation, raw, Order))
	w.Must(s.Noticed(ctx, d.Record, d.Generation, uint8(e.Type), w.append(e)))
}

// append puts an entry into the registry, as it is, and gives its place.
func (w *World) append(e registry.Entry) int64 {
	w.T.Helper()
	_, err := w.writer.Append(w.T.Context(), w.entries, nil, func([]store.Standing) []store.New { return storetest.Rows(e) })
	w.Must(err)
	w.entries++
	return w.entries - 1
}

// Swap plans the identity of a scrapped chip for another one.
func (w *World) Swap(from, to int) {
	w.T.Helper()
	_, err := w.Records.Store.Plan(w.T.Context(), registrytest.Chip(w.T, from).RecordID(), registrytest.Chip(w.T, to).RecordID(), Order)
	w.Must(err)
}

// Must ends the test on an error.
func (w *World) Must(err error) {
	w.T.Helper()
	if err != nil {
		w.T.Fatal(err)
	}
}

// Sign signs the audit log's head.
func (w *World) Sign() {
	w.T.Helper()
	_, err := w.Log("spp").SignHead(w.T.Context(), w.Maker.SignAuditHead)
	w.Must(err)
}

// Log gives the audit log as a role.
func (w *World) Log(role string) *audit.Log { return audit.New(w.Records.As(role), dev) }

// Run checks everything, as the auditor, against a registry without old caches.
func (w *World) Run() check.Report {
	w.T.Helper()
	return check.Run(w.T.Context(), w.Sources())
}

// Sources gives all of the world's, as the auditor, with a fresh registry
// server: it has no old answers in its cache.
func (w *World) Sources() check.Sources {
	w.T.Helper()
	handler, err := registry.NewHandler(w.reader, registry.HandlerOptions{Rate: 1e6, Burst: 1e6})
	w.Must(err)
	server := httptest.NewServer(handler)
	w.T.Cleanup(server.Close)
	client, err := registry.NewClient(server.URL, server.Client(), registry.ClientOptions{Realm: dev})
	w.Must(err)
	s := check.Sources{
		Realm: dev, Pool: pool.New(w.Pool.As("auditor")), Records: records.New(w.Records.As("auditor")), Audit: w.Log("auditor"),
		Registry: client, RegistryStore: w.reader, ReservationLife: ReservationLife,
	}
	if k, ok := w.Maker.(check.Keys); ok {
		s.Keys = k
	}
	return s
}

// PlantPool does to the pool what no program does, with triggers and foreign
// keys off.
func (w *World) PlantPool(query string, args ...any) {
	w.T.Helper()
	_, err := w.Pool.AsSuperuser().Exec(`set session_replication_role = replica`)
	w.Must(err)
	_, err = w.Pool.AsSuperuser().Exec(query, args...)
	w.Must(err)
}

// PlantRecords does it to the records. With arguments it must change a row.
func (w *World) PlantRecords(query string, args ...any) {
	w.T.Helper()
	super := w.Records.AsSuperuser()
	super.SetMaxOpenConns(1) // the setting is the connection's
	_, err := super.Exec(`set session_replication_role = replica`)
	w.Must(err)
	res, err := super.Exec(query, args...)
	w.Must(err)
	if n, err := res.RowsAffected(); err == nil && n == 0 && len(args) > 0 {
		w.T.Fatalf("nothing was planted: %s", query)
	}
}

// Unchecked drops the check constraints of a table of the records, so that
// anything can be planted.
func (w *World) Unchecked(table string) {
	w.T.Helper()
	w.PlantRecords(`do $$ declare c name; begin
		for c in select conname from pg_constraint where conrelid = '` + table + `'::regclass and contype = 'c' loop
			execute format('alter table ` + table + ` drop constraint %I', c);
		end loop;
	end $$`)
}

// PlantRegistry does it to the registry.
func (w *World) PlantRegistry(query string, args ...any) {
	w.T.Helper()
	owner := w.Registry.Open(w.Registry.Owner())
	for _, table := range []string{"entry", "head"} {
		_, err := owner.Exec(`alter table ` + table + ` disable trigger user`)
		w.Must(err)
	}
	_, err := owner.Exec(query, args...)
	w.Must(err)
}

// Device takes a chip through the line to a state, as the SPP does.
func (w *World) Device(n int, g identity.Generation, to records.State) records.Device {
	w.T.Helper()
	ctx, s := w.T.Context(), w.Records.Store
	chip := registrytest.Chip(w.T, n)
	d := records.Device{
		Record: chip.RecordID(), ChipID: chip, Generation: g, Realm: dev, Line: "phone", Station: "line-1",
		Suite: keypackage.SuiteAttested, IssuedAt: 1_700_000_000, KDF: 1, Master: 1,
		Secrets: []records.SealedSecret{{Entry: "sim-lock", Sealed: sealed(48).Encode()}},
	}
	pooled := false
	if before, err := s.InField(ctx, d.Record); err == nil {
		d.Identity, d.Batch = before.Identity, before.Batch
	} else if p, err := s.Planned(ctx, d.Record); err == nil {
		d.Identity, d.Batch = p.Identity, p.Batch
	} else {
		pooled = true
		r, err := w.Pool.Store.Reserve(ctx, "phone", nil, nil, d.Record, g)
		w.Must(err)
		d.Identity, d.Batch = r.Identity, r.Batch
	}
	licence := audit.Event{Kind: audit.Assemble, Key: "dev-purpose-channel-1", Record: d.Record, Generation: g, Actor: "line-1"}
	w.certify(&d, &licence)
	w.Must(s.Reserve(ctx, d, licence))
	if to == records.Reserved {
		return d
	}
	w.fill(&d)
	w.Must(s.Packaged(ctx, d))
	if to == records.Packaged {
		return d
	}
	backup := sha256.Sum256(d.Backup)
	_, err := s.Confirmed(ctx, d.Record, g, d.Point, d.Backup, w.mac(d, keypackage.ConfirmMessage(keypackage.Transcript(d.Hello, d.Point, d.Claims), backup)), sha256.Sum256(d.Hello))
	w.Must(err)
	if to == records.Confirmed {
		return d
	}
	w.Must(s.License(ctx, audit.Event{Kind: audit.DeviceKey, Key: "dev-purpose-channel-1", Record: d.Record, Generation: g, Actor: "spp"}))
	e := registry.Entry{Realm: dev, Type: registry.Register, Generation: g}
	if g > 1 {
		e.Type = registry.Supersede
	}
	e, err = registry.Seal(rand.Reader, chip, e, registry.Record{Certificate: d.Certificate, Backup: d.Backup, X509: d.X509})
	w.Must(err)
	d.Entry, err = e.Encode()
	w.Must(err)
	err = s.Restored(ctx, d.Record, g, w.mac(d, keypackage.RestoredMessage(sha256.Sum256(d.Claims), backup, sha256.Sum256(d.Hello))), d.Entry, w.public(d))
	w.Must(err)
	if to == records.Restored {
		return d
	}
	w.Must(s.Published(ctx, d.Record, g, w.append(e)))
	if public := w.public(d); public != nil {
		e, err := registry.ParseEntry(public)
		w.Must(err)
		w.Must(s.Noticed(ctx, d.Record, g, uint8(e.Type), w.append(e)))
	}
	if pooled {
		w.Must(w.Pool.Store.Use(ctx, d.Identity))
	}
	if to == records.Shipped {
		w.Must(s.Shipped(ctx, d.Record, g))
	}
	return d
}

// fill makes a device's artefacts, in the forms that the formats have.
func (w *World) fill(d *records.Device) {
	w.T.Helper()
	ctx := w.T.Context()
	secret := keypackage.Commitment([32]byte{1}, []byte("1234"))
	m := keypackage.Manifest{Realm: dev, Identity: d.Identity, ChipID: d.ChipID, Generation: d.Generation}
	m.Entries = []keypackage.Entry{
		{Kind: keypackage.Communication, Key: channelKey, Algorithm: keypackage.HMACSHA256, Vouch: w.mac(*d, keypackage.CheckMessage(m, channelKey))},
		{Kind: keypackage.SIMLock, Key: keypackage.KeyID{Name: "sim-lock"}, Vouch: secret[:]},
	}
	wrapped := [][]byte{random(40)}
	if w.pairs != nil {
		m.Entries = append(m.Entries, w.pairs.entries...)
		for range w.pairs.entries {
			wrapped = append(wrapped, random(80))
		}
	}
	var err error
	d.Manifest, err = m.Encode()
	w.Must(err)
	d.Claims, err = identity.Claims{Subject: d.Identity, IssuedAt: d.IssuedAt, ChipID: d.ChipID, Realm: dev, Generation: d.Generation, Manifest: sha256.Sum256(d.Manifest)}.Encode()
	w.Must(err)
	cert, err := w.Maker.SignCertificate(ctx, d.Claims)
	w.Must(err)
	d.Certificate = cert.Bytes()
	d.Hello, err = keypackage.Hello{Realm: dev, Suite: d.Suite, ChipID: d.ChipID, ROMKey: w.Maker.ROMKey().Hash(), Point: w.point()}.Encode()
	w.Must(err)
	point, secrets := w.point(), sealed(48)
	d.Point = point.Point()
	d.Package, err = keypackage.DataPackage{Point: point, Certificate: d.Certificate, Manifest: d.Manifest, Wrapped: wrapped, Secrets: &secrets}.Encode()
	w.Must(err)
	d.Backup, err = keypackage.Backup{Manifest: d.Manifest, Sealed: sealed(120)}.Encode()
	w.Must(err)
}

// Unlock licenses, signs and keeps an unlock statement.
func (w *World) Unlock(n int, next identity.Generation) {
	w.T.Helper()
	record := registrytest.Chip(w.T, n).RecordID()
	w.Must(w.Records.Store.License(w.T.Context(), audit.Event{Kind: audit.Unlock, Key: "dev-identity-signing", Record: record, Generation: next, Actor: "ann"}))
	raw, err := w.Maker.SignUnlock(w.T.Context(), identity.Unlock{Realm: dev, Record: record, Next: next})
	w.Must(err)
	w.Must(w.Records.Store.Unlock(w.T.Context(), record, next, raw, "repair", "ann"))
}

func (w *World) point() statement.PublicKey {
	w.T.Helper()
	k, err := ecdh.P256().GenerateKey(rand.Reader)
	w.Must(err)
	p, err := statement.ParsePoint(k.PublicKey().Bytes())
	w.Must(err)
	return p
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

func sealed(n int) keypackage.Sealed {
	return keypackage.Sealed{Nonce: [keypackage.NonceSize]byte(random(keypackage.NonceSize)), Ciphertext: random(n)}
}

var channelKey = keypackage.KeyID{Name: "channel", KDF: 1, Version: 1}

// mac computes a MAC under the device's key.
func (w *World) mac(d records.Device, message []byte) []byte {
	w.T.Helper()
	key, err := w.Maker.DeviceKey(w.T.Context(), channelKey, keypackage.DeviceKeyContext(dev, channelKey, d.Identity, d.Generation, d.Record))
	w.Must(err)
	m, err := key.MAC(w.T.Context(), message)
	w.Must(err)
	w.Must(key.Destroy(w.T.Context()))
	return m
}
