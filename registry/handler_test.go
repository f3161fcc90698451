package registry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/registry"
	"github.com/devicekeys/devicekeys/registry/registrytest"
	"github.com/devicekeys/devicekeys/registry/store/storetest"
)

// counted is a source that counts and, on demand, fails or waits.
type counted struct {
	registry.Source
	calls atomic.Int64
	fail  atomic.Bool
	wait  chan struct{} // closed to let calls through; nil: none waits
}

func (c *counted) before() error {
	c.calls.Add(1)
	if c.wait != nil {
		<-c.wait
	}
	if c.fail.Load() {
		return errors.New("the password of the database is swordfish")
	}
	return nil
}

func (c *counted) Newest(ctx context.Context, ids []identity.RecordID) (map[identity.RecordID]registry.Stored, error) {
	if err := c.before(); err != nil {
		return nil, err
	}
	return c.Source.Newest(ctx, ids)
}

func (c *counted) At(ctx context.Context, id identity.RecordID, g identity.Generation) (registry.Stored, error) {
	if err := c.before(); err != nil {
		return registry.Stored{}, err
	}
	return c.Source.At(ctx, id, g)
}

func (c *counted) Certificates(ctx context.Context, id identity.RecordID) (registry.Stored, error) {
	if err := c.before(); err != nil {
		return registry.Stored{}, err
	}
	return c.Source.(registry.PublicSource).Certificates(ctx, id)
}

func (c *counted) Directory(ctx context.Context, urn string) (registry.Stored, error) {
	if err := c.before(); err != nil {
		return registry.Stored{}, err
	}
	return c.Source.(registry.PublicSource).Directory(ctx, urn)
}

func (c *counted) Check(ctx context.Context) error {
	if err := c.before(); err != nil {
		return err
	}
	return c.Source.Check(ctx)
}

// served is a handler over a registry in Postgres.
type served struct {
	*httptest.Server
	source  *counted
	metrics *prometheus.Registry
}

