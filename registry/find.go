package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/devicekeys/devicekeys/identity"
)

func (h *Handler) serveNewest(w http.ResponseWriter, r *http.Request) {
	h.serveRecord(w, r, r.PathValue("record"), "")
}

func (h *Handler) serveGeneration(w http.ResponseWriter, r *http.Request) {
	h.serveRecord(w, r, r.PathValue("record"), r.PathValue("generation"))
}

// serveRecord answers a GET of a record's newest entry, or of the generation that is named.
func (h *Handler) serveRecord(w http.ResponseWriter, r *http.Request, record, generation string) {
	var g identity.Generation
	if generation != "" {
		n, err := strconv.ParseUint(generation, 10, 32)
		if err != nil || n == 0 || strconv.FormatUint(n, 10) != generation {
			problemBadRequest.write(w, fmt.Sprintf("generation %.20q: a number from 1 to %d without leading zeros is expected", generation, identity.MaxGeneration))
			return
		}
		g = identity.Generation(n)
	}
	id, err := identity.ParseRecordID(record)
	if err != nil {
		problemBadRequest.write(w, err.Error())
		return
	}
	media, ok := negotiate(r)
	if !ok {
		problemAccept.write(w, fmt.Sprintf("an entry has the types %s and %s", MediaCBOR, MediaJSON))
		return
	}
	key := cacheKey{id, g, media}
	now := time.Now()
	a := h.cache.get(key, now)
	if a == nil {
		a = h.missing.get(key, now)
	}
	if a != nil {
		h.metrics.hit().Inc()
		a.write(w, r, now)
		return
	}
	a, err = h.load(r.Context(), key)
	if err != nil {
		h.unavailable(w, err)
		return
	}
	a.write(w, r, now)
}

// load asks the source, once for all requests that want the same answer now.
func (h *Handler) load(ctx context.Context, key cacheKey) (*ready, error) {
	mine := false
	name := string(key.record[:]) + strconv.FormatUint(uint64(key.generation), 10) + key.media
	result := h.flight.DoChan(name, func() (any, error) {
		mine = true
		// Others wait for this answer, so it outlives the request that asked first.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), sourceTimeout)
		defer cancel()
		return h.ask(ctx, key)
	})
	select {
	case res := <-result:
		if mine {
			h.metrics.cache.WithLabelValues("miss").Inc()
		} else {
			h.metrics.cache.WithLabelValues("shared").Inc()
		}
		if res.Err != nil {
			return nil, res.Err
		}
		return res.Val.(*ready), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// ask makes the answer and keeps it. It runs in the flight's goroutine.
func (h *Handler) ask(ctx context.Context, key cacheKey) (*ready, error) {
	asked := time.Now() // an answer is as old as its question
	s, err := h.find(ctx, key)
	switch {
	case errors.Is(err, ErrNotFound):
		a := answerProblem(key, problemNotFound, describe(key)+" is not in this registry", missingLife, asked)
		h.missing.put(a)
		return a, nil
	case errors.Is(err, ErrErased):
		a := answerProblem(key, problemErased, "the record of "+describe(key)+" was erased", generationLife, asked)
		h.missing.put(a)
		return a, nil
	case err != nil:
		return nil, err
	}
	age := h.opts.GenerationAge
	if key.generation == 0 {
		age = h.opts.NewestAge
	}
	a, err := answerEntry(key, s, age, asked)
	if err != nil {
		return nil, err
	}
	h.cache.put(a)
	return a, nil
}

func (h *Handler) find(ctx context.Context, key cacheKey) (Stored, error) {
	if key.generation != 0 {
		return h.source.At(ctx, key.record, key.generation)
	}
	found, err := h.source.Newest(ctx, []identity.RecordID{key.record})
	if err != nil {
		return Stored{}, err
	}
	s, ok := found[key.record]
	if !ok {
		return Stored{}, ErrNotFound
	}
	return s, nil
}

func describe(key cacheKey) string {
	if key.generation == 0 {
		return "record " + key.record.String()
	}
	return fmt.Sprintf("record %s, generation %d", key.record, key.generation)
}

// unavailable answers 503 and logs what the client isn't told.
func (h *Handler) unavailable(w http.ResponseWriter, err error) {
	if !errors.Is(err, context.Canceled) { // a client that left
		h.logSome.Do(func() { h.log.Warn("lookup failed", "error", err) })
	}
	problemUnavailable.writeRetry(w, unavailableRetry, "the registry's database does not answer")
}
