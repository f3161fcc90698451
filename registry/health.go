package registry

import (
	"bytes"
	"context"
	_ "embed" // the OpenAPI description
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"
)

//go:embed openapi.json
var openAPI []byte

// OpenAPI gives the description of the HTTP side (OpenAPI 3.1), as served.
func OpenAPI() []byte { return bytes.Clone(openAPI) }

func (h *Handler) serveOpenAPI(w http.ResponseWriter, _ *http.Request) {
	header := w.Header()
	header["Content-Type"] = headerJSON
	header["Content-Length"] = []string{strconv.Itoa(len(openAPI))}
	header["Cache-Control"] = []string{cacheControl(time.Hour)}
	header["X-Content-Type-Options"] = headerNoSniff
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(openAPI) // a lost client has no use for the error
}

// serveHealth answers for load balancers: 200 while the source answers.
func (h *Handler) serveHealth(w http.ResponseWriter, r *http.Request) {
	if err := h.health(r.Context()); err != nil {
		h.unavailable(w, err)
		return
	}
	header := w.Header()
	header["Content-Type"] = headerJSON
	header["Cache-Control"] = headerNoStore
	header["X-Content-Type-Options"] = headerNoSniff
	w.WriteHeader(http.StatusOK)
	_, _ = io.WriteString(w, `{"status":"ok"}`+"\n") // a lost client has no use for the error
}

// health asks the source at most once in healthLife: the route is open to all.
func (h *Handler) health(ctx context.Context) error {
	h.healthMu.Lock()
	defer h.healthMu.Unlock()
	if now := time.Now(); now.Sub(h.healthAt) >= healthLife {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), sourceTimeout)
		defer cancel()
		h.healthErr, h.healthAt = h.source.Check(ctx), now
	}
	return h.healthErr
}

// unmarshalStrict decodes one JSON value without unknown members or a second
// value behind it.
func unmarshalStrict(raw []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more than one value")
	}
	return nil
}