func serve(t testing.TB, d *storetest.Database, change ...func(*registry.HandlerOptions)) *served {
	t.Helper()
	s := &served{source: &counted{Source: d.Reader()}, metrics: prometheus.NewRegistry()}
	o := registry.HandlerOptions{Registerer: s.metrics, Log: slog.New(slog.DiscardHandler), Rate: 1e6, Burst: 1e6}
	for _, f := range change {
		f(&o)
	}
	h, err := registry.NewHandler(s.source, o)
	if err != nil {
		t.Fatal(err)
	}
	s.Server = httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

// ask sends a request whose header is given as "Name: value".
func (s *served) ask(t testing.TB, method, path, body string, header ...string) (*http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range header {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Add(name, value)
	}
	resp, err := s.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, b
}

// sample is a registry of three chips: 1 was superseded and then scrapped, 2 was
// registered and its certificates published, 3 was erased.
func sample(t testing.TB) (*storetest.Database, []registry.Entry) {
	d, rom := storetest.New(t), registrytest.ROM(t)
	entries := []registry.Entry{
		registrytest.Entry(t, 1, 1), registrytest.Entry(t, 2, 1), registrytest.Entry(t, 1, 2), registrytest.Entry(t, 3, 1),
		registrytest.End(t, 1, 2, registry.Scrap, rom), registrytest.End(t, 3, 1, registry.Erase, rom),
		registrytest.Public(t, 2, 1, "urn:dev:mac:2"), registrytest.Public(t, 1, 2, "urn:dev:mac:1"),
	}
	d.Append(entries...)
	return d, entries
}

type operation struct {
	Responses map[string]struct {
		Ref string `json:"$ref"`
	} `json:"responses"`
}

type description struct {
	Paths map[string]struct {
		Get, Head, Post *operation
	} `json:"paths"`
	Components struct {
		Responses map[string]any `json:"responses"`
		Schemas   map[string]struct {
			Properties map[string]any `json:"properties"`
		} `json:"schemas"`
	} `json:"components"`
}

// Every route and status code, against what the OpenAPI description promises: no
// answer that it lacks, and none promised that this table doesn't show.
func TestStatusCodes(t *testing.T) {
	t.Parallel()
	d, entries := sample(t)
	listed := func(o *registry.HandlerOptions) { o.Directory, o.DirectoryRate, o.DirectoryBurst = true, 0.001, 7 }
	s, unlisted := serve(t, d, listed), serve(t, d)
	down := serve(t, d, listed)
	down.source.fail.Store(true)
	limited := serve(t, d, func(o *registry.HandlerOptions) { o.Rate, o.Burst = 0.001, 10 })
	for range 10 {
		limited.ask(t, "GET", "/openapi.json", "")
	}

	one, two, three := entries[0].Record.String(), entries[1].Record.String(), entries[3].Record.String()
	none := registrytest.Chip(t, 9).RecordID().String()
	etag := func(path string) string {
		resp, _ := s.ask(t, "GET", path, "")
		return resp.Header.Get("ETag")
	}
	question := func(ids ...string) string {
		b, _ := json.Marshal(map[string][]string{"records": ids}) // strings always encode
		return string(b)
	}
	jsonBody := "Content-Type: application/json"
	many := make([]string, 101)
	for i := range many {
		many[i] = registrytest.Chip(t, i).RecordID().String()
	}
	const newest, generation, lookup = "/records/{record}", "/records/{record}/{generation}", "/records:lookup"
	const certificates, directory = "/certificates/{record}", "/directory/{identity}"
	rows := []struct {
		at                  *served
		route, method, path string
		body                string
		header              []string
		status              int
	}{
		{s, newest, "GET", "/records/" + two, "", nil, 200},
		{s, newest, "HEAD", "/records/" + two, "", nil, 200},
		{s, newest, "GET", "/records/" + one, "", nil, 200},
		{s, newest, "GET", "/records/" + three, "", []string{"Accept: application/json"}, 200},
		{s, newest, "GET", "/records/" + two, "", []string{"If-None-Match: " + etag("/records/"+two)}, 304},
		{s, newest, "HEAD", "/records/" + two, "", []string{"If-None-Match: \"other\", W/" + etag("/records/"+two)}, 304},
		{s, newest, "GET", "/records/" + two, "", []string{"If-None-Match: \"other\""}, 200},
		{s, newest, "GET", "/records/" + two, "", []string{"If-None-Match: *"}, 304},
		{s, newest, "GET", "/records/" + two[1:], "", nil, 400},
		{s, newest, "GET", "/records/" + strings.ToUpper(two), "", nil, 400},
		{s, newest, "HEAD", "/records/x", "", nil, 400},
		{s, newest, "GET", "/records/" + none, "", nil, 404},
		{s, newest, "HEAD", "/records/" + none, "", nil, 404},
		{s, newest, "PUT", "/records/" + two, "x", nil, 405},
		{s, newest, "DELETE", "/records/" + two, "", nil, 405},
		{s, newest, "GET", "/records/" + two, "", []string{"Accept: text/html"}, 406},
		{s, newest, "HEAD", "/records/" + two, "", []string{"Accept: text/html"}, 406},
		{limited, newest, "GET", "/records/" + two, "", nil, 429},
		{limited, newest, "HEAD", "/records/" + two, "", nil, 429},
		{down, newest, "GET", "/records/" + two, "", nil, 503},
		{down, newest, "HEAD", "/records/" + two, "", nil, 503},

		{s, generation, "GET", "/records/" + one + "/1", "", nil, 200},
		{s, generation, "GET", "/records/" + one + "/2", "", []string{"Accept: application/json"}, 200},
		{s, generation, "HEAD", "/records/" + one + "/2", "", nil, 200},
		{s, generation, "GET", "/records/" + one + "/1", "", []string{"If-None-Match: " + etag("/records/"+one+"/1")}, 304},
		{s, generation, "HEAD", "/records/" + one + "/1", "", []string{"If-None-Match: " + etag("/records/"+one+"/1")}, 304},
		{s, generation, "GET", "/records/" + one + "/0", "", nil, 400},
		{s, generation, "GET", "/records/" + one + "/01", "", nil, 400},
		{s, generation, "GET", "/records/" + one + "/-1", "", nil, 400},
		{s, generation, "GET", "/records/" + one + "/4294967296", "", nil, 400},
		{s, generation, "HEAD", "/records/x/1", "", nil, 400},
		{s, generation, "GET", "/records/" + one + "/3", "", nil, 404},
		{s, generation, "HEAD", "/records/" + one + "/3", "", nil, 404},
		{s, generation, "POST", "/records/" + one + "/1", "", nil, 405},
		{s, generation, "GET", "/records/" + one + "/1", "", []string{"Accept: application/*;q=0"}, 406},
		{s, generation, "HEAD", "/records/" + one + "/1", "", []string{"Accept: image/png"}, 406},
		{s, generation, "GET", "/records/" + three + "/1", "", nil, 410},
		{s, generation, "HEAD", "/records/" + three + "/1", "", nil, 410},
		{limited, generation, "GET", "/records/" + one + "/1", "", nil, 429},
		{limited, generation, "HEAD", "/records/" + one + "/1", "", nil, 429},
		{down, generation, "GET", "/records/" + one + "/1", "", nil, 503},
		{down, generation, "HEAD", "/records/" + one + "/1", "", nil, 503},

		{s, lookup, "POST", "/records:lookup", question(one, none, two), []string{jsonBody}, 200},
		{s, lookup, "POST", "/records:lookup", question(one), []string{"Content-Type: application/json; charset=utf-8", "Accept: application/cbor"}, 200},
		{s, lookup, "POST", "/records:lookup", question(many[:100]...), []string{jsonBody}, 200},
		{s, lookup, "POST", "/records:lookup", question(many...), []string{jsonBody}, 400},
		{s, lookup, "POST", "/records:lookup", question(), []string{jsonBody}, 400},
		{s, lookup, "POST", "/records:lookup", question("x"), []string{jsonBody}, 400},
		{s, lookup, "POST", "/records:lookup", question(one) + "{}", []string{jsonBody}, 400},
		{s, lookup, "POST", "/records:lookup", `{"chips":[]}`, []string{jsonBody}, 400},
		{s, lookup, "POST", "/records:lookup", ``, []string{jsonBody}, 400},
		{s, lookup, "GET", "/records:lookup", "", nil, 405},
		{s, lookup, "POST", "/records:lookup", question(one), []string{jsonBody, "Accept: text/plain"}, 406},
		{s, lookup, "POST", "/records:lookup", question(one) + strings.Repeat(" ", 17<<10), []string{jsonBody}, 413},
		{s, lookup, "POST", "/records:lookup", question(one), []string{"Content-Type: text/plain"}, 415},
		{s, lookup, "POST", "/records:lookup", question(one), nil, 415},
		{limited, lookup, "POST", "/records:lookup", question(one), []string{jsonBody}, 429},
		{down, lookup, "POST", "/records:lookup", question(one), []string{jsonBody}, 503},

		{s, certificates, "GET", "/certificates/" + two, "", nil, 200},
		{s, certificates, "HEAD", "/certificates/" + two, "", []string{"Accept: application/json"}, 200},
		{s, certificates, "GET", "/certificates/" + two, "", []string{"If-None-Match: " + etag("/certificates/"+two)}, 304},
		{s, certificates, "HEAD", "/certificates/" + two, "", []string{"If-None-Match: *"}, 304},
		{s, certificates, "GET", "/certificates/x", "", nil, 400},
		{s, certificates, "HEAD", "/certificates/x", "", nil, 400},
		{s, certificates, "GET", "/certificates/" + three, "", nil, 404}, // none
		{s, certificates, "HEAD", "/certificates/" + one, "", nil, 404},  // scrapped
		{s, certificates, "PUT", "/certificates/" + two, "", nil, 405},
		{s, certificates, "GET", "/certificates/" + two, "", []string{"Accept: text/html"}, 406},
		{s, certificates, "HEAD", "/certificates/" + two, "", []string{"Accept: text/html"}, 406},
		{limited, certificates, "GET", "/certificates/" + two, "", nil, 429},
		{limited, certificates, "HEAD", "/certificates/" + two, "", nil, 429},
		{down, certificates, "GET", "/certificates/" + two, "", nil, 503},
		{down, certificates, "HEAD", "/certificates/" + two, "", nil, 503},

		{s, directory, "GET", "/directory/urn:dev:mac:2", "", nil, 200},
		{s, directory, "HEAD", "/directory/urn:dev:mac:2", "", nil, 200},
		{s, directory, "GET", "/directory/urn:dev:mac:2", "", []string{"If-None-Match: *"}, 304},
		{s, directory, "HEAD", "/directory/urn:dev:mac:2", "", []string{"If-None-Match: *"}, 304},
		{s, directory, "GET", "/directory/urn:dev:mac:1", "", nil, 404},  // scrapped
		{s, directory, "HEAD", "/directory/urn:dev:mac:3", "", nil, 404}, // never
		{s, directory, "GET", "/directory/" + strings.Repeat("u", 129), "", nil, 400},
		{s, directory, "HEAD", "/directory/" + strings.Repeat("u", 129), "", nil, 400},
		{s, directory, "DELETE", "/directory/urn:dev:mac:2", "", nil, 405},
		{s, directory, "GET", "/directory/urn:dev:mac:2", "", []string{"Accept: text/html"}, 406},
		{s, directory, "HEAD", "/directory/urn:dev:mac:2", "", []string{"Accept: text/html"}, 429}, // its own limit
		{s, directory, "GET", "/directory/urn:dev:mac:2", "", nil, 429},
		{unlisted, directory, "GET", "/directory/urn:dev:mac:2", "", nil, 404}, // switched off
		{unlisted, directory, "HEAD", "/directory/urn:dev:mac:2", "", []string{"Accept: text/html"}, 404},
		{down, directory, "GET", "/directory/urn:dev:mac:2", "", nil, 503},
		{down, directory, "HEAD", "/directory/urn:dev:mac:2", "", nil, 503},
		{down, directory, "HEAD", "/directory/urn:dev:mac:2", "", []string{"Accept: text/html"}, 406},

		{s, "/healthz", "GET", "/healthz", "", nil, 200},
		{s, "/healthz", "POST", "/healthz", "", nil, 405},
		{limited, "/healthz", "GET", "/healthz", "", nil, 200},
		{down, "/healthz", "GET", "/healthz", "", nil, 503},
		{s, "/openapi.json", "GET", "/openapi.json", "", nil, 200},
		{s, "/openapi.json", "PATCH", "/openapi.json", "", nil, 405},
		{limited, "/openapi.json", "GET", "/openapi.json", "", nil, 429},

		{s, "", "GET", "/", "", nil, 404},
		{s, "", "GET", "/records", "", nil, 404},
		{s, "", "GET", "/records/", "", nil, 404},
		{s, "", "GET", "/records/" + one + "/", "", nil, 404},
		{s, "", "GET", "/records//1", "", nil, 404},
		{s, "", "GET", "/records/../healthz", "", nil, 404},
		{s, "", "GET", "/records/" + one + "/1/2", "", nil, 404},
	}

	var doc description
	_, raw := s.ask(t, "GET", "/openapi.json", "")
	if err := json.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	promised := map[string]bool{}
	for path, methods := range doc.Paths {
		for method, op := range map[string]*operation{"GET": methods.Get, "HEAD": methods.Head, "POST": methods.Post} {
			if op == nil {
				continue
			}
			for code, response := range op.Responses {
				promised[method+" "+path+" "+code] = true
				kind := response.Ref[strings.LastIndex(response.Ref, "/")+1:]
				want, known := registry.ProblemKinds()[kind]
				if response.Ref != "" && kind != "not-modified" && (!known || strconv.Itoa(want) != code) {
					t.Errorf("%s %s: code %s refers to %q, which has code %d", method, path, code, kind, want)
				}
			}
		}
	}
	for _, r := range registry.Routes() {
		if _, ok := doc.Paths[r[1]]; !ok {
			t.Errorf("%s %s is not described", r[0], r[1])
		}
	}
	for kind := range registry.ProblemKinds() {
		if _, ok := doc.Components.Responses[kind]; !ok {
			t.Errorf("the problem %q is not described", kind)
		}
	}
	for _, row := range rows {
		name := fmt.Sprintf("%s %s %v", row.method, row.path, row.header)
		resp, body := row.at.ask(t, row.method, row.path, row.body, row.header...)
		if resp.StatusCode != row.status {
			t.Errorf("%s: %d, want %d\n%s", name, resp.StatusCode, row.status, body)
			continue
		}
		checkAnswer(t, name, row.method, resp, body)
		if row.route == "" {
			continue
		}
		method := row.method
		if row.status == 405 { // promised under the method that is taken
			method = "GET"
			if row.route == lookup {
				method = "POST"
			}
		}
		key := method + " " + row.route + " " + strconv.Itoa(row.status)
		if _, ok := promised[key]; !ok {
			t.Errorf("%s: %s is not described", name, key)
		}
		promised[key] = false
		if row.status == 405 && method == "GET" {
			if _, ok := promised["HEAD "+row.route+" 405"]; ok {
				promised["HEAD "+row.route+" 405"] = false
			}
		}
	}
	for key, open := range promised {
		if open {
			t.Errorf("%s is described and was not seen", key)
		}
	}
}

// checkAnswer checks what all answers of a kind have in common.
func checkAnswer(t *testing.T, name, method string, resp *http.Response, body []byte) {
	t.Helper()
	h := resp.Header
	if bytes.Contains(body, []byte("swordfish")) {
		t.Errorf("%s: the answer tells of the inside", name)
	}
	if resp.StatusCode < 400 {
		if resp.StatusCode != 304 && h.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: no nosniff", name)
		}
		if (method == "HEAD" || resp.StatusCode == 304) && len(body) != 0 {
			t.Errorf("%s: %d bytes of body", name, len(body))
		}
		return
	}
	if h.Get("Content-Type") != registry.MediaProblem {
		t.Errorf("%s: an error of type %q", name, h.Get("Content-Type"))
	}
	switch after, err := strconv.Atoi(h.Get("Retry-After")); resp.StatusCode {
	case 429, 503:
		if err != nil || after < 1 {
			t.Errorf("%s: Retry-After %q", name, h.Get("Retry-After"))
		}
	case 405:
		if h.Get("Allow") == "" {
			t.Errorf("%s: no Allow", name)
		}
	}
	if cc := h.Get("Cache-Control"); resp.StatusCode != 404 && resp.StatusCode != 410 && cc != "no-store" {
		t.Errorf("%s: Cache-Control %q", name, cc)
	}
	if method == "HEAD" {
		return
	}
	var p registry.Problem
	if err := json.Unmarshal(body, &p); err != nil || p.Status != resp.StatusCode || p.Title == "" || p.Detail == "" || p.Next == "" ||
		!strings.HasPrefix(p.Type, "/openapi.json#/components/responses/") {
		t.Errorf("%s: problem %s (%v)", name, body, err)
	}
}

