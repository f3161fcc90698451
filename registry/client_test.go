package registry_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/registry"
	"github.com/devicekeys/devicekeys/registry/registrytest"
	"github.com/devicekeys/devicekeys/registry/store/storetest"
	"github.com/devicekeys/devicekeys/statement"
)

func client(t testing.TB, base string, realm identity.Realm) *registry.Client {
	t.Helper()
	c, err := registry.NewClient(base, nil, registry.ClientOptions{Realm: realm})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// The client against the handler, over a registry in Postgres.
func TestClient(t *testing.T) {
	t.Parallel()
	d, entries := sample(t)
	c := client(t, serve(t, d).URL, identity.Development)
	ctx, none := t.Context(), registrytest.Chip(t, 9).RecordID()

	e, served, err := c.Newest(ctx, entries[0].Record)
	if err != nil || !e.Equal(entries[4]) || served != (registry.Served{Sequence: 4, Newest: true}) {
		t.Errorf("newest: a %s entry, %+v, %v", e.Type, served, err)
	}
	e, served, err = c.Get(ctx, entries[0].Record, 1)
	if err != nil || !e.Equal(entries[0]) || served != (registry.Served{Sequence: 0}) {
		t.Errorf("generation 1: a %s entry, %+v, %v", e.Type, served, err)
	}
	if _, _, err := c.Newest(ctx, none); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("a missing record: %v", err)
	}
	if _, _, err := c.Get(ctx, entries[0].Record, 7); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("a missing generation: %v", err)
	}
	if _, _, err := c.Get(ctx, entries[3].Record, 1); !errors.Is(err, registry.ErrErased) {
		t.Errorf("an erased generation: %v", err)
	}
	found, err := c.Batch(ctx, []identity.RecordID{entries[1].Record, none, entries[0].Record, entries[1].Record})
	if err != nil || len(found) != 2 || !found[entries[1].Record].Entry.Equal(entries[1]) || found[entries[0].Record].Served.Sequence != 4 {
		t.Errorf("batch: %d entries, %v", len(found), err)
	}
	var status *registry.StatusError
	if _, err := c.Batch(ctx, nil); !errors.As(err, &status) || status.Status != 400 || status.Next() == "" {
		t.Errorf("an empty batch: %v", err)
	}
	other := client(t, strings.TrimSuffix(c.Base(), "/"), identity.Production)
	if _, _, err := other.Newest(ctx, entries[1].Record); err == nil {
		t.Error("an entry of another realm was taken")
	}
	if _, err := other.Batch(ctx, []identity.RecordID{entries[1].Record}); err == nil {
		t.Error("a batch of another realm was taken")
	}
}

