package provisioning_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/devicekeys/devicekeys/audit"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning"
	"github.com/devicekeys/devicekeys/provisioning/pool"
	"github.com/devicekeys/devicekeys/provisioning/profile"
	"github.com/devicekeys/devicekeys/provisioning/records"
	provisioningrpc "github.com/devicekeys/devicekeys/provisioning/rpc"
	"github.com/devicekeys/devicekeys/registry/registrytest"
	"github.com/devicekeys/devicekeys/statement"
)

// quietLine is all that an SPP needs to refuse: records with one device whose
// package was sent, an empty pool, and keys in memory. A request that would
// change anything meets a method that is not there, and panics.
type quietLine struct {
	provisioning.Keys
	provisioning.Pool
	row records.Device
	rom statement.PublicKey
}

func (l quietLine) ROMKey() statement.PublicKey { return l.rom }
func (l quietLine) DeviceKey(context.Context, keypackage.KeyID, []byte) (keypackage.MACKey, error) {
	return heldKey("the key of the one device"), nil
}

func (l quietLine) Reserve(context.Context, string, []pool.Range, []string, identity.RecordID, identity.Generation) (pool.Reservation, error) {
	return pool.Reservation{}, pool.ErrEmpty
}

// quietRecords are the records of a quietLine.
type quietRecords struct {
	provisioning.Records
	row records.Device
}

func (r quietRecords) Revoked(context.Context, string) (records.Revocation, error) {
	return records.Revocation{}, records.ErrNotFound
}

func (r quietRecords) Chip(context.Context, identity.RecordID) (records.Chip, error) {
	return records.Chip{}, records.ErrNotFound
}

func (r quietRecords) Newest(_ context.Context, id identity.RecordID) (records.Device, error) {
	if id != r.row.Record {
		return records.Device{}, records.ErrNotFound
	}
	return r.row, nil
}

func (r quietRecords) Get(ctx context.Context, id identity.RecordID, g identity.Generation) (records.Device, error) {
	if g != r.row.Generation {
		return records.Device{}, records.ErrNotFound
	}
	return r.Newest(ctx, id)
}

func (r quietRecords) Planned(context.Context, identity.RecordID) (records.Plan, error) {
	return records.Plan{}, records.ErrNotFound
}

func (r quietRecords) Unlocked(context.Context, identity.RecordID) (records.Unlock, error) {
	return records.Unlock{}, records.ErrNotFound
}
func (r quietRecords) Begun(context.Context, string, time.Time) (int64, error) { return 0, nil }
func (r quietRecords) License(context.Context, audit.Event) error              { return nil }
func (r quietRecords) Incident(context.Context, records.Incident) error        { return nil }
func (r quietRecords) Now(context.Context) (time.Time, error)                  { return time.Now(), nil }

// heldKey is a key in memory.
type heldKey string

func (k heldKey) MAC(_ context.Context, msg []byte) ([]byte, error) {
	h := hmac.New(sha256.New, []byte(k))
	h.Write(msg)
	return h.Sum(nil), nil
}

func (k heldKey) Verify(ctx context.Context, msg, mac []byte) error {
	if want, _ := k.MAC(ctx, msg); !hmac.Equal(want, mac) {
		return statement.ErrSignature
	}
	return nil
}
func (k heldKey) Destroy(context.Context) error { return nil }

// quietDevice is the row of the one device.
func quietDevice(t testing.TB, rom statement.PublicKey) records.Device {
	t.Helper()
	chip, err := identity.ParseChipID([]byte("a chip ID that no answer may say"))
	must(t, err)
	id, err := tac.IMEI(1)
	must(t, err)
	point := registrytest.NewSigner(t, "e_D").Public()
	m := keypackage.Manifest{Realm: dev, Identity: id, ChipID: chip, Generation: 1, Entries: []keypackage.Entry{
		{Kind: keypackage.Communication, Key: keypackage.KeyID{Name: "channel", KDF: 1, Version: 1}, Algorithm: keypackage.HMACSHA256, Vouch: make([]byte, 32)}}}
	manifest, err := m.Encode()
	must(t, err)
	claims, err := identity.Claims{Subject: id, IssuedAt: 1_700_000_000, ChipID: chip, Realm: dev, Generation: 1, Manifest: sha256.Sum256(manifest)}.Encode()
	must(t, err)
	hello, err := keypackage.Hello{Realm: dev, Suite: keypackage.SuiteUnattested, ChipID: chip, ROMKey: rom.Hash(), Point: point}.Encode()
	must(t, err)
	return records.Device{Record: chip.RecordID(), ChipID: chip, Generation: 1, Identity: id, Realm: dev, Line: "phone", Station: "line-1",
		State: records.Packaged, Suite: keypackage.SuiteUnattested, IssuedAt: 1_700_000_000, KDF: 1, Master: 1,
		Hello: hello, Point: point.Point(), Manifest: manifest, Claims: claims, Certificate: []byte("certificate"), Package: []byte("package")}
}

// formats are how a request may be written.
var formats = []string{"application/proto", "application/json", "application/grpc", "application/grpc-web+proto"}