// What an answer says about the entry in it.
func TestAnswer(t *testing.T) {
	t.Parallel()
	d, entries := sample(t)
	s := serve(t, d)
	scrap := entries[4]
	resp, body := s.ask(t, "GET", "/records/"+scrap.Record.String(), "")
	hash := scrap.LeafHash()
	for name, want := range map[string]string{
		"Content-Type": registry.MediaCBOR, "Cache-Control": "public, max-age=5", "Vary": "Accept",
		"Content-Length":  strconv.Itoa(len(registrytest.Encode(t, scrap))),
		"Devicekeys-Type": "scrap", "Devicekeys-Generation": "2", "Devicekeys-Newest": "true", "Devicekeys-Sequence": "4",
		"Devicekeys-Leaf-Hash": registry.Hash(hash).String(), "Link": "", "Age": "",
	} {
		if got := resp.Header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if !bytes.Equal(body, registrytest.Encode(t, scrap)) {
		t.Errorf("body is %x", body)
	}

	resp, body = s.ask(t, "GET", "/records/"+scrap.Record.String()+"/1", "", "Accept: application/cbor;q=0.5, application/json")
	var a registry.Answer
	if err := json.Unmarshal(body, &a); err != nil {
		t.Fatal(err)
	}
	want := registry.Answer{Record: scrap.Record, Type: registry.Register, Generation: 1, Realm: identity.Development, Sequence: 0,
		LeafHash: entries[0].LeafHash(), Entry: registrytest.Encode(t, entries[0])}
	if diff := cmp.Diff(want, a); diff != "" {
		t.Errorf("answer in JSON:\n%s", diff)
	}
	for name, want := range map[string]string{
		"Content-Type": registry.MediaJSON, "Cache-Control": "public, max-age=3600", "Devicekeys-Newest": "",
		"Link": `</records/` + scrap.Record.String() + `>; rel="latest-version"`,
	} {
		if got := resp.Header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	var doc description
	if err := json.Unmarshal(registry.OpenAPI(), &doc); err != nil {
		t.Fatal(err)
	}
	var members map[string]any
	if err := json.Unmarshal(body, &members); err != nil {
		t.Fatal(err)
	}
	for m := range members {
		if _, ok := doc.Components.Schemas["Answer"].Properties[m]; !ok {
			t.Errorf("member %q is not described", m)
		}
	}

	_, body = s.ask(t, "POST", "/records:lookup", `{"records":["`+entries[1].Record.String()+`","`+strings.Repeat("ab", 32)+`","`+entries[1].Record.String()+`"]}`, "Content-Type: application/json")
	var b registry.Batch
	if err := json.Unmarshal(body, &b); err != nil {
		t.Fatal(err)
	}
	if len(b.Entries) != 1 || b.Entries[0].Record != entries[1].Record || !b.Entries[0].Newest || len(b.Missing) != 1 || b.Missing[0][0] != 0xab {
		t.Errorf("batch: %s", body)
	}
}

// An answer is kept as long as it may be, and no longer; missing ones briefly.
func TestKeptAnswers(t *testing.T) {
	t.Parallel()
	d, entries := sample(t)
	s := serve(t, d, func(o *registry.HandlerOptions) { o.NewestAge = time.Second })
	two := "/records/" + entries[1].Record.String()
	// asks is how often an answer that lives so long may have been asked for since: once, and again on a machine so busy
	// that it has died meanwhile.
	asks := func(since time.Time, life time.Duration) int64 { return 1 + int64(time.Since(since)/life) }
	begun := time.Now()
	for range 5 {
		s.ask(t, "GET", two, "")
		s.ask(t, "GET", two+"/1", "")
	}
	if n := s.source.calls.Load(); n < 2 || n > 1+asks(begun, time.Second) {
		t.Errorf("the source was asked %d times for two answers", n)
	}
	d.Append(registrytest.Entry(t, 2, 2))
	time.Sleep(1100 * time.Millisecond)
	resp, _ := s.ask(t, "GET", two, "")
	if g := resp.Header.Get("Devicekeys-Generation"); g != "2" {
		t.Errorf("after the life of an answer generation %s is called the newest", g)
	}
	resp, _ = s.ask(t, "GET", two+"/1", "")
	if age, err := strconv.Atoi(resp.Header.Get("Age")); err != nil || age < 1 || age > int(time.Since(begun).Seconds()) {
		t.Errorf("an answer of %s ago has Age %q", time.Since(begun), resp.Header.Get("Age"))
	}

	none := "/records/" + registrytest.Chip(t, 9).RecordID().String()
	before, begun := s.source.calls.Load(), time.Now()
	for range 5 {
		if resp, _ := s.ask(t, "GET", none, ""); resp.Header.Get("Cache-Control") != "public, max-age=2" {
			t.Errorf("a missing record may be kept: %q", resp.Header.Get("Cache-Control"))
		}
	}
	if n := s.source.calls.Load() - before; n < 1 || n > asks(begun, 2*time.Second) {
		t.Errorf("the source was asked %d times for a record that is missing", n)
	}
	d.Append(registrytest.Entry(t, 9, 1))
	time.Sleep(2100 * time.Millisecond)
	if resp, _ := s.ask(t, "GET", none, ""); resp.StatusCode != 200 {
		t.Errorf("after its publication: %d", resp.StatusCode)
	}
}

// Many who want one answer at once get it from one question; one who leaves
// takes it from nobody.
func TestSharedQuestion(t *testing.T) {
	t.Parallel()
	d, entries := sample(t)
	s := serve(t, d)
	s.source.wait = make(chan struct{})
	url := s.URL + "/records/" + entries[1].Record.String()
	gone, leave := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() {
		req, err := http.NewRequestWithContext(gone, "GET", url, nil)
		if err == nil {
			_, err = s.Client().Do(req)
		}
		left <- err
	}()
	for s.source.calls.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			resp, err := s.Client().Get(url)
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			if resp.StatusCode != 200 {
				t.Errorf("status %d", resp.StatusCode)
			}
		})
	}
	leave()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("the one who left: %v", err)
	}
	time.Sleep(50 * time.Millisecond) // the others arrive
	close(s.source.wait)
	wg.Wait()
	if n := s.source.calls.Load(); n > 2 { // one who came late may have asked anew
		t.Errorf("the source was asked %d times", n)
	}
}

