package registry_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/registry"
	"github.com/devicekeys/devicekeys/registry/registrytest"
	"github.com/devicekeys/devicekeys/statement"
)

// What is read has one encoding, and reading never panics.
func FuzzParseEntry(f *testing.F) {
	rom := registrytest.ROM(f)
	f.Add(registrytest.Encode(f, registrytest.Entry(f, 1, 1)))
	f.Add(registrytest.Encode(f, registrytest.Entry(f, 1, 2)))
	f.Add(registrytest.Encode(f, registrytest.End(f, 1, 2, registry.Scrap, rom)))
	f.Add([]byte{0x87, 1, 1, 1, 0xf6, 1, 0xf6, 0xf6})
	f.Fuzz(func(t *testing.T, raw []byte) {
		e, err := registry.ParseEntry(raw)
		if err != nil {
			return
		}
		again, err := e.Encode()
		if err != nil || !bytes.Equal(again, raw) {
			t.Fatalf("an entry of %d bytes encodes to %d: %v", len(raw), len(again), err)
		}
		if !e.Type.HasRecord() && e.CheckStatement(rom.Public()) != nil {
			return
		}
	})
}

// A submission read without its signature is read the same way twice.
func FuzzSubmission(f *testing.F) {
	key := registrytest.NewSigner(f, "submission")
	f.Add(registrytest.Submission(f, key, "spp-1", registrytest.Entry(f, 1, 1)))
	f.Add([]byte{0xd2, 0x84, 0x40, 0xa0, 0x40, 0x40})
	f.Fuzz(func(t *testing.T, raw []byte) {
		s, _, err := registry.UnverifiedSubmission(raw)
		if err != nil {
			if _, err := registry.ParseSubmission(raw, key.Public()); err == nil {
				t.Fatal("a submission reads with its key and not without")
			}
			return
		}
		payload, _, err := statement.Unverified(raw, statement.Submission, registry.MaxSubmission)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := s.Encode(); err != nil || !bytes.Equal(again, payload) {
			t.Fatalf("a submission of %d bytes that was read encodes to %d: %v", len(payload), len(again), err)
		}
		if len(s.Entries) > registry.MaxSubmissionEntries || len(s.Submitter) > registry.MaxSubmitter {
			t.Fatalf("%d entries by %q", len(s.Entries), s.Submitter)
		}
		for _, e := range s.Entries {
			_, _ = registry.ParseEntry(e)
		}
	})
}

// A record comes from whoever knew the chip ID, not from a friend.
func FuzzParseRecord(f *testing.F) {
	r := registrytest.Record(f, 1, 1, 40)
	r.X509 = [][]byte{{0x30, 0}}
	raw, err := r.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte{0x84, 1, 0x41, 1, 0x41, 1, 0xf6})
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := registry.ParseRecord(raw)
		if err != nil {
			return
		}
		again, err := r.Encode()
		if err != nil || !bytes.Equal(again, raw) {
			t.Fatalf("a record of %d bytes encodes to %d: %v", len(raw), len(again), err)
		}
	})
}

// Opening a sealed record that someone made up fails and does not panic.
func FuzzOpen(f *testing.F) {
	// The same nonce in each of the fuzzer's processes: what was sealed is e's and nothing else.
	chip := registrytest.Chip(f, 1)
	e, err := registry.Seal(bytes.NewReader(make([]byte, 12)), chip,
		registry.Entry{Realm: identity.Development, Type: registry.Register, Generation: 1}, registrytest.Record(f, 1, 1, 40))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(e.Sealed)
	f.Add(keypackage.Sealed{Ciphertext: make([]byte, 16)}.Encode())
	f.Fuzz(func(t *testing.T, sealed []byte) {
		c := e
		c.Sealed = sealed
		_, err := registry.Open(chip, c)
		if (err == nil) != bytes.Equal(sealed, e.Sealed) {
			t.Fatalf("a sealed record of %d bytes that was never sealed, or the one that was: %v", len(sealed), err)
		}
		if err != nil && !errors.Is(err, registry.ErrSealed) {
			t.Fatalf("refused with another error: %v", err)
		}
	})
}

