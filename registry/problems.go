package registry

import (
	"encoding/json"
	"math"
	"net/http"
	"strconv"
	"time"
)

// problemKind is one kind of error answer. Its documentation is the response
// of the same name in the OpenAPI description, to which its type points.
type problemKind struct {
	kind   string
	status int
	title  string
	next   string
}

const problemBase = "/openapi.json#/components/responses/"

// The kinds of error answer: all that the handler ever gives.
var (
	problemBadRequest = problemKind{problemBase + "bad-request", http.StatusBadRequest, "the request is malformed",
		"correct the request; /openapi.json describes it"}
	problemNotFound = problemKind{problemBase + "not-found", http.StatusNotFound, "there is no such record",
		"check the record id; a record that was just published is seen within seconds"}
	problemNoRoute = problemKind{problemBase + "no-route", http.StatusNotFound, "there is nothing at this path",
		"/openapi.json lists the paths"}
	problemMethod = problemKind{problemBase + "method-not-allowed", http.StatusMethodNotAllowed, "the path does not take this method",
		"use a method that the Allow field names"}
	problemAccept = problemKind{problemBase + "not-acceptable", http.StatusNotAcceptable, "no representation is acceptable",
		"accept application/cbor or application/json"}
	problemErased = problemKind{problemBase + "erased", http.StatusGone, "the record was erased",
		"look up the record's newest entry"}
	problemTooLarge = problemKind{problemBase + "too-large", http.StatusRequestEntityTooLarge, "the request is too large",
		"ask for fewer records at once"}
	problemMediaType = problemKind{problemBase + "unsupported-media-type", http.StatusUnsupportedMediaType, "the request's content type is not taken",
		"send application/json"}
	problemLimited = problemKind{problemBase + "too-many-requests", http.StatusTooManyRequests, "too many requests from this address",
		"wait as long as Retry-After says; look up many records in batches"}
	problemUnavailable = problemKind{problemBase + "unavailable", http.StatusServiceUnavailable, "the registry can't look this up now",
		"wait as long as Retry-After says"}
)

// unavailableRetry is how long a client is asked to stay away while the
// database is: a restart or the election of a new primary takes longer, and a
// few useless questions do no harm.
const unavailableRetry = 5 * time.Second

func (k problemKind) body(detail string) []byte {
	b, err := json.Marshal(Problem{Type: k.kind, Title: k.title, Status: k.status, Detail: detail, Next: k.next})
	if err != nil {
		panic(err) // strings and a number always encode
	}
	return append(b, '\n')
}

// write answers with the problem, not to be stored by anyone.
func (k problemKind) write(w http.ResponseWriter, detail string) {
	h := w.Header()
	h["Content-Type"] = headerProblem
	h["Cache-Control"] = headerNoStore
	h["X-Content-Type-Options"] = headerNoSniff
	body := k.body(detail)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(k.status)
	_, _ = w.Write(body) // a lost client has no use for the error
}

// writeRetry answers with the problem and when to come back.
func (k problemKind) writeRetry(w http.ResponseWriter, after time.Duration, detail string) {
	w.Header().Set("Retry-After", strconv.Itoa(max(1, int(math.Ceil(after.Seconds())))))
	k.write(w, detail)
}