// A batch counts by its size.
func TestBatchCost(t *testing.T) {
	t.Parallel()
	d, _ := sample(t)
	s := serve(t, d, func(o *registry.HandlerOptions) { o.Rate, o.Burst = 0.001, 15 })
	ids := make([]string, 100)
	for i := range ids {
		ids[i] = registrytest.Chip(t, i).RecordID().String()
	}
	body := `{"records":["` + strings.Join(ids, `","`) + `"]}`
	var got []int
	for range 3 {
		resp, _ := s.ask(t, "POST", "/records:lookup", body, "Content-Type: application/json")
		got = append(got, resp.StatusCode)
	}
	if want := []int{200, 429, 429}; !slices.Equal(got, want) {
		t.Errorf("codes %v, want %v", got, want)
	}
}

func TestHandlerMetrics(t *testing.T) {
	t.Parallel()
	d, entries := sample(t)
	s := serve(t, d)
	two := "/records/" + entries[1].Record.String()
	s.ask(t, "GET", two, "")
	s.ask(t, "GET", two, "")
	s.ask(t, "GET", "/nowhere", "")
	families, err := s.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			got[name] = m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
			if strings.Contains(name, entries[1].Record.String()) {
				t.Errorf("a metric names a record: %s", name)
			}
		}
	}
	for name, want := range map[string]float64{
		"devicekeys_http_requests_total 200 /records/{record}": 2,
		"devicekeys_http_requests_total 404 none":              1,
		"devicekeys_http_request_seconds /records/{record}":    2,
		"devicekeys_registry_cache_lookups_total hit":          1,
		"devicekeys_registry_cache_lookups_total miss":         1,
	} {
		if got[name] != want {
			t.Errorf("%s is %g, want %g", name, got[name], want)
		}
	}
}