// FuzzRequest sends the service's handler any bytes as the body of each of its
// requests. Whatever comes, the answer is one that formats.md's reader knows,
// says no chip ID, and blames neither the SPP nor its parts.
func FuzzRequest(f *testing.F) {
	rom := registrytest.ROM(f).Public()
	row := quietDevice(f, rom)
	p, err := profile.Parse(profile.Phone, "")
	must(f, err)
	p.AllowUnattested = true
	var log bytes.Buffer
	a, err := provisioning.New(provisioning.Config{
		Realm: dev, Name: "spp-1", Profiles: []profile.Profile{p}, Keys: quietLine{row: row, rom: rom}, Pool: quietLine{}, Records: quietRecords{row: row},
		Sequencer: noSequencer{}, AuditLog: noAuditLog{}, Metrics: provisioning.NewMetrics(prometheus.NewRegistry()),
		Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	must(f, err)
	path, handler := provisioning.NewHandler(a)
	leaf := &x509.Certificate{SerialNumber: big.NewInt(1), URIs: []*url.URL{stationGrant().URI()}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * 365 * time.Hour)}
	station := &tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}, VerifiedChains: [][]*x509.Certificate{{leaf}}}

	backup, err := keypackage.Backup{Manifest: row.Manifest, Sealed: keypackage.Sealed{Ciphertext: make([]byte, 40)}}.Encode()
	must(f, err)
	record, mac := row.Record[:], make([]byte, 32)
	attested, err := statement.Sign(f.Context(), registrytest.NewSigner(f, "attestation"), statement.Attestation, row.Hello)
	must(f, err)
	unknown := bytes.Clone(row.Hello)
	unknown[10] ^= 1 // another chip ID
	methods := []string{"Modules", "Begin", "Confirm", "Restored", "Publish", "Locked", "Challenge", "Prove", "Status", "None"}
	for method, requests := range [][]proto.Message{
		{&provisioningrpc.ModulesRequest{}},
		{&provisioningrpc.BeginRequest{Hello: row.Hello}, &provisioningrpc.BeginRequest{Hello: attested}, &provisioningrpc.BeginRequest{Hello: unknown}, &provisioningrpc.BeginRequest{Hello: row.Hello[:40]}},
		{&provisioningrpc.ConfirmRequest{RecordId: record, Generation: 1, Backup: backup, Mac: mac}, &provisioningrpc.ConfirmRequest{RecordId: record, Generation: 1, Backup: backup[8:], Mac: mac[1:]}},
		{&provisioningrpc.RestoredRequest{RecordId: record, Generation: 1, Mac: mac}},
		{&provisioningrpc.PublishRequest{RecordId: record, Generation: 1}, &provisioningrpc.PublishRequest{RecordId: record[1:]}},
		{&provisioningrpc.LockedRequest{RecordId: record, Generation: 1, Mac: mac}},
		{&provisioningrpc.ChallengeRequest{RecordId: record}},
		{&provisioningrpc.ProveRequest{RecordId: record, Challenge: mac, Mac: mac}, &provisioningrpc.ProveRequest{RecordId: record}},
		{&provisioningrpc.StatusRequest{RecordId: record}, &provisioningrpc.StatusRequest{RecordId: mac}},
		{&provisioningrpc.StatusRequest{}},
	} {
		for _, m := range requests {
			b, err := proto.Marshal(m)
			must(f, err)
			f.Add(uint8(method), uint8(0), b)
			f.Add(uint8(method), uint8(2), append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(b))), b...))
			b, err = protojson.Marshal(m)
			must(f, err)
			f.Add(uint8(method), uint8(1), b)
		}
	}
	chip := row.ChipID.Bytes()
	secrets := []string{string(chip), hex.EncodeToString(chip), base64.StdEncoding.EncodeToString(chip)}
	f.Fuzz(func(t *testing.T, method, format uint8, body []byte) {
		log.Reset()
		format %= uint8(len(formats))
		r := httptest.NewRequest(http.MethodPost, path+methods[int(method)%len(methods)], bytes.NewReader(body))
		r.Header.Set("Content-Type", formats[format])
		r.TLS = station
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		for _, s := range secrets {
			if strings.Contains(w.Body.String(), s) || strings.Contains(log.String(), s) {
				t.Fatalf("%q stands in the answer\n%q\nor in the log\n%s", s, w.Body, &log)
			}
		}
		switch {
		case strings.HasPrefix(formats[format], "application/grpc"):
			// HTTP says 200; the status stands in the trailers, or in a last frame.
			status := w.Result().Trailer.Get("Grpc-Status") + w.Header().Get("Grpc-Status")
			// Frames that are none are connect's to refuse, which it does with 13.
			text := w.Result().Trailer.Get("Grpc-Message") + w.Header().Get("Grpc-Message")
			connects := strings.HasPrefix(strings.TrimPrefix(text, "gRPC-Web "), "protocol error: ") || strings.HasPrefix(text, "corrupt response: ")
			if w.Code == http.StatusInternalServerError || (status == "13" || status == "2") && !connects {
				t.Fatalf("%d, gRPC status %s: %s", w.Code, status, text)
			}
		case w.Code == http.StatusOK || w.Code == http.StatusNotFound && methods[int(method)%len(methods)] == "None":
		default:
			var e struct{ Code, Message string }
			if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil || e.Code == "" {
				t.Fatalf("%d, and no error in %q: %v", w.Code, w.Body, err)
			}
			if e.Code == "internal" || e.Code == "unknown" || e.Code == "unavailable" || w.Code == http.StatusInternalServerError {
				t.Fatalf("%d, %s: %s\n%s", w.Code, e.Code, e.Message, &log)
			}
		}
	})
}

// noSequencer and noAuditLog are never asked: nothing is published, no Run runs.
type (
	noSequencer struct{ provisioning.Sequencer }
	noAuditLog  struct{ provisioning.AuditLog }
)
