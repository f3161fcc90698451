package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/devicekeys/devicekeys/audit"
	"github.com/devicekeys/devicekeys/device"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	provisioningrpc "github.com/devicekeys/devicekeys/provisioning/rpc"
	"github.com/devicekeys/devicekeys/registry/sequencer"
	"github.com/devicekeys/devicekeys/registry/store"
	"github.com/devicekeys/devicekeys/registry/store/storetest"
	"github.com/devicekeys/devicekeys/statement"
)

// publicKey reads one of the files that custodian setup publishes.
func (p *place) publicKey(name string) statement.PublicKey {
	p.t.Helper()
	text, err := os.ReadFile(filepath.Join(p.dir, "public", name))
	must(p.t, err)
	k, err := statement.ParsePEM(text)
	must(p.t, err)
	return k
}

// pin gives the token's PIN.
func (p *place) pin() string {
	p.t.Helper()
	text, err := os.ReadFile(filepath.Join(p.dir, "spp.pin"))
	must(p.t, err)
	return strings.TrimSpace(string(text))
}

// sequence starts a sequencer in this process at an address.
func (p *place) sequence(address string) {
	p.t.Helper()
	db := storetest.New(p.t)
	s, err := sequencer.New(p.t.Context(), store.NewWriter(db.Open(db.Roles.Sequencer)), sequencer.Options{
		Realm: identity.Development, Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
		SubmissionKeys: []statement.PublicKey{p.publicKey("submission.pem")}, IdentityKeys: []statement.PublicKey{p.publicKey("rom-key.pem")},
	})
	must(p.t, err)
	server := &http.Server{Handler: s.Handler(), ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError), TLSConfig: &tls.Config{
		MinVersion: tls.VersionTLS13, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: p.ca(), NextProtos: []string{"h2"},
		Certificates: []tls.Certificate{p.certify("sequencer-1", "--kind", "server", "--role", "sequencer", "--ip", "127.0.0.1")},
	}}
	l, err := net.Listen("tcp", address)
	must(p.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	go func() { ended <- s.Run(ctx) }()
	go func() { ended <- server.ServeTLS(l, "", "") }()
	p.t.Cleanup(func() {
		server.Close()
		cancel()
		<-ended
		<-ended
	})
}

// served is a running spp serve.
type served struct {
	station provisioningrpc.AssemblyServiceClient
	log     *bytes.Buffer
	signal  func(os.Signal)
	wait    func() error // for its end; once
	stop    func()       // SIGTERM, and waits for a clean end
}

func (p *place) serve(certificate tls.Certificate) *served {
	p.t.Helper()
	s := &served{log: &bytes.Buffer{}}
	cmd := p.command("spp", "serve", "-c", "spp.yaml", "--log-level", "debug", "--log-format", "json")
	cmd.Stderr = s.log
	must(p.t, cmd.Start())
	ended := false
	p.t.Cleanup(func() {
		if !ended {
			_ = cmd.Process.Kill() // it may have ended by itself
			_ = cmd.Wait()
			p.t.Logf("spp serve:\n%s", s.log)
		}
	})
	healthy := func() bool {
		res, err := http.Get("http://" + p.metrics + "/healthz")
		if err != nil {
			return false
		}
		defer res.Body.Close()
		return res.StatusCode == http.StatusOK
	}
	for end := time.Now().Add(30 * time.Second); !healthy(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			p.t.Fatal("spp serve did not become healthy")
		}
	}
	transport := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: p.ca(), Certificates: []tls.Certificate{certificate}}}
	p.t.Cleanup(transport.CloseIdleConnections)
	s.station = provisioningrpc.NewAssemblyServiceClient(&http.Client{Transport: transport, Timeout: time.Minute}, "https://"+p.listen, connect.WithGRPC())
	s.signal = func(sig os.Signal) { p.t.Helper(); must(p.t, cmd.Process.Signal(sig)) }
	s.wait = func() error { ended = true; return cmd.Wait() }
	s.stop = func() {
		p.t.Helper()
		s.signal(syscall.SIGTERM)
		if err := s.wait(); err != nil {
			p.t.Errorf("spp serve ended with %v:\n%s", err, s.log)
		}
	}
	return s
}

// ship takes a device through the line, as a station does.
func (s *served) ship(ctx context.Context, d *device.Device) (*provisioningrpc.BeginResponse, error) {
	b, err := s.begin(ctx, d)
	if err != nil {
		return nil, err
	}
	return b, s.finish(ctx, d, b)
}

func (s *served) begin(ctx context.Context, d *device.Device) (*provisioningrpc.BeginResponse, error) {
	hello, err := d.Hello(ctx, keypackage.SuiteAttested)
	if err != nil {
		return nil, err
	}
	res, err := s.station.Begin(ctx, connect.NewRequest(&provisioningrpc.BeginRequest{Hello: hello}))
	if err != nil {
		return nil, err
	}
	return res.Msg, nil
}

