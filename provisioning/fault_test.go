package provisioning_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sync/errgroup"

	"github.com/devicekeys/devicekeys/audit"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning"
	"github.com/devicekeys/devicekeys/provisioning/grant"
	"github.com/devicekeys/devicekeys/provisioning/profile"
	"github.com/devicekeys/devicekeys/provisioning/records"
	provisioningrpc "github.com/devicekeys/devicekeys/provisioning/rpc"
	"github.com/devicekeys/devicekeys/registry"
)

// eventually waits for something that happens in the background.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("waited too long: %s", what)
}

// value gives a metric that has no labels.
func (s *spp) value(t testing.TB, name string) float64 {
	t.Helper()
	families, err := s.metrics.Gather()
	must(t, err)
	for _, f := range families {
		if f.GetName() == name {
			m := f.GetMetric()[0]
			return m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

// away is a sequencer that can't be reached.
func away(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
	http.Error(w, "away", http.StatusServiceUnavailable)
}

// retried takes a step again for as long as the SPP says that it may help, as a
// station does, and tells how often.
func retried(ctx context.Context, step func(context.Context) error) (times int, err error) {
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); times++ {
		err = step(ctx)
		var e *connect.Error
		if !errors.As(err, &e) || detail(e).GetRetryAfterMs() == 0 {
			return times, err
		}
		time.Sleep(time.Duration(detail(e).GetRetryAfterMs()) * time.Millisecond)
	}
	return times, err
}

// TestSequencerDown: assembly goes on, entries wait, Publish says at once when
// to come back, and all is published soon after the sequencer answers again.
func TestSequencerDown(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	const n = 3
	l.stock(t, 0, n)
	l.front.set(away)
	var devices []*fixture
	var group errgroup.Group
	for range n {
		f := on(l.station(t), l.device(t, true))
		devices = append(devices, f)
		group.Go(func() error { return f.run(t.Context(), 5) })
	}
	must(t, group.Wait())
	// The first to ask may wait until the attempt under way has failed.
	refused(t, devices[0].publish(t.Context()), connect.CodeUnavailable, provisioning.CodePublication)
	begun := time.Now()
	const asked = 5
	for range asked {
		refused(t, devices[0].publish(t.Context()), connect.CodeUnavailable, provisioning.CodePublication)
	}
	// Waiting takes publishWait, 8 s, each.
	if took := time.Since(begun); took > asked*4*time.Second {
		t.Errorf("publish waited for a registry that is known to be away: %s for %d calls", took, asked)
	}
	waiting, setAside, oldest, err := l.records.Store.Waiting(t.Context())
	if err != nil || waiting != n || setAside != 0 || oldest.IsZero() {
		t.Errorf("%d entries wait, %d set aside, %v", waiting, setAside, err)
	}
	// Left alone the pauses grow to 15 s; stations that ask shorten them.
	time.Sleep(2 * time.Second)
	l.front.set(nil)
	for _, f := range devices {
		times, err := retried(t.Context(), f.publish)
		must(t, err)
		if times > 5 {
			t.Errorf("%d further attempts after the sequencer was back", times)
		}
		must(t, f.lock(t.Context()))
		must(t, f.ship(t.Context()))
	}
}

// TestReplyLost: the sequencer wrote, its answer never came. The entry stands
// once.
func TestReplyLost(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	l.stock(t, 0, 1)
	var lost atomic.Int32
	l.front.set(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if lost.Add(1) > 2 {
			next.ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(discard{http.Header{}}, r)
		panic(http.ErrAbortHandler)
	})
	f := on(l.station(t), l.device(t, true))
	must(t, f.run(t.Context(), 5))
	_, err := retried(t.Context(), f.publish)
	must(t, err)
	for _, step := range f.steps()[6:] {
		must(t, step(t.Context()))
	}
	if lost.Load() < 3 {
		t.Error("no reply was lost")
	}
	if n, err := l.registry.Reader().Size(t.Context()); err != nil || n != 1 {
		t.Errorf("%d entries in the registry, %v", n, err)
	}
}

type discard struct{ header http.Header }

func (d discard) Header() http.Header       { return d.header }
func (discard) Write(b []byte) (int, error) { return len(b), nil }
func (discard) WriteHeader(int)             {}

// TestRefusedEntry: one entry that the registry can't take does not hold up
// the others.
func TestRefusedEntry(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	l.stock(t, 0, 2)
	f := on(l.station(t), l.device(t, true))
	must(t, f.run(t.Context(), 4))
	// Somebody else's entry stands in its place.
	l.planted = map[string]bool{"published-findable": true}
	e, err := registry.Seal(bytes.NewReader(make([]byte, 12)), f.device.chip.ID(), registry.Entry{Realm: dev, Type: registry.Register, Generation: 1},
		registry.Record{Certificate: []byte("x"), Backup: []byte("y")})
	must(t, err)
	encoded, err := e.Encode()
	must(t, err)
	payload, err := registry.Submission{Realm: dev, Submitter: "spp-1", Entries: [][]byte{encoded}}.Encode()
	must(t, err)
	signed, err := l.keys.SignSubmission(t.Context(), payload)
	must(t, err)
	acks, err := l.submitter.Submit(t.Context(), signed)
	must(t, err)
	must(t, acks[0].Err)
	must(t, f.prove(t.Context()))
	refused(t, f.publish(t.Context()), connect.CodeFailedPrecondition, provisioning.CodeSetAside)
	must(t, on(l.station(t), l.device(t, true)).run(t.Context(), 0))
	if n := l.spp.value(t, "devicekeys_outbox_set_aside_total"); n != 1 {
		t.Errorf("metric of entries set aside: %v", n)
	}
	if _, setAside, _, err := l.records.Store.Waiting(t.Context()); err != nil || setAside != 1 {
		t.Errorf("%d set aside, %v", setAside, err)
	}
}

// TestPostgresConnectionsKilled: whatever the server drops, the same call
// later succeeds.
func TestPostgresConnectionsKilled(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	const n = 4
	l.stock(t, 0, n)
	var devices []*fixture
	for range n {
		devices = append(devices, on(l.station(t), l.device(t, true)))
	}
	super := l.records.AsSuperuser()
	kill, stop := context.WithCancel(t.Context())
	var killer sync.WaitGroup
	defer killer.Wait()
	defer stop()
	var taken atomic.Int64 // steps: between two kills there is one at least, however slow the machine is
	killer.Go(func() {
		for seen := int64(-1); kill.Err() == nil; {
			time.Sleep(30 * time.Millisecond)
			if taken.Load() == seen {
				continue
			}
			seen = taken.Load()
			_, err := super.ExecContext(kill, `select pg_terminate_backend(pid) from pg_stat_activity where usename = 'spp' and datname in ($1, $2)`, l.records.Name, l.pool.Name)
			if err != nil && kill.Err() == nil {
				t.Error(err)
				return
			}
		}
	})
	unavailable := 0
	for _, f := range devices {
		for _, step := range f.steps() {
			var err error
			for range 200 {
				err = step(t.Context())
				var e *connect.Error
				if !errors.As(err, &e) {
					break
				}
				if e.Code() != connect.CodeUnavailable {
					t.Fatalf("%v %v", err, detail(e))
				}
				unavailable++
				time.Sleep(5 * time.Millisecond)
			}
			must(t, err)
			taken.Add(1)
		}
	}
	stop()
	killer.Wait()
	for _, db := range []*sql.DB{l.records.As("spp"), l.pool.As("spp")} {
		db.SetMaxIdleConns(0) // some of them are dead and don't know it yet
	}
	if unavailable == 0 {
		t.Log("no call met a killed connection")
	}
	if l.effects(t).Reserved > 0 {
		// A connection was killed between records and pool: house-keeping ends what is left, once it is old enough.
		l.age(t, "1 hour")
		l.start(t)
		eventually(t, "the pool is told of every publication", func() bool { return l.effects(t).Reserved == 0 })
	}
	if e := l.effects(t); e.Free != 0 || e.States[records.Shipped] != n {
		t.Errorf("%+v", e)
	}
}

// TestPostgresSlow: a table is locked for longer than a call may take; the
// station is told to come back, and the device goes on afterwards.
func TestPostgresSlow(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	l.stock(t, 0, 1)
	f := on(l.station(t), l.device(t, true))
	tx, err := l.records.AsSuperuser().BeginTx(t.Context(), nil)
	must(t, err)
	_, err = tx.Exec(`lock table device in access exclusive mode`)
	must(t, err)
	begun := time.Now()
	refused(t, f.begin(t.Context()), connect.CodeUnavailable, provisioning.CodeTimeout)
	if took := time.Since(begun); took > 20*time.Second {
		t.Errorf("begin waited %s", took)
	}
	must(t, tx.Rollback())
	must(t, f.run(t.Context(), 0))
}

// TestLeftovers: what a crash leaves between records and pool is ended by
// house-keeping; here the crash is played with the stores alone.
func TestLeftovers(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	ids := l.stock(t, 0, 3)
	f := on(l.station(t), l.device(t, true))
	must(t, f.run(t.Context(), 0))
	eventually(t, "the pool forgot the identity", func() bool { return l.effects(t).Reserved == 0 })
	// Its identity is back in the pool and reserved, as if Use had not happened.
	super := l.pool.AsSuperuser()
	_, err := super.Exec(`insert into waiting (type, value, batch, line, record_id, generation, reserved)
		select type, $1, batch, line, $2, 1, clock_timestamp() - interval '1 hour' from waiting limit 1`, ids[0].Value(), f.begun.RecordId)
	must(t, err)
	_, err = super.Exec(`update batch set used = used - 1, reserved = reserved + 1`)
	must(t, err)
	l.spp.stop()
	l.spp = l.start(t)
	eventually(t, "the pool forgot the identity", func() bool { e := l.effects(t); return e.Used == 1 && e.Reserved == 0 })
}

// TestStop: a call that waits for the registry is told to come back at once,
// others finish, and no device key stays in the token.
func TestStop(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	l.stock(t, 0, 1)
	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })
	l.front.set(func(_ http.ResponseWriter, r *http.Request, _ http.Handler) {
		select {
		case <-hang:
		case <-r.Context().Done():
		}
	})
	f := on(l.station(t), l.device(t, true))
	must(t, f.run(t.Context(), 5))
	if n := l.spp.value(t, "devicekeys_device_keys_cached"); n != 1 {
		t.Errorf("%v devices' keys wait, 1 is expected", n)
	}
	ended := make(chan error, 1)
	go func() { ended <- f.publish(t.Context()) }()
	time.Sleep(50 * time.Millisecond)
	begun := time.Now()
	l.spp.Halt()
	refused(t, <-ended, connect.CodeUnavailable, provisioning.CodeStopping)
	if took := time.Since(begun); took > 2*time.Second {
		t.Errorf("stopping took %s", took)
	}
	l.spp.stop()
	if n := l.spp.value(t, "devicekeys_device_keys_cached"); n != 0 {
		t.Errorf("%v devices' keys are left in the token", n)
	}
	// The audit log's head was signed at the end.
	heads, err := audit.New(l.records.As("auditor"), dev).Heads(t.Context(), l.keys.AuditKey())
	if err != nil || len(heads) == 0 {
		t.Errorf("%d signed heads, %v", len(heads), err)
	}
}

