package registry

import (
	"net/netip"
	"time"

	"golang.org/x/time/rate"

	"github.com/devicekeys/devicekeys/identity"
)

// Seams for the tests outside the package.

// SealContext gives the external associated data of an entry's sealed record.
func SealContext(e Entry) []byte { return e.sealContext() }

// The two ways to read, and what is checked after each.
var (
	ReadEntry          = readEntry
	ParseOddEntry      = parseOddEntry
	Check              = Entry.check
	ReadSubmission     = readSubmission
	ParseOddSubmission = parseOddSubmission
	WellSealed         = wellSealed
)

// ParsePayload reads a submission without the statement around it.
var ParsePayload = parseSubmission

// Check checks a submission's form.
func (s Submission) Check() error { return s.check() }

// ParseLookup reads the question of a batch lookup.
func ParseLookup(raw []byte) ([]identity.RecordID, error) {
	ids, _, err := parseLookup(raw)
	return ids, err
}

// ParseBatch reads the CBOR form of a batch.
func ParseBatch(raw []byte) (map[identity.RecordID]Stored, []identity.RecordID, error) {
	return parseBatch(raw)
}

// Quality gives the weight of a media type in Accept lines.
var Quality = quality

// Asked is what a request asks for, at a glance.
var Asked = asked

// Routes gives method and path of each route.
func Routes() [][2]string {
	var out [][2]string
	for _, r := range routes {
		out = append(out, [2]string{r.method, r.path})
	}
	return out
}

// ProblemKinds gives the names of all kinds of error answer and their codes.
func ProblemKinds() map[string]int {
	out := map[string]int{}
	for _, k := range []problemKind{problemBadRequest, problemNotFound, problemNoRoute, problemMethod, problemAccept,
		problemErased, problemTooLarge, problemMediaType, problemLimited, problemUnavailable} {
		out[k.kind[len(problemBase):]] = k.status
	}
	return out
}

// Limiter is the table of token buckets.
type Limiter = limiter

// NewLimiter makes one of a given size.
func NewLimiter(perSecond float64, burst, most int, proxies ...netip.Prefix) *Limiter {
	return newLimiter(perSecond, burst, most, proxies)
}

// SetTotal bounds all clients together.
func (l *Limiter) SetTotal(perSecond float64, burst int) {
	l.total = rate.NewLimiter(rate.Limit(perSecond), burst)
}

// Take takes one token.
func (l *Limiter) Take(addr string, now time.Time) (time.Duration, bool) {
	return l.take(netip.MustParseAddr(addr), 1, now)
}

// Len gives the number of buckets.
func (l *Limiter) Len() int { return len(l.byNetwork) }

// ClientOf gives the address a request counts for.
var ClientOf = (*limiter).client

// Cache is the cache of ready answers.
type Cache struct{ *cache }

// NewCache makes one.
func NewCache(most int64) Cache { return Cache{newCache(most)} }

// Put keeps an answer with a body of the given size for a life.
func (c Cache) Put(id identity.RecordID, size int, made time.Time, life time.Duration) {
	c.put(&ready{key: cacheKey{record: id}, body: make([]byte, size), made: made, life: life})
}

// Has reports whether an answer is there and fresh.
func (c Cache) Has(id identity.RecordID, now time.Time) bool {
	return c.get(cacheKey{record: id}, now) != nil
}

// Bytes gives the weight of what is kept.
func (c Cache) Bytes() int64 { return c.bytes() }

// CacheOverhead is what an answer weighs beyond its body.
const CacheOverhead = cacheOverhead

// Base gives the client's address.
func (c *Client) Base() string { return c.base.String() }