func TestHandlerOptions(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]registry.HandlerOptions{
		"age below a second": {NewestAge: time.Millisecond},
		"negative rate":      {Rate: -1},
		"negative cache":     {CacheBytes: -1},
		"burst below batch":  {Burst: 9},
		"directory rate":     {Directory: true, DirectoryRate: 20.5},
		"directory burst":    {Directory: true, DirectoryBurst: 101},
		"directory total":    {DirectoryTotalRate: -1},
	} {
		if _, err := registry.NewHandler(nil, o); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// quoted gives so many record ids in JSON.
func quoted(n int) []string {
	ids := make([]string, n)
	for i := range ids {
		ids[i] = fmt.Sprintf(`"%064x"`, i+1)
	}
	return ids
}

// Those whom the configuration names have no limit, but in the directory.
func TestUnlimited(t *testing.T) {
	t.Parallel()
	d, entries := sample(t)
	one, lookup := entries[0].Record.String(), `{"records":[`+strings.Join(quoted(20), ",")+`]}`
	for name, want := range map[string]int{"192.0.2.0/24": 429, "127.0.0.0/8": 200} {
		s := serve(t, d, func(o *registry.HandlerOptions) {
			o.Rate, o.Burst, o.Unlimited = 0.001, 10, []netip.Prefix{netip.MustParsePrefix(name), netip.MustParsePrefix("2001:db8::1/128")}
			o.Directory, o.DirectoryRate, o.DirectoryBurst = true, 0.001, 1
		})
		for range 10 {
			s.ask(t, "GET", "/records/"+one, "")
		}
		if resp, body := s.ask(t, "GET", "/records/"+one, ""); resp.StatusCode != want {
			t.Errorf("%s: %d: %s", name, resp.StatusCode, body)
		}
		if resp, body := s.ask(t, "POST", "/records:lookup", lookup, "Content-Type: application/json"); resp.StatusCode != want {
			t.Errorf("%s: a batch: %d: %s", name, resp.StatusCode, body)
		}
		s.ask(t, "GET", "/directory/urn:dev:mac:2", "")
		if resp, _ := s.ask(t, "GET", "/directory/urn:dev:mac:2", ""); resp.StatusCode != 429 {
			t.Errorf("%s: the directory: %d", name, resp.StatusCode)
		}
	}
}

// What is seen at a glance, the mux would route the same.
func TestAsked(t *testing.T) {
	t.Parallel()
	mux := http.NewServeMux()
	type answer struct{ record, generation string }
	var got answer
	routed := func(_ http.ResponseWriter, r *http.Request) {
		got = answer{r.PathValue("record"), r.PathValue("generation")}
	}
	for _, r := range registry.Routes()[:2] {
		mux.HandleFunc(r[0]+" "+r[1], routed)
	}
	id := strings.Repeat("0a", 32)
	glanced := 0
	for _, method := range []string{"GET", "HEAD", "POST"} {
		for _, target := range []string{
			"/records/" + id, "/records/" + id + "/1", "/records/" + id + "/x", "/records/" + id + "/", "/records/" + id + "//", "/records/" + id + "/1/",
			"/records/" + id + "/1/2", "/records/" + id + "/..", "/records/" + id + "/%2e", "/records/" + id + "%2F1", "/records/" + id + "0", "/records/" + id[1:],
			"/records/" + id[:30] + "/" + id[:33], "/records/" + id[:62] + "..", "/records/" + id + "?x=1", "/records//" + id, "/records:lookup", "/Records/" + id,
			"/records/" + id[:63] + "%61", "/records/" + id + "/%31",
		} {
			r := httptest.NewRequestWithContext(t.Context(), method, target, nil)
			record, generation, ok := registry.Asked(r)
			if !ok {
				continue
			}
			glanced++
			got = answer{}
			w := httptest.NewRecorder()
			mux.ServeHTTP(w, r)
			if want := (answer{record, generation}); w.Code != http.StatusOK || got != want {
				t.Errorf("%s %s: %+v at a glance, %+v by the mux, which says %d", method, target, want, got, w.Code)
			}
		}
	}
	if glanced < 3 {
		t.Errorf("%d requests were seen at a glance", glanced)
	}
}
