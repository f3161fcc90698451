package registry

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// ready is an answer as it goes out: body and header values made once, shared
// by all requests that get it, and so never changed.
type ready struct {
	key    cacheKey
	status int
	header []field
	etag   string // "" where the answer has none
	body   []byte
	made   time.Time
	life   time.Duration // how long this process may give it again
}

// field is one field of a header. Answers are copied from lists of them: walking a map takes longer
// than all else that is done for an answer that is in memory.
type field struct {
	name   string // canonical
	values []string
}

func (a *ready) weight() int64 { return int64(len(a.body)) + cacheOverhead }

// Header values that never change are shared between answers.
var (
	headerCBOR    = []string{MediaCBOR}
	headerJSON    = []string{MediaJSON}
	headerProblem = []string{MediaProblem}
	headerNoStore = []string{"no-store"}
	headerNoSniff = []string{"nosniff"}
	headerVary    = []string{"Accept"}
	headerTrue    = []string{"true"}
)

// How long this process gives an answer again. Whoever caches it downstream
// learns its age, so the lives don't add up.
const (
	// generationLife bounds how long a record is served after it was erased.
	generationLife = time.Minute
	// missingLife is that of a 404: a station that asks too early is not told
	// so for long, a flood of guesses doesn't reach the database.
	missingLife = 2 * time.Second
)

// answerEntry makes the answer for an entry.
func answerEntry(key cacheKey, s Stored, maxAge time.Duration, now time.Time) (*ready, error) {
	encoded, err := s.Entry.Encode()
	if err != nil {
		return nil, err
	}
	newest := key.generation == 0
	a := &ready{key: key, status: http.StatusOK, body: encoded, made: now, life: min(maxAge, generationLife)}
	media := headerCBOR
	if key.media == MediaJSON {
		media = headerJSON
		answer := s.answer(encoded)
		answer.Newest = newest
		if a.body, err = json.Marshal(answer); err != nil {
			return nil, fmt.Errorf("answer for record %s: %w", s.Entry.Record.Short(), err)
		}
		a.body = append(a.body, '\n')
	}
	sum := sha256.Sum256(a.body)
	a.etag = `"` + hex.EncodeToString(sum[:16]) + `"`
	leaf := Hash(s.LeafHash)
	a.header = []field{
		{"Content-Type", media},
		{"Content-Length", []string{strconv.Itoa(len(a.body))}},
		{"Cache-Control", []string{cacheControl(maxAge)}},
		{"Etag", []string{a.etag}},
		{"Vary", headerVary},
		{"X-Content-Type-Options", headerNoSniff},
		{HeaderType, []string{s.Entry.Type.String()}},
		{HeaderGeneration, []string{strconv.FormatUint(uint64(s.Entry.Generation), 10)}},
		{HeaderSequence, []string{strconv.FormatInt(s.Sequence, 10)}},
		{HeaderLeafHash, []string{leaf.String()}},
	}
	if newest {
		a.header = append(a.header, field{HeaderNewest, headerTrue})
	} else {
		// Which generation is the newest may change while this answer is stored (RFC 5829 §3).
		a.header = append(a.header, field{"Link", []string{`</records/` + s.Entry.Record.String() + `>; rel="latest-version"`}})
	}
	return a, nil
}

// answerProblem makes a 404 or 410, to be stored for a while.
func answerProblem(key cacheKey, kind problemKind, detail string, maxAge time.Duration, now time.Time) *ready {
	body := kind.body(detail)
	return &ready{key: key, status: kind.status, body: body, made: now, life: min(maxAge, generationLife), header: []field{
		{"Content-Type", headerProblem},
		{"Content-Length", []string{strconv.Itoa(len(body))}},
		{"Cache-Control", []string{cacheControl(maxAge)}},
		{"Vary", headerVary},
		{"X-Content-Type-Options", headerNoSniff},
	}}
}

func cacheControl(maxAge time.Duration) string {
	return "public, max-age=" + strconv.Itoa(int(maxAge/time.Second))
}

// write sends the answer, or 304 where the client has it (RFC 9110 §15.4.5).
func (a *ready) write(w http.ResponseWriter, r *http.Request, now time.Time) {
	h := w.Header()
	for _, f := range a.header {
		h[f.name] = f.values
	}
	if age := int(now.Sub(a.made) / time.Second); age > 0 {
		h["Age"] = []string{strconv.Itoa(age)}
	}
	if a.etag != "" && matches(r, a.etag) {
		delete(h, "Content-Length")
		delete(h, "Content-Type")
		w.WriteHeader(http.StatusNotModified)
		return
	}
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body) // net/http drops it for HEAD; a lost client has no use for the error
}