func FuzzLookup(f *testing.F) {
	f.Add([]byte(`{"records":["` + registrytest.Chip(f, 1).RecordID().String() + `"]}`))
	f.Add([]byte(`{"records":[]}{}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		ids, err := registry.ParseLookup(raw)
		if (err == nil) != (len(ids) > 0 && len(ids) <= registry.MaxBatch) {
			t.Fatalf("%d ids and error %v", len(ids), err)
		}
	})
}

// What is read of a batch encodes to the same bytes, but for the order of its entries, which isn't kept.
func FuzzBatch(f *testing.F) {
	one := registry.Answer{Sequence: 7, Entry: registrytest.Encode(f, registrytest.Entry(f, 1, 1))}
	two := registry.Answer{Sequence: 300, Entry: registrytest.Encode(f, registrytest.Public(f, 2, 1, "urn:x:1"))}
	for _, b := range []registry.Batch{{}, {Entries: []registry.Answer{one}}, {Entries: []registry.Answer{one, two}}, {Missing: []identity.RecordID{{1}, {2}}}} {
		raw, err := b.EncodeCBOR()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Add([]byte{0x83, 1, 0xf6, 0xf6})
	f.Fuzz(func(t *testing.T, raw []byte) {
		found, missing, err := registry.ParseBatch(raw)
		if err != nil {
			return
		}
		if len(found)+len(missing) > registry.MaxBatch {
			t.Fatalf("a batch of %d", len(found)+len(missing))
		}
		again := registry.Batch{Missing: missing}
		for id, s := range found {
			if s.Entry.Record != id || s.Sequence < 0 || s.LeafHash != s.Entry.LeafHash() {
				t.Fatalf("record %s gives %+v", id, s)
			}
			again.Entries = append(again.Entries, registry.Answer{Sequence: s.Sequence, Entry: registrytest.Encode(t, s.Entry)})
		}
		b, err := again.EncodeCBOR()
		if err != nil || len(b) != len(raw) || len(found) < 2 && !bytes.Equal(b, raw) {
			t.Fatalf("%x was read and is written %x, %v", raw, b, err)
		}
	})
}

// shelf is a source in memory.
type shelf []registry.Entry

func (s shelf) Newest(_ context.Context, ids []identity.RecordID) (map[identity.RecordID]registry.Stored, error) {
	found := map[identity.RecordID]registry.Stored{}
	for i, e := range s {
		if e.Type != registry.Certificates && slices.Contains(ids, e.Record) && found[e.Record].Entry.Generation <= e.Generation {
			found[e.Record] = registry.Stored{Entry: e, Sequence: int64(i), LeafHash: e.LeafHash()}
		}
	}
	return found, nil
}

func (s shelf) At(_ context.Context, id identity.RecordID, g identity.Generation) (registry.Stored, error) {
	found := registry.Stored{}
	for i, e := range s {
		if e.Record != id || e.Generation != g {
			continue
		}
		if e.Type == registry.Erase {
			return registry.Stored{}, registry.ErrErased
		}
		if e.Type.HasRecord() {
			found = registry.Stored{Entry: e, Sequence: int64(i), LeafHash: e.LeafHash()}
		}
	}
	if found.Entry.Generation == 0 {
		return registry.Stored{}, registry.ErrNotFound
	}
	return found, nil
}

func (s shelf) Certificates(_ context.Context, id identity.RecordID) (registry.Stored, error) {
	return s.published(func(e registry.Entry, _ registry.PublicCertificates) bool { return e.Record == id })
}

func (s shelf) Directory(_ context.Context, urn string) (registry.Stored, error) {
	return s.published(func(_ registry.Entry, p registry.PublicCertificates) bool { return p.Identity == urn })
}

func (s shelf) published(is func(registry.Entry, registry.PublicCertificates) bool) (registry.Stored, error) {
	for i, e := range s {
		if e.Type != registry.Certificates {
			continue
		}
		if p, err := registry.ParsePublicCertificates(e.Sealed); err != nil || is(e, p) {
			return registry.Stored{Entry: e, Sequence: int64(i), LeafHash: e.LeafHash()}, err
		}
	}
	return registry.Stored{}, registry.ErrNotFound
}

func (s shelf) Check(context.Context) error { return nil }

// fuzzedURN is an identity in the directory.
const fuzzedURN = "urn:gsma:imei:00440245-000004-0"

// FuzzHTTP sends the handler any request that net/http reads: whatever the
// method, the path, the header and the body, the answer is an entry, one of the
// problems that the OpenAPI description names, or nothing new, and never the
// server's fault.
func FuzzHTTP(f *testing.F) {
	rom := registrytest.ROM(f)
	entries := shelf{
		registrytest.Entry(f, 1, 1), registrytest.Entry(f, 2, 1), registrytest.Entry(f, 1, 2),
		registrytest.End(f, 1, 2, registry.Scrap, rom), registrytest.Entry(f, 3, 1), registrytest.End(f, 3, 1, registry.Erase, rom),
		registrytest.Entry(f, 4, 1), registrytest.Public(f, 4, 1, fuzzedURN),
	}
	h, err := registry.NewHandler(entries, registry.HandlerOptions{Log: slog.New(slog.DiscardHandler), Rate: 1e9, Burst: 1e9,
		Directory: true, DirectoryRate: 1e9, DirectoryBurst: 1e9})
	if err != nil {
		f.Fatal(err)
	}
	one, erased := entries[0].Record.String(), registrytest.Chip(f, 3).RecordID().String()
	listed := registrytest.Chip(f, 4).RecordID().String()
	lookup := `{"records":["` + one + `","` + erased + `"]}`
	for _, s := range []string{
		"GET /records/" + one + " HTTP/1.1\r\nHost: r\r\n\r\n",
		"HEAD /records/" + one + "/1 HTTP/1.1\r\nHost: r\r\nAccept: application/json;q=0.5, */*;q=0.1\r\n\r\n",
		"GET /records/" + erased + "/1 HTTP/1.1\r\nHost: r\r\nIf-None-Match: *\r\n\r\n",
		"GET /records/" + one[1:] + "/01 HTTP/1.0\r\n\r\n",
		"GET /records//" + one + "/../x HTTP/1.1\r\nHost: r\r\n\r\n",
		"GET /records/%2e%2e/" + strings.ToUpper(one) + "?a=b HTTP/1.1\r\nHost: r\r\nRange: bytes=0-1\r\n\r\n",
		"POST /records:lookup HTTP/1.1\r\nHost: r\r\nContent-Type: application/json\r\nContent-Length: " + fmt.Sprint(len(lookup)) + "\r\n\r\n" + lookup,
		"POST /records:lookup HTTP/1.1\r\nHost: r\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n\r\n",
		"GET /certificates/" + listed + " HTTP/1.1\r\nHost: r\r\n\r\n", "GET /certificates/" + one + " HTTP/1.1\r\nHost: r\r\nAccept: application/json\r\n\r\n",
		"HEAD /certificates/" + listed[1:] + " HTTP/1.1\r\nHost: r\r\n\r\n",
		"GET /directory/" + fuzzedURN + " HTTP/1.1\r\nHost: r\r\n\r\n", "GET /directory/urn%3agsma%3Aimei:00440245-000004-0 HTTP/1.1\r\nHost: r\r\nIf-None-Match: *\r\n\r\n",
		"GET /directory/urn:x%2F..%00%ff HTTP/1.1\r\nHost: r\r\n\r\n", "GET /directory/" + strings.Repeat("u", 200) + " HTTP/1.1\r\nHost: r\r\n\r\n",
		"OPTIONS * HTTP/1.1\r\nHost: r\r\n\r\n", "CONNECT r:80 HTTP/1.1\r\nHost: r\r\n\r\n", "DELETE /healthz HTTP/1.1\r\nHost: r\r\nX-Forwarded-For: ::1, x\r\n\r\n",
		"GET /openapi.json HTTP/1.1\r\nHost: r\r\nAccept-Encoding: gzip\r\n\r\n", "GET http://r/healthz HTTP/1.1\r\nHost: r\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	problems := registry.ProblemKinds()
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(raw)))
		if err != nil {
			return // the server never sees it
		}
		if r.RequestURI == "*" {
			return // net/http answers that itself
		}
		r.RemoteAddr = "192.0.2.1:1"
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		switch media, _, _ := strings.Cut(w.Header().Get("Content-Type"), ";"); {
		case w.Code >= 500:
			t.Fatalf("%d: %s", w.Code, w.Body)
		case w.Code == http.StatusNotModified:
			if w.Body.Len() != 0 {
				t.Fatalf("%d with %d bytes", w.Code, w.Body.Len())
			}
		case w.Code >= 400:
			var p registry.Problem
			if media != registry.MediaProblem || json.Unmarshal(w.Body.Bytes(), &p) != nil || p.Status != w.Code || p.Next == "" {
				t.Fatalf("%d, %q: %q", w.Code, media, w.Body)
			}
			if _, kind, _ := strings.Cut(p.Type, "/responses/"); problems[kind] != w.Code {
				t.Fatalf("%d is not the code of problem %q", w.Code, p.Type)
			}
			if (w.Code == http.StatusMethodNotAllowed) != (w.Header().Get("Allow") != "") || len(p.Detail) > 1<<10 {
				t.Fatalf("%d, Allow %q, detail of %d bytes", w.Code, w.Header().Get("Allow"), len(p.Detail))
			}
		case w.Code != http.StatusOK:
			t.Fatalf("%d: %s", w.Code, w.Body)
		case media == registry.MediaCBOR && r.Method == http.MethodGet:
			e, err := registry.ParseEntry(w.Body.Bytes())
			public := strings.HasPrefix(r.URL.Path, "/certificates/") || strings.HasPrefix(r.URL.Path, "/directory/")
			if public != (e.Type == registry.Certificates) {
				t.Fatalf("%s gives a %s entry", r.URL.Path, e.Type)
			}
			if err != nil || !strings.Contains(r.URL.Path, e.Record.String()) && r.URL.Path != "/directory/"+fuzzedURN {
				t.Fatalf("%s gives the entry of %s, %v", r.URL.Path, e.Record, err)
			}
		case media == registry.MediaCBOR && r.Method == http.MethodPost:
			if _, _, err := registry.ParseBatch(w.Body.Bytes()); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// answering gives every request the same answer.
type answering struct{ response http.Response }

func (a answering) RoundTrip(r *http.Request) (*http.Response, error) {
	a.response.Request = r
	return &a.response, nil
}

// FuzzAnswer gives the client any answer of a server: what it takes is about the
// record it asked for, and what it refuses is not called missing or erased unless
// the server's status said so.
func FuzzAnswer(f *testing.F) {
	e := registrytest.Entry(f, 1, 1)
	id, err := identity.FromValue(identity.TypeIMEI, "00440245000001")
	if err != nil {
		f.Fatal(err)
	}
	batch, err := registry.Batch{Entries: []registry.Answer{{Sequence: 7, Entry: registrytest.Encode(f, e)}}}.EncodeCBOR()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(200, "application/cbor", "7", registrytest.Encode(f, e))
	f.Add(200, "application/cbor", "-1", registrytest.Encode(f, registrytest.Entry(f, 2, 1)))
	f.Add(200, "application/cbor", "", batch)
	f.Add(200, "text/html", "", []byte("<html>"))
	urn := id.URN()
	f.Add(200, "application/cbor", "8", registrytest.Encode(f, registrytest.Public(f, 1, 1, urn)))
	f.Add(200, "application/cbor", "8", registrytest.Encode(f, registrytest.Public(f, 2, 3, urn)))
	f.Add(200, "application/cbor", "8", registrytest.Encode(f, registrytest.Public(f, 1, 1, "")))
	f.Add(404, registry.MediaProblem, "5", []byte(`{"type":"/openapi.json#/components/responses/not-found","status":404,"title":"there is no such record"}`))
	f.Add(410, registry.MediaProblem, "99999999", []byte(`{"type":"/openapi.json#/components/responses/erased","status":410}`))
	f.Add(503, "", "3", []byte{})
	f.Fuzz(func(t *testing.T, status int, media, number string, body []byte) {
		hc := &http.Client{Transport: answering{http.Response{StatusCode: status, Header: http.Header{
			"Content-Type": {media}, registry.HeaderSequence: {number}, "Retry-After": {number}}, Body: io.NopCloser(bytes.NewReader(body))}}}
		if status >= 300 && status < 400 {
			return // Go's client's own business
		}
		c, err := registry.NewClient("http://registry.example", hc, registry.ClientOptions{Realm: e.Realm})
		if err != nil {
			t.Fatal(err)
		}
		got, served, err := c.Newest(t.Context(), e.Record)
		judge := func(err error) {
			if errors.Is(err, registry.ErrNotFound) && status != 404 || errors.Is(err, registry.ErrErased) && status != 410 {
				t.Fatalf("status %d: %v", status, err)
			}
			var s *registry.StatusError
			if errors.As(err, &s) && (s.Status != status || s.RetryAfter < 0 || len(s.Error()) > 8<<10) {
				t.Fatalf("status %d: %v", status, err)
			}
		}
		judge(err)
		if err == nil && (got.Record != e.Record || got.Realm != e.Realm || status != 200 || served.Sequence < -1 || len(body) > registry.MaxEntry) {
			t.Fatalf("status %d: record %s, %+v", status, got.Record, served)
		}
		hc.Transport = answering{http.Response{StatusCode: status, Header: http.Header{"Content-Type": {media}}, Body: io.NopCloser(bytes.NewReader(body))}}
		public, g, err := c.Certificates(t.Context(), e.Record)
		judge(err)
		if err == nil && (g == 0 || len(public.X509) == 0 || status != 200) {
			t.Fatalf("status %d: certificates of generation %d: %+v", status, g, public)
		}
		hc.Transport = answering{http.Response{StatusCode: status, Header: http.Header{"Content-Type": {media}}, Body: io.NopCloser(bytes.NewReader(body))}}
		listed, record, err := c.Directory(t.Context(), id)
		judge(err)
		if err == nil && (listed.Identity != id.URN() || record == identity.RecordID{} || len(listed.X509) == 0 || status != 200) {
			t.Fatalf("status %d: record %s: %+v", status, record, listed)
		}
		hc.Transport = answering{http.Response{StatusCode: status, Header: http.Header{"Content-Type": {media}}, Body: io.NopCloser(bytes.NewReader(body))}}
		many, err := c.Batch(t.Context(), []identity.RecordID{e.Record})
		judge(err)
		for id, one := range many {
			if id != e.Record || one.Entry.Record != id || one.Served.Sequence < 0 {
				t.Fatalf("record %s gives %+v", id, one.Served)
			}
		}
	})
}