// finish takes a device that was begun through the rest.
func (s *served) finish(ctx context.Context, d *device.Device, b *provisioningrpc.BeginResponse) error {
	accepted, err := d.Accept(ctx, b.Package, b.Unlock)
	if err != nil {
		return err
	}
	confirmed, err := s.station.Confirm(ctx, connect.NewRequest(&provisioningrpc.ConfirmRequest{RecordId: b.RecordId, Generation: b.Generation, Backup: accepted.Backup, Mac: accepted.Confirm}))
	if err != nil {
		return err
	}
	data, err := keypackage.ParseDataPackage(b.Package)
	if err != nil {
		return err
	}
	if err := d.Erase(ctx); err != nil {
		return err
	}
	if err := d.Restore(ctx, data.Certificate, accepted.Backup); err != nil {
		return err
	}
	if _, err := d.Boot(ctx); err != nil {
		return err
	}
	proof, err := d.Restored(ctx, [32]byte(confirmed.Msg.Challenge))
	if err != nil {
		return err
	}
	if _, err := s.station.Restored(ctx, connect.NewRequest(&provisioningrpc.RestoredRequest{RecordId: b.RecordId, Generation: b.Generation, Mac: proof})); err != nil {
		return err
	}
	published, err := s.station.Publish(ctx, connect.NewRequest(&provisioningrpc.PublishRequest{RecordId: b.RecordId, Generation: b.Generation}))
	if err != nil {
		return err
	}
	locked, err := d.Published(ctx, published.Msg.Mac)
	if err != nil {
		return err
	}
	_, err = s.station.Locked(ctx, connect.NewRequest(&provisioningrpc.LockedRequest{RecordId: b.RecordId, Generation: b.Generation, Mac: locked}))
	return err
}

// TestServe is the program with everything around it real: keys and TLS key in
// a token, databases, sequencer, a station that speaks gRPC; then an unlock
// statement, a restart and the next generation.
func TestServe(t *testing.T) {
	t.Parallel()
	sequencerAddress := freeAddress(t)
	p := newPlace(t, t.TempDir(), "https://"+sequencerAddress)
	p.setUp()
	d, c := newDevice(t)
	must(t, d.WriteROM(t.Context(), p.publicKey("rom-key.pem")))
	p.deliver("delivery.cose", "chip maker", c)
	p.run("spp", "chips", "import", "-c", "spp.yaml", "delivery.cose")
	p.write("imeis.csv", []byte("00440200,000000,000002\n"))
	p.run("spp", "pool", "import", "-c", "spp.yaml", "--batch", "first", "--line", "phone", "imeis.csv")
	p.sequence(sequencerAddress)
	station := p.certify("line-1", "--kind", "station", "--line", "phone", "--tac", "00440200-00440299", "--quota", "10")

	s := p.serve(station)
	begun, err := s.ship(t.Context(), d)
	must(t, err)
	record := identity.RecordID(begun.RecordId)
	res, err := http.Get("http://" + p.metrics + "/metrics")
	must(t, err)
	metrics, err := io.ReadAll(res.Body)
	must(t, err)
	must(t, res.Body.Close())
	for _, want := range []string{`devicekeys_devices_total{result="ok",step="locked"} 1`, "devicekeys_pkcs11_calls_total", `devicekeys_pool_free{line="phone"}`} {
		if !strings.Contains(string(metrics), want) {
			t.Errorf("no %s in the metrics", want)
		}
	}
	s.stop()
	for name, secret := range map[string]string{"chip ID": fmt.Sprintf("%x", c.ID().Bytes()), "PIN": p.pin()} {
		if strings.Contains(s.log.String(), secret) || strings.Contains(string(metrics), secret) {
			t.Errorf("the log or the metrics hold the %s", name)
		}
	}
	if !strings.Contains(s.log.String(), record.Short()) {
		t.Error("the search finds nothing at all: no record in the log")
	}

	var unlocked struct {
		Generation int
		New        bool
		Identity   string
	}
	unlock := func() {
		t.Helper()
		out := p.run("spp", "statement", "unlock", "-c", "spp.yaml", "--json", "--record", record.String(), "--reason", "board repaired", "--operator", "alice")
		must(t, json.Unmarshal([]byte(out), &unlocked))
	}
	unlock()
	if unlocked.Generation != 2 || !unlocked.New || unlocked.Identity != "004402000000004" {
		t.Errorf("%+v", unlocked)
	}
	unlock()
	if unlocked.New {
		t.Error("the same statement was made twice")
	}
	entries := 0
	_, err = audit.New(p.records.As("auditor"), identity.Development).Verify(t.Context(), audit.Head{}, nil, func(e audit.Entry) error {
		if e.Kind == audit.Unlock && e.Record == record && e.Generation == 2 && e.Actor == "operator alice" && e.Note == "board repaired" {
			entries++
		}
		return nil
	})
	must(t, err)
	if entries != 1 {
		t.Errorf("%d audit entries for one unlock statement", entries)
	}

	s = p.serve(station)
	begun, err = s.ship(t.Context(), d)
	must(t, err)
	if begun.Generation != 2 || len(begun.Unlock) == 0 {
		t.Errorf("generation %d, unlock statement of %d bytes", begun.Generation, len(begun.Unlock))
	}
	s.stop()
	if out := p.run("spp", "status", "-c", "spp.yaml"); !strings.Contains(out, "superseded") {
		t.Error(out)
	}
	var status struct {
		Devices map[string]int
		Stock   []struct{ Free, Used int }
	}
	must(t, json.Unmarshal([]byte(p.run("spp", "status", "-c", "spp.yaml", "--json")), &status))
	if status.Devices["shipped"] != 1 || status.Devices["superseded"] != 1 || status.Stock[0].Free != 2 || status.Stock[0].Used != 1 {
		t.Errorf("status: %+v", status)
	}
}