// What an owner gets with nothing but the device.
func TestLookup(t *testing.T) {
	t.Parallel()
	d := storetest.New(t)
	rom, stranger := registrytest.ROM(t), registrytest.NewSigner(t, "stranger")
	// A record that someone who knows the chip ID sealed, with a certificate that isn't the chip's.
	misfit := func(n int, g identity.Generation, r registry.Record) registry.Entry {
		e, err := registry.Seal(rand.Reader, registrytest.Chip(t, n), registry.Entry{Realm: identity.Development, Type: registry.Register, Generation: g}, r)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	d.Append(
		registrytest.Entry(t, 1, 1), registrytest.Entry(t, 1, 2),
		registrytest.Entry(t, 2, 1), registrytest.End(t, 2, 1, registry.Scrap, rom),
		registrytest.Entry(t, 3, 1), registrytest.End(t, 3, 1, registry.Erase, rom),
		registrytest.Entry(t, 4, 1), registrytest.End(t, 4, 1, registry.Scrap, stranger),
		registrytest.Entry(t, 5, 1), registrytest.End(t, 5, 1, registry.Erase, stranger),
		misfit(6, 1, registrytest.Record(t, 7, 1, 50)),
		misfit(7, 2, registrytest.Record(t, 7, 1, 50)),
		misfit(8, 1, registry.Record{Certificate: []byte("no certificate"), Backup: []byte{1}}),
	)
	c := client(t, serve(t, d).URL, identity.Development)
	r, cert, err := c.Lookup(t.Context(), registrytest.Chip(t, 1), rom.Public())
	if err != nil {
		t.Fatal(err)
	}
	if want := registrytest.Record(t, 1, 2, 600); cert.Generation != 2 || cert.ChipID != registrytest.Chip(t, 1) ||
		!bytes.Equal(r.Backup, want.Backup) || !bytes.Equal(r.Certificate, want.Certificate) {
		t.Errorf("generation %d with a backup of %d bytes", cert.Generation, len(r.Backup))
	}
	for _, row := range []struct {
		name string
		chip int
		rom  statement.PublicKey
		want error
	}{
		{"a missing record", 99, rom.Public(), registry.ErrNotFound},
		{"another manufacturer's device", 1, stranger.Public(), statement.ErrForm},
		{"scrapped", 2, rom.Public(), registry.ErrScrapped},
		{"erased", 3, rom.Public(), registry.ErrErased},
		{"scrapped by a stranger", 4, rom.Public(), nil},
		{"another chip's certificate", 6, rom.Public(), statement.ErrForm},
		{"another generation's certificate", 7, rom.Public(), statement.ErrForm},
		{"no certificate", 8, rom.Public(), statement.ErrForm},
	} {
		if _, _, err := c.Lookup(t.Context(), registrytest.Chip(t, row.chip), row.rom); !errors.Is(err, row.want) || (row.want == nil && err != nil) {
			t.Errorf("%s: %v, want %v", row.name, err, row.want)
		}
	}
	// Without the ROM key's word nobody may call a record erased.
	if _, _, err := c.Lookup(t.Context(), registrytest.Chip(t, 5), rom.Public()); err == nil || errors.Is(err, registry.ErrErased) {
		t.Errorf("erased by a stranger: %v", err)
	}
	if _, _, err := client(t, c.Base(), 0).Lookup(t.Context(), registrytest.Chip(t, 1), rom.Public()); err == nil {
		t.Error("a lookup without realm")
	}
	if _, _, err := client(t, c.Base(), identity.Production).Lookup(t.Context(), registrytest.Chip(t, 1), rom.Public()); err == nil {
		t.Error("a lookup in another realm")
	}
	if _, _, err := c.Lookup(t.Context(), identity.ChipID{}, rom.Public()); err == nil {
		t.Error("a lookup without chip ID")
	}
	for _, chip := range []int{1, 99, 8} {
		_, _, err := c.Lookup(t.Context(), registrytest.Chip(t, chip), stranger.Public())
		if err == nil || strings.Contains(err.Error(), "5548") {
			t.Errorf("the error tells the chip ID, or there is none: %v", err)
		}
	}
}

// Servers that are no registry, or a dishonest one.
func TestClientDistrusts(t *testing.T) {
	t.Parallel()
	asked, other := registrytest.Entry(t, 1, 1), registrytest.Entry(t, 2, 1)
	answer := func(mediaType string, body []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", mediaType)
			_, _ = w.Write(body) // a client that has enough hangs up
		}
	}
	batch := func(entries ...registry.Entry) []byte {
		var b registry.Batch
		for _, e := range entries {
			b.Entries = append(b.Entries, registry.Answer{Entry: registrytest.Encode(t, e)})
		}
		raw, err := b.EncodeCBOR()
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	ids := []identity.RecordID{asked.Record}
	for _, row := range []struct {
		name         string
		h            http.HandlerFunc
		entry, batch bool // good enough
		want         error
		wantRetry    time.Duration
	}{
		{name: "a static mirror", h: answer("application/octet-stream", registrytest.Encode(t, asked)), entry: true},
		{name: "a batch", h: answer("application/cbor", batch(asked)), batch: true},
		{name: "another record", h: answer("application/cbor", registrytest.Encode(t, other))},
		{name: "a batch with another record", h: answer("application/cbor", batch(other))},
		{name: "a batch with a record twice", h: answer("application/cbor", batch(asked, asked))},
		{name: "an empty batch", h: answer("application/cbor", batch())},
		{name: "a web page", h: answer("text/html; charset=utf-8", []byte("<p>hello"))},
		{name: "an endless answer", h: answer("application/cbor", make([]byte, 100*(1<<16)+1<<20))},
		{name: "a cut answer", h: answer("application/cbor", registrytest.Encode(t, asked)[:50])},
		{name: "a page's 404", h: http.NotFound, want: registry.ErrNotFound},
		{name: "another 404", h: func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(404)
			_, _ = w.Write([]byte(`{"type":"/openapi.json#/components/responses/no-route","title":"there is nothing at this path"}`))
		}},
		{name: "busy", h: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(429)
		}, wantRetry: 7 * time.Second},
	} {
		s := httptest.NewServer(row.h)
		c := client(t, s.URL, identity.Development)
		e, served, err := c.Newest(t.Context(), asked.Record)
		_, batchErr := c.Batch(t.Context(), ids)
		if (err == nil) != row.entry || (batchErr == nil) != row.batch {
			t.Errorf("%s: entry %v; batch %v", row.name, err, batchErr)
		}
		if row.entry && (!e.Equal(asked) || served.Sequence != -1 || served.Newest) {
			t.Errorf("%s: %+v", row.name, served)
		}
		if !row.entry && errors.Is(err, registry.ErrNotFound) != (row.want != nil) {
			t.Errorf("%s: %v", row.name, err)
		}
		var status *registry.StatusError
		if row.wantRetry != 0 && (!errors.As(err, &status) || status.RetryAfter != row.wantRetry) {
			t.Errorf("%s: %v", row.name, err)
		}
		s.Close()
	}
	for _, base := range []string{"", "registry.example", "ftp://registry.example", "https://", "https://registry.example/?x=1", "http://a b"} {
		if _, err := registry.NewClient(base, nil, registry.ClientOptions{}); err == nil {
			t.Errorf("%q was taken for a registry's address", base)
		}
	}
}