const tvProfile = `
name: tv
identity: serial
chip_id_bytes: 16
allow_unattested: false
master_version: 1
kdf: 1
entries:
  - {name: channel, kind: communication, algorithm: hmac-sha-256, source: derived}
  - {name: drm, kind: drm, algorithm: aes-256-gcm, source: derived}
  - {name: licence, kind: drm, source: file, file: licence.bin, size: 24}
  - {name: keybox, kind: opaque, source: file, file: "{identity}.bin"}
  - {name: seed, kind: opaque, source: drawn, size: 32}
  - {name: batch, kind: opaque, source: drawn, size: 8, clear: true}
  - {name: model, kind: opaque, source: value, clear: true, value: "0042"}
`

// TestEveryKindOfEntry takes a device of a line with every source through the
// line, with a crash before its claims, and looks for secrets where none may be.
func TestEveryKindOfEntry(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	dir := t.TempDir()
	licence, keybox := bytes.Repeat([]byte("LICENCE!"), 3), []byte("KEYBOX-of-one-device-only")
	must(t, os.WriteFile(filepath.Join(dir, "licence.bin"), licence, 0o400))
	p, err := profile.Parse([]byte(tvProfile), dir)
	must(t, err)
	l.profiles = append(l.profiles, p)
	l.spp.stop()
	l.spp = l.start(t)
	id, err := identity.FromValue(identity.TypeSerial, "32473-A1B2")
	must(t, err)
	_, err = l.pool.Store.Import(t.Context(), "tvs", "tv", identity.TypeSerial, []identity.Identity{id})
	must(t, err)
	station := l.station(t, func(g *grant.Grant) { g.Line, g.TACs = "tv", nil })
	f := on(station, l.deviceOf(t, true, 16))

	// The licensor's file for this device is not there yet.
	before := l.effects(t)
	refused(t, f.begin(t.Context()), connect.CodeFailedPrecondition, provisioning.CodeProfile)
	if after := l.effects(t); after.Audit != before.Audit || len(after.States) != 0 {
		t.Errorf("a device without its secret was begun: %+v", after)
	}
	must(t, os.WriteFile(filepath.Join(dir, id.Value()+".bin"), keybox, 0o400))

	// The SPP dies between reservation and claims: the signer is gone.
	l.spp.stop()
	broken := &brokenStore{Store: l.records.Store}
	l.spp = l.start(t, func(c *provisioning.Config) { c.Records = broken })
	f.station = l.station(t, func(g *grant.Grant) { g.Line, g.TACs = "tv", nil })
	var e *connect.Error
	if err := f.begin(t.Context()); !errors.As(err, &e) || e.Code() != connect.CodeInternal {
		t.Errorf("got %v from a store that fails", err)
	}
	l.spp.stop()
	l.spp = l.start(t)
	f.station = l.station(t, func(g *grant.Grant) { g.Line, g.TACs = "tv", nil })
	must(t, f.begin(t.Context()))
	reserved, err := l.records.Store.Newest(t.Context(), f.record())
	must(t, err)
	if reserved.Uses != 2 {
		t.Errorf("%d licences, the second attempt needs its own", reserved.Uses)
	}
	for _, step := range f.steps()[1:] {
		must(t, step(t.Context()))
	}
	booted, err := f.device.Boot(t.Context())
	must(t, err)
	seed, ok := booted.Secret("seed")
	if !ok || len(seed) != 32 {
		t.Errorf("seed of %d bytes", len(seed))
	}
	for name, want := range map[string][]byte{"licence": licence, "keybox": keybox} {
		if got, ok := booted.Secret(name); !ok || !bytes.Equal(got, want) {
			t.Errorf("secret %q arrived changed", name)
		}
	}
	d, err := l.records.Store.Newest(t.Context(), f.record())
	must(t, err)
	m, err := keypackage.ParseManifest(d.Manifest)
	must(t, err)
	if m.Entries[1].Algorithm != keypackage.AES256GCM || m.Entries[1].Key.Name != "drm" || string(m.Entries[6].Vouch) != "0042" || len(m.Entries[5].Vouch) != 8 {
		t.Errorf("manifest: %+v", m.Entries)
	}

	// Nothing secret is in a log, a record or a message; the planted word is.
	places := map[string][]byte{"log": []byte(l.log.String()), "package": f.begun.Package, "backup": d.Backup, "entry": d.Entry, "manifest": d.Manifest}
	for _, s := range reserved.Secrets {
		places["sealed "+s.Entry] = s.Sealed
	}
	chipID := f.device.chip.ID().Bytes()
	for place, content := range places {
		for name, secret := range map[string][]byte{"licence": licence, "keybox": keybox, "seed": seed} {
			if found(content, secret) {
				t.Errorf("%s stands in the %s", name, place)
			}
		}
		if (place == "log" || place == "entry") && found(content, chipID) {
			t.Errorf("the chip ID stands in the %s", place)
		}
	}
	if !found(places["package"], chipID) || !found(places["log"], []byte("line-1")) {
		t.Error("the search finds nothing at all")
	}
}

