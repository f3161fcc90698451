package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/devicekeys/devicekeys/identity"
)

// clientTimeout bounds one request of a Client that brings no http.Client of
// its own: a slow mobile network and the largest batch fit in it.
const clientTimeout = 30 * time.Second

// ClientOptions is what a Client may be told. The zero value serves for
// reading entries without opening them.
type ClientOptions struct {
	// Realm is the realm of the device asked for. Entries of another one are
	// refused. Lookup needs it; without it Newest, Get and Batch take any.
	Realm identity.Realm
}

// Client reads a registry, or a mirror of one, over HTTP. What it returns has
// the right form and is about the record asked for; only Lookup also checks
// who vouches for it. A Client is safe for concurrent use. It never sends a
// chip ID anywhere.
type Client struct {
	base  *url.URL
	http  *http.Client
	realm identity.Realm
}

// Served says how an entry was served.
type Served struct {
	Sequence int64 // the entry's place in the registry; -1 where a mirror doesn't tell
	Newest   bool  // the server says that no newer entry stands
}

// Found is one entry of a batch.
type Found struct {
	Entry  Entry
	Served Served
}

// NewClient makes a client of the registry at base, e.g.
// "https://registry.example". A nil hc means one with a timeout of 30 s.
func NewClient(base string, hc *http.Client, o ClientOptions) (*Client, error) {
	u, err := url.Parse(base)
	if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("registry address %q: https://host or http://host is expected", base)
	}
	if o.Realm != 0 && !o.Realm.Valid() {
		return nil, fmt.Errorf("registry client: %s is not a realm", o.Realm)
	}
	if hc == nil {
		hc = &http.Client{Timeout: clientTimeout}
	}
	return &Client{base: u, http: hc, realm: o.Realm}, nil
}

// Newest gives the newest entry of a record, which may be one that scraps or
// erases it. It matches ErrNotFound, or is a *StatusError, or a network error.
func (c *Client) Newest(ctx context.Context, id identity.RecordID) (Entry, Served, error) {
	e, s, err := c.entry(ctx, id, "records", id.String())
	if err != nil {
		return Entry{}, Served{}, fmt.Errorf("look up record %s: %w", id.Short(), err)
	}
	return e, s, nil
}

// Get gives the register or supersede entry of one generation. It matches
// ErrNotFound or ErrErased, or is a *StatusError, or a network error.
func (c *Client) Get(ctx context.Context, id identity.RecordID, g identity.Generation) (Entry, Served, error) {
	e, s, err := c.entry(ctx, id, "records", id.String(), strconv.FormatUint(uint64(g), 10))
	if err == nil && (e.Generation != g || !e.Type.HasRecord()) {
		err = fmt.Errorf("the registry answered with a %s entry of generation %d", e.Type, e.Generation)
	}
	if err != nil {
		return Entry{}, Served{}, fmt.Errorf("look up record %s, generation %d: %w", id.Short(), g, err)
	}
	return e, s, nil
}

func (c *Client) entry(ctx context.Context, id identity.RecordID, path ...string) (Entry, Served, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base.JoinPath(path...).String(), nil)
	if err != nil {
		return Entry{}, Served{}, err
	}
	body, header, err := c.do(req, MaxEntry)
	if err != nil {
		return Entry{}, Served{}, err
	}
	e, err := ParseEntry(body)
	if err != nil {
		return Entry{}, Served{}, err
	}
	if err := c.check(e, id); err != nil {
		return Entry{}, Served{}, err
	}
	served := Served{Sequence: -1, Newest: header.Get(HeaderNewest) == "true"}
	if n, err := strconv.ParseInt(header.Get(HeaderSequence), 10, 64); err == nil && n >= 0 {
		served.Sequence = n
	}
	return e, served, nil
}

func (c *Client) check(e Entry, id identity.RecordID) error {
	if e.Record != id {
		return fmt.Errorf("the registry answered with record %s instead", e.Record.Short())
	}
	if c.realm != 0 && e.Realm != c.realm {
		return fmt.Errorf("the entry is of the %s realm, and the device of the %s one", e.Realm, c.realm)
	}
	return nil
}

// Batch gives the newest entries of up to MaxBatch records. Records that the
// registry lacks are missing in the answer.
func (c *Client) Batch(ctx context.Context, ids []identity.RecordID) (map[identity.RecordID]Found, error) {
	found, err := c.batch(ctx, ids)
	if err != nil {
		return nil, fmt.Errorf("look up %d records: %w", len(ids), err)
	}
	return found, nil
}

func (c *Client) batch(ctx context.Context, ids []identity.RecordID) (map[identity.RecordID]Found, error) {
	question, err := json.Marshal(Lookup{Records: ids})
	if err != nil {
		return nil, err
	}
	// JoinPath would escape nothing here, but clean "records:lookup" is one segment.
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base.JoinPath("records:lookup").String(), bytes.NewReader(question))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", MediaJSON)
	body, _, err := c.do(req, maxBatchSize)
	if err != nil {
		return nil, err
	}
	entries, missing, err := parseBatch(body)
	if err != nil {
		return nil, err
	}
	asked := make(map[identity.RecordID]bool, len(ids))
	for _, id := range ids {
		asked[id] = true
	}
	found := make(map[identity.RecordID]Found, len(entries))
	for id, s := range entries {
		if !asked[id] {
			return nil, fmt.Errorf("the registry answered with record %s, which was not asked for", id.Short())
		}
		if err := c.check(s.Entry, id); err != nil {
			return nil, err
		}
		found[id] = Found{Entry: s.Entry, Served: Served{Sequence: s.Sequence, Newest: true}}
	}
	if len(found)+len(missing) != len(asked) {
		return nil, fmt.Errorf("the registry answered for %d of %d records", len(found)+len(missing), len(asked))
	}
	return found, nil
}

// do sends a request and reads at most limit bytes of its answer.
func (c *Client) do(req *http.Request, limit int) ([]byte, http.Header, error) {
	req.Header.Set("Accept", MediaCBOR)
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close() // read as far as it is wanted: nothing to lose
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, maxProblem)) // the status says enough where the body breaks off
		return nil, nil, statusError(resp, body)
	}
	if mt, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";"); mt != MediaCBOR && mt != "application/octet-stream" {
		return nil, nil, fmt.Errorf("the answer is %q, not %q: is this address a registry?", mt, MediaCBOR)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, int64(limit)+1))
	if err != nil {
		return nil, nil, fmt.Errorf("read the answer: %w", err)
	}
	if len(body) > limit {
		return nil, nil, fmt.Errorf("the answer is longer than %d bytes", limit)
	}
	return body, resp.Header, nil
}

func statusError(resp *http.Response, body []byte) error {
	e := &StatusError{Status: resp.StatusCode, Problem: parseProblem(body)}
	switch resp.StatusCode {
	case http.StatusNotFound:
		e.cause = ErrNotFound
		if e.Problem.Type != "" && e.Problem.Type != problemNotFound.kind {
			e.cause = errors.New("is this address a registry?") // another 404: a wrong path
		}
	case http.StatusGone:
		e.cause = ErrErased
	}
	if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && s > 0 && s < 86400 {
		e.RetryAfter = time.Duration(s) * time.Second
	}
	return e
}
