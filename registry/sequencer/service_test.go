package sequencer_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/registry"
	"github.com/devicekeys/devicekeys/registry/registrytest"
	"github.com/devicekeys/devicekeys/registry/sequencer"
	"github.com/devicekeys/devicekeys/registry/store"
	"github.com/devicekeys/devicekeys/registry/store/storetest"
)

// The rules by which entries follow each other. Each row is an entry of one
// chip, in order; the same rules hold within one submission and across many.
func TestOrder(t *testing.T) {
	t.Parallel()
	rom, stranger := registrytest.ROM(t), registrytest.NewSigner(t, "stranger")
	record := func(g identity.Generation, kind registry.EntryType) func(testing.TB, int) registry.Entry {
		return func(t testing.TB, n int) registry.Entry {
			e, err := registry.Seal(strings.NewReader(fmt.Sprintf("%-12d", g)), registrytest.Chip(t, n),
				registry.Entry{Realm: identity.Development, Type: kind, Generation: g}, registrytest.Record(t, n, g, 100))
			if err != nil {
				t.Fatal(err)
			}
			return e
		}
	}
	end := func(g identity.Generation, kind registry.EntryType, signer registrytest.Signer) func(testing.TB, int) registry.Entry {
		return func(t testing.TB, n int) registry.Entry { return registrytest.End(t, n, g, kind, signer) }
	}
	resealed := func(t testing.TB, n int) registry.Entry {
		e, err := registry.Seal(strings.NewReader("other nonce."), registrytest.Chip(t, n),
			registry.Entry{Realm: identity.Development, Type: registry.Register, Generation: 1}, registrytest.Record(t, n, 1, 100))
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	foreign := func(t testing.TB, n int) registry.Entry {
		e, err := registry.Seal(strings.NewReader("twelve bytes"), registrytest.Chip(t, n),
			registry.Entry{Realm: identity.Production, Type: registry.Register, Generation: 1}, registrytest.Record(t, n, 1, 100))
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	public := func(g identity.Generation, urn string) func(testing.TB, int) registry.Entry {
		return func(t testing.TB, n int) registry.Entry { return registrytest.Public(t, n, g, urn) }
	}
	rows := []struct {
		name  string
		entry func(testing.TB, int) registry.Entry
		want  error
	}{
		{"supersede before anything stands", record(2, registry.Supersede), sequencer.ErrRefused},
		{"scrap before anything stands", end(1, registry.Scrap, rom), sequencer.ErrRefused},
		{"erase before anything stands", end(1, registry.Erase, rom), sequencer.ErrRefused},
		{"another realm", foreign, sequencer.ErrRefused},
		{"register", record(1, registry.Register), nil},
		{"register again, the same bytes", record(1, registry.Register), nil},
		{"register again, other bytes", resealed, sequencer.ErrConflict},
		{"register a second generation", record(2, registry.Register), sequencer.ErrRefused},
		{"supersede with the same generation", record(1, registry.Supersede), sequencer.ErrRefused},
		{"supersede, leaving one out", record(3, registry.Supersede), nil},
		{"supersede with a lower generation", record(2, registry.Supersede), sequencer.ErrRefused},
		{"scrap a superseded generation", end(1, registry.Scrap, rom), sequencer.ErrRefused},
		{"erase a generation that never was", end(2, registry.Erase, rom), sequencer.ErrRefused},
		{"erase a superseded generation", end(1, registry.Erase, rom), nil},
		{"scrap with a stranger's statement", end(3, registry.Scrap, stranger), sequencer.ErrRefused},
		{"scrap with the submission key's statement", end(3, registry.Scrap, submissionKey(t)), sequencer.ErrRefused},
		{"scrap with a past identity-signing key", end(3, registry.Scrap, registrytest.NewSigner(t, "identity-signing before")), nil},
		{"certificates of what stands", public(3, "urn:dev:mac:1"), nil},
		{"certificates again", public(3, "urn:dev:mac:1"), nil},
		{"other certificates of the same generation", public(3, "urn:dev:mac:2"), sequencer.ErrConflict},
		{"certificates before their record", public(4, ""), sequencer.ErrRefused},
		{"scrap again with another statement", end(3, registry.Scrap, rom), sequencer.ErrConflict},
		{"supersede after scrap", record(4, registry.Supersede), nil},
		{"erase the newest", end(4, registry.Erase, rom), nil},
		{"register after erase", record(5, registry.Register), sequencer.ErrRefused},
	}
	check := func(t *testing.T, i int, ack sequencer.Ack, e registry.Entry) {
		t.Helper()
		if row := rows[i]; !errors.Is(ack.Err, row.want) {
			t.Errorf("%s: %v, want %v", row.name, ack.Err, row.want)
		}
		if ack.Record != e.Record || ack.Generation != e.Generation || ack.Type != e.Type {
			t.Errorf("%s: the answer is about a %s entry of generation %d", rows[i].name, ack.Type, ack.Generation)
		}
	}
	t.Run("one by one", func(t *testing.T) {
		t.Parallel()
		d := storetest.New(t)
		r := start(t, store.NewWriter(d.Open(d.Roles.Sequencer)))
		c := r.spp(t)
		for i, row := range rows {
			e := row.entry(t, 1)
			check(t, i, submit(t, c, e)[0], e)
		}
		verify(t, d.Reader(), 7)
	})
	t.Run("in one submission", func(t *testing.T) {
		t.Parallel()
		d := storetest.New(t)
		r := start(t, store.NewWriter(d.Open(d.Roles.Sequencer)))
		var entries []registry.Entry
		for _, row := range rows {
			entries = append(entries, row.entry(t, 1))
		}
		acks := submit(t, r.spp(t), entries...)
		for i, ack := range acks {
			check(t, i, ack, entries[i])
		}
		if acks[4].Sequence != acks[5].Sequence {
			t.Errorf("the same bytes got %d and %d", acks[4].Sequence, acks[5].Sequence)
		}
		verify(t, d.Reader(), 7)
		for result, want := range map[string]float64{"durable": 7, "duplicate": 2, "conflict": 3, "refused": 13} {
			if got := r.metric(t, "devicekeys_sequencer_entries_total", result); got != want {
				t.Errorf("%s entries counted: %g, want %g", result, got, want)
			}
		}
	})
}

// An entry that is no entry is refused alone.
func TestMalformedEntry(t *testing.T) {
	t.Parallel()
	d := storetest.New(t)
	r := start(t, store.NewWriter(d.Open(d.Roles.Sequencer)))
	good := registrytest.Encode(t, registrytest.Entry(t, 1, 1))
	raw, err := registry.SignSubmission(t.Context(), submissionKey(t), registry.Submission{
		Realm: identity.Development, Submitter: submitterName,
		Entries: [][]byte{{0xff}, good, good[:len(good)-1], append([]byte{}, append(good, 0)...)},
	})
	if err != nil {
		t.Fatal(err)
	}
	acks, err := r.spp(t).Submit(t.Context(), raw)
	if err != nil {
		t.Fatal(err)
	}
	for i, ack := range acks {
		if (ack.Err == nil) != (i == 1) || (ack.Err != nil && !errors.Is(ack.Err, sequencer.ErrRefused)) {
			t.Errorf("entry %d: %v", i, ack.Err)
		}
	}
	verify(t, d.Reader(), 1)
}

// Who may submit, and what.
func TestAdmission(t *testing.T) {
	t.Parallel()
	d := storetest.New(t)
	r := start(t, store.NewWriter(d.Open(d.Roles.Sequencer)))
	good := submission(t, registrytest.Entry(t, 1, 1))
	entry := registrytest.Entry(t, 2, 1)
	foreignRealm, err := registry.SignSubmission(t.Context(), submissionKey(t), registry.Submission{
		Realm: identity.Production, Submitter: submitterName, Entries: [][]byte{registrytest.Encode(t, entry)}})
	if err != nil {
		t.Fatal(err)
	}
	changed := append([]byte{}, good...)
	changed[len(changed)-1] ^= 1
	cert := func(uris ...string) []tls.Certificate { return []tls.Certificate{r.ca.issue(t, time.Hour, uris...)} }
	for _, row := range []struct {
		name  string
		certs []tls.Certificate
		raw   []byte
		want  connect.Code // 0: taken
	}{
		{"no certificate", nil, good, connect.CodeUnavailable}, // the handshake fails
		{"a foreign certificate", []tls.Certificate{newAuthority(t).issue(t, time.Hour, submitterURI)}, good, connect.CodeUnavailable},
		{"an expired certificate", []tls.Certificate{r.ca.issue(t, -time.Minute, submitterURI)}, good, connect.CodeUnavailable},
		{"a certificate without a name", cert(), good, connect.CodePermissionDenied},
		{"a station's certificate", cert("devicekeys://development/station/spp-1"), good, connect.CodePermissionDenied},
		{"another realm's certificate", cert("devicekeys://production/spp/spp-1"), good, connect.CodePermissionDenied},
		{"a certificate with two names", cert(submitterURI, "devicekeys://development/spp/spp-2"), good, connect.CodePermissionDenied},
		{"a certificate with a longer path", cert(submitterURI + "/x"), good, connect.CodePermissionDenied},
		{"another SPP's submission", cert("devicekeys://development/spp/spp-2"), good, connect.CodePermissionDenied},
		{"signed by another key", cert(submitterURI), registrytest.Submission(t, registrytest.ROM(t), submitterName, entry), connect.CodePermissionDenied},
		{"changed after signing", cert(submitterURI), changed, connect.CodePermissionDenied},
		{"of another realm", cert(submitterURI), foreignRealm, connect.CodePermissionDenied},
		{"as it should be", cert(submitterURI), good, 0},
	} {
		_, err := r.client(t, row.certs...).Submit(t.Context(), row.raw)
		if row.want == 0 && err == nil {
			continue
		}
		if connect.CodeOf(err) != row.want || row.want == 0 {
			t.Errorf("%s: %v, want code %s", row.name, err, row.want)
		}
		if _, again := sequencer.Retry(err); again != (row.want == connect.CodeUnavailable) {
			t.Errorf("%s: to be tried again: %v", row.name, again)
		}
	}
	if _, err := r.spp(t).Submit(t.Context(), []byte("no statement")); err == nil {
		t.Error("the client sent what is no submission")
	}
	verify(t, d.Reader(), 1)
}

// A database of one realm is not opened by a sequencer of the other.
func TestRealm(t *testing.T) {
	t.Parallel()
	d := storetest.New(t)
	d.Append(registrytest.Entry(t, 1, 1))
	o := options(t)
	o.Realm = identity.Production
	if _, err := sequencer.New(t.Context(), store.NewWriter(d.Open(d.Roles.Sequencer)), o); err == nil || !strings.Contains(err.Error(), "development") {
		t.Errorf("opened: %v", err)
	}
}

// Of two sequencers the one whose head was moved stops, and says why.
func TestTwoSequencers(t *testing.T) {
	t.Parallel()
	d := storetest.New(t)
	one := start(t, store.NewWriter(d.Open(d.Roles.Sequencer)))
	two := start(t, store.NewWriter(d.Open(d.Roles.Sequencer)))
	submit(t, one.spp(t), registrytest.Entry(t, 1, 1))
	_, err := two.spp(t).Submit(t.Context(), submission(t, registrytest.Entry(t, 2, 1)))
	if connect.CodeOf(err) != connect.CodeUnavailable {
		t.Errorf("the loser's answer: %v", err)
	}
	if err := two.stop(); !errors.Is(err, store.ErrHeadMoved) || !strings.Contains(err.Error(), "one sequencer") {
		t.Errorf("the loser ended with: %v", err)
	}
	if _, err := two.spp(t).Submit(t.Context(), submission(t, registrytest.Entry(t, 2, 1))); connect.CodeOf(err) != connect.CodeUnavailable {
		t.Errorf("after the end: %v", err)
	}
	if err := two.Check(t.Context()); err == nil {
		t.Error("the loser calls itself healthy")
	}
	submit(t, one.spp(t), registrytest.Entry(t, 2, 1))
	verify(t, d.Reader(), 2)
}

// verify walks through the registry: dense, undamaged, of the given size.
func verify(t testing.TB, r *store.Reader, size int64) []store.Row {
	t.Helper()
	ctx := context.Background()
	var all []store.Row
	for {
		rows, err := r.Range(ctx, int64(len(all)), 1000)
		if err != nil {
			t.Fatal(err)
		}
		if len(rows) == 0 {
			break
		}
		all = append(all, rows...)
	}
	head, err := r.Size(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if head != size || int64(len(all)) != size {
		t.Errorf("head %d, %d entries, want %d", head, len(all), size)
	}
	return all
}