// found looks for bytes as they are, in hexadecimal, and as Go prints them.
func found(content, secret []byte) bool {
	for _, form := range []string{string(secret), fmt.Sprintf("%x", secret), fmt.Sprintf("%X", secret), fmt.Sprint(secret), fmt.Sprintf("%q", secret)} {
		if bytes.Contains(content, []byte(form)) {
			return true
		}
	}
	return false
}

// brokenStore fails before it stores a package: what a crash there leaves.
type brokenStore struct{ *records.Store }

func (brokenStore) Packaged(context.Context, records.Device) error { return errors.New("power cut") }

func TestMetrics(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	l.stock(t, 0, 2)
	must(t, on(l.station(t), l.device(t, true)).run(t.Context(), 0))
	_, err := begin(t, l.station(t), l.device(t, false).hello(t, keypackage.SuiteAttested))
	refused(t, err, connect.CodePermissionDenied, provisioning.CodeUnlistedChip)
	families, err := l.spp.metrics.Gather()
	must(t, err)
	have := map[string]bool{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, p := range m.GetLabel() {
				labels = append(labels, p.GetName()+"="+p.GetValue())
			}
			have[f.GetName()+"{"+strings.Join(labels, ",")+"}"] = true
		}
	}
	for _, want := range []string{
		"devicekeys_devices_total{result=ok,step=begin}", "devicekeys_devices_total{result=ok,step=locked}", "devicekeys_devices_total{result=refused,step=begin}",
		"devicekeys_refusals_total{code=unlisted-chip,step=begin}", "devicekeys_step_seconds{step=publish}", "devicekeys_pool_free{line=phone}",
		"devicekeys_publication_lag_seconds{}", "devicekeys_outbox_entries{}", "devicekeys_outbox_set_aside_total{}", "devicekeys_device_keys_cached{}",
	} {
		if !have[want] {
			t.Errorf("no metric %s", want)
		}
	}
	for name := range have {
		if strings.Contains(name, "line-1") || strings.Contains(name, "0044") {
			t.Errorf("metric %s names somebody", name)
		}
	}
}

// TestCurl speaks the port's JSON side, as a person with curl would.
func TestCurl(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	client := l.client(t, l.ca.issue(t, time.Hour, stationGrant().URI()))
	post := func(procedure, body string) (int, string) {
		res, err := client.Post(l.spp.server.URL+procedure, "application/json", strings.NewReader(body))
		must(t, err)
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		must(t, err)
		return res.StatusCode, string(text)
	}
	if code, text := post(provisioningrpc.AssemblyServiceModulesProcedure, `{}`); code != 200 || !strings.Contains(text, `"productLine":"phone"`) {
		t.Errorf("%d %s", code, text)
	}
	if code, text := post(provisioningrpc.AssemblyServiceBeginProcedure, `{"hello": "AA=="}`); code != 400 || !strings.Contains(text, `"malformed"`) && !strings.Contains(text, "Refusal") {
		t.Errorf("%d %s", code, text)
	}
	if code, text := post(provisioningrpc.AssemblyServiceConfirmProcedure, `{"backup": "`+strings.Repeat("A", 200_000)+`"}`); code != 429 && code != 413 {
		t.Errorf("%d %.80s", code, text)
	}
}
