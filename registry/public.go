package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/devicekeys/devicekeys/identity"
)

// serveCertificates answers with the certificates entry of a record's newest
// generation, where its product line publishes them.
func (h *Handler) serveCertificates(w http.ResponseWriter, r *http.Request) {
	id, err := identity.ParseRecordID(r.PathValue("record"))
	if err != nil {
		problemBadRequest.write(w, err.Error())
		return
	}
	h.servePublic(w, r, "certificates of record "+id.String(), func(ctx context.Context) (Stored, error) { return h.public.Certificates(ctx, id) })
}

// serveDirectory does so by identity, if that is switched on: within a limit of its
// own, since identities are numbered and could be asked for one after the other.
func (h *Handler) serveDirectory(w http.ResponseWriter, r *http.Request) {
	urn := r.PathValue("identity")
	switch {
	case !h.opts.Directory:
		problemNotFound.write(w, "this server has no directory of identities")
		return
	case len(urn) > maxURN:
		problemBadRequest.write(w, fmt.Sprintf("an identity of %d bytes: at most %d are allowed", len(urn), maxURN))
		return
	}
	if wait, ok := h.directory.take(h.directory.client(r), 1, time.Now()); !ok {
		problemLimited.writeRetry(w, wait, fmt.Sprintf("%g lookups by identity per second and %d at once are allowed, and %g per second to all clients together",
			h.opts.DirectoryRate, h.opts.DirectoryBurst, h.opts.DirectoryTotalRate))
		return
	}
	h.servePublic(w, r, fmt.Sprintf("identity %.64q", urn), func(ctx context.Context) (Stored, error) { return h.public.Directory(ctx, urn) })
}

// servePublic answers with an entry that is not kept in memory here.
func (h *Handler) servePublic(w http.ResponseWriter, r *http.Request, what string, find func(context.Context) (Stored, error)) {
	media, ok := negotiate(r)
	if !ok {
		problemAccept.write(w, fmt.Sprintf("an entry has the types %s and %s", MediaCBOR, MediaJSON))
		return
	}
	if h.public == nil {
		problemNotFound.write(w, what+": this server has none")
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), sourceTimeout)
	defer cancel()
	now := time.Now()
	s, err := find(ctx)
	switch {
	case errors.Is(err, ErrNotFound):
		problemNotFound.write(w, what+": nothing of it is published, or the device is not in use")
		return
	case err != nil:
		h.unavailable(w, err)
		return
	}
	a, err := answerEntry(cacheKey{record: s.Entry.Record, media: media}, s, h.opts.NewestAge, now)
	if err != nil {
		h.unavailable(w, err)
		return
	}
	a.write(w, r, now)
}

// Certificates gives what is published of a record's newest generation, and the
// generation. Each certificate is the caller's to check (devicecert.Check): a registry
// may hold one back, and vouches for none. It matches ErrNotFound, or is a *StatusError
// or a network error.
func (c *Client) Certificates(ctx context.Context, id identity.RecordID) (PublicCertificates, identity.Generation, error) {
	p, e, err := c.published(ctx, "certificates", id.String())
	if err == nil {
		err = c.check(e, id)
	}
	if err != nil {
		return PublicCertificates{}, 0, fmt.Errorf("look up certificates of record %s: %w", id.Short(), err)
	}
	return p, e.Generation, nil
}

// Directory gives the record that an identity's device has, and what is published
// of it. A certificate that names another identity is not the device's.
func (c *Client) Directory(ctx context.Context, id identity.Identity) (PublicCertificates, identity.RecordID, error) {
	p, e, err := c.published(ctx, "directory", id.URN())
	if err == nil && p.Identity != id.URN() {
		err = fmt.Errorf("the registry answered with identity %.64q", p.Identity)
	}
	if err == nil {
		err = c.check(e, e.Record) // the realm
	}
	if err != nil {
		return PublicCertificates{}, identity.RecordID{}, fmt.Errorf("look up %s in the directory: %w", id, err)
	}
	return p, e.Record, nil
}

func (c *Client) published(ctx context.Context, path ...string) (PublicCertificates, Entry, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base.JoinPath(path...).String(), nil)
	if err != nil {
		return PublicCertificates{}, Entry{}, err
	}
	body, _, err := c.do(req, MaxEntry)
	if err != nil {
		return PublicCertificates{}, Entry{}, err
	}
	e, err := ParseEntry(body)
	if err == nil && e.Type != Certificates {
		err = fmt.Errorf("the registry answered with a %s entry", e.Type)
	}
	if err != nil {
		return PublicCertificates{}, Entry{}, err
	}
	p, err := ParsePublicCertificates(e.Sealed)
	return p, e, err
}
