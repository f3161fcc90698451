package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"time"

	"github.com/devicekeys/devicekeys/identity"
)

// maxLookup bounds the body of a batch lookup, in bytes: MaxBatch record ids
// of 64 digits, quoted, with generous white space.
const maxLookup = 16 << 10

// serveLookup answers POST /records:lookup.
func (h *Handler) serveLookup(w http.ResponseWriter, r *http.Request) {
	if mt, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || mt != MediaJSON {
		problemMediaType.write(w, fmt.Sprintf("the content type %.60q is not %s", r.Header.Get("Content-Type"), MediaJSON))
		return
	}
	media, ok := negotiate(r)
	if !ok {
		problemAccept.write(w, fmt.Sprintf("a batch has the types %s and %s", MediaJSON, MediaCBOR))
		return
	}
	if r.Header.Get("Accept") == "" || r.Header.Get("Accept") == "*/*" {
		media = MediaJSON // who asks in JSON and doesn't care is answered in it
	}
	ids, kind, err := readLookup(http.MaxBytesReader(w, r.Body, maxLookup))
	if err != nil {
		kind.write(w, err.Error())
		return
	}
	// One token was taken when the request came in; the source's work counts.
	now := time.Now()
	if more := (len(ids) - 1) / batchPerToken; more > 0 && !h.charge(w, r, more, now) {
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), sourceTimeout)
	defer cancel()
	found, err := h.source.Newest(ctx, ids)
	if err != nil {
		h.unavailable(w, err)
		return
	}
	body, err := encodeBatch(ids, found, media)
	if err != nil {
		h.unavailable(w, err)
		return
	}
	header := w.Header()
	header["Content-Type"] = headerCBOR
	if media == MediaJSON {
		header["Content-Type"] = headerJSON
	}
	header["Content-Length"] = []string{strconv.Itoa(len(body))}
	header["Cache-Control"] = headerNoStore
	header["X-Content-Type-Options"] = headerNoSniff
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(body) // a lost client has no use for the error
}

// readLookup reads the question, each id once, in order.
func readLookup(body io.Reader) ([]identity.RecordID, problemKind, error) {
	raw, err := io.ReadAll(body)
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return nil, problemTooLarge, fmt.Errorf("the request has more than %d bytes", tooLarge.Limit)
	}
	if err != nil {
		return nil, problemBadRequest, errors.New("the request broke off")
	}
	return parseLookup(raw)
}

func parseLookup(raw []byte) ([]identity.RecordID, problemKind, error) {
	// Ids are read as strings first: what is wrong with one is told without
	// the JSON decoder's words about Go.
	var question struct {
		Records []string `json:"records"`
	}
	if err := unmarshalStrict(raw, &question); err != nil {
		return nil, problemBadRequest, errors.New(`the body is not {"records": [record id, …]}`)
	}
	if len(question.Records) == 0 || len(question.Records) > MaxBatch {
		return nil, problemBadRequest, fmt.Errorf("%d records: 1 to %d are allowed", len(question.Records), MaxBatch)
	}
	ids := make([]identity.RecordID, 0, len(question.Records))
	seen := make(map[identity.RecordID]bool, len(question.Records))
	for i, s := range question.Records {
		id, err := identity.ParseRecordID(s)
		if err != nil {
			return nil, problemBadRequest, fmt.Errorf("record %d: %w", i+1, err)
		}
		if !seen[id] {
			seen[id] = true
			ids = append(ids, id)
		}
	}
	return ids, problemKind{}, nil
}

func encodeBatch(ids []identity.RecordID, found map[identity.RecordID]Stored, media string) ([]byte, error) {
	b := Batch{Entries: []Answer{}, Missing: []identity.RecordID{}}
	for _, id := range ids {
		s, ok := found[id]
		if !ok {
			b.Missing = append(b.Missing, id)
			continue
		}
		encoded, err := s.Entry.Encode()
		if err != nil {
			return nil, err
		}
		a := s.answer(encoded)
		a.Newest = true
		b.Entries = append(b.Entries, a)
	}
	if media == MediaCBOR {
		return b.EncodeCBOR()
	}
	body, err := json.Marshal(b)
	return append(body, '\n'), err
}
