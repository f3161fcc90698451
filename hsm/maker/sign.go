package maker

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/statement"
)

// signer is a signing key in the token, as package statement wants it. It is not exported: a caller gets one
// function per statement type and never the key.
type signer struct {
	key    *hsm.Key
	public statement.PublicKey
}

func newSigner(key *hsm.Key) (signer, error) {
	public, err := statement.ParsePoint(key.Public())
	if err != nil {
		return signer{}, fmt.Errorf("key %q: %w", key.Label(), err)
	}
	return signer{key, public}, nil
}

// Public gives the public half.
func (s signer) Public() statement.PublicKey { return s.public }

// SignDigest signs in the token.
func (s signer) SignDigest(ctx context.Context, digest []byte) ([]byte, error) {
	return s.key.Sign(ctx, digest)
}

// SignCertificate signs an identity certificate over claims that are the one encoding of claims of this realm.
func (k *Keys) SignCertificate(ctx context.Context, claims []byte) (identity.Certificate, error) {
	c, err := identity.ParseClaims(claims)
	if err == nil {
		err = k.sameRealm(c.Realm)
	}
	if err != nil {
		return identity.Certificate{}, fmt.Errorf("sign identity certificate: %w", err)
	}
	return identity.SignCertificate(ctx, k.identitySigning, claims)
}

// SignUnlock signs an unlock statement of this realm.
func (k *Keys) SignUnlock(ctx context.Context, u identity.Unlock) ([]byte, error) {
	if err := k.sameRealm(u.Realm); err != nil {
		return nil, fmt.Errorf("sign unlock statement: %w", err)
	}
	return identity.SignUnlock(ctx, k.identitySigning, u)
}

// leaf is the wire form of a registry entry's leaf (docs/formats.md).
type leaf struct {
	_          struct{} `cbor:",toarray"`
	Version    uint
	Realm      identity.Realm
	Type       uint8
	Record     []byte
	Generation identity.Generation
	Payload    []byte // SHA-256 of the sealed record
}

// The types of registry entry that carry a statement.
const (
	entryScrap = 3
	entryErase = 4
)

// maxLeaf bounds an encoded leaf, in bytes: two hashes and five small numbers.
const maxLeaf = 128

// SignRegistryStatement signs a registry statement over the leaf of a scrap or erase entry of this realm. Entries
// of other types carry none.
func (k *Keys) SignRegistryStatement(ctx context.Context, encoded []byte) ([]byte, error) {
	if err := k.checkLeaf(encoded); err != nil {
		return nil, fmt.Errorf("sign registry statement: %w", err)
	}
	return statement.Sign(ctx, k.identitySigning, statement.Registry, encoded)
}

// checkLeaf refuses all but a leaf of a scrap or erase entry of this realm.
func (k *Keys) checkLeaf(encoded []byte) error {
	var l leaf
	err := detcbor.Unmarshal(encoded, &l, maxLeaf)
	if err == nil {
		err = k.sameRealm(l.Realm)
	}
	switch {
	case err != nil:
	case l.Version != 1 || len(l.Record) != len(identity.RecordID{}) || len(l.Payload) != sha256.Size || l.Generation == 0:
		err = errors.New("these bytes are no leaf of version 1")
	case l.Type != entryScrap && l.Type != entryErase:
		err = fmt.Errorf("entry of type %d: only scrap (%d) and erase (%d) carry a statement", l.Type, entryScrap, entryErase)
	}
	return err
}

// submission is the wire form of a submission's payload (docs/formats.md).
type submission struct {
	_         struct{} `cbor:",toarray"`
	Version   uint
	Realm     identity.Realm
	Submitter string
	Entries   [][]byte
}

// Bounds of a submission: what the sequencer takes.
const (
	maxEntries    = 1000
	maxEntry      = 64<<10 - 1 // bytes
	maxSubmission = 16 << 20   // bytes
	maxSubmitter  = 64         // bytes
)

// SignSubmission signs a submission of registry entries of this realm for the sequencer.
func (k *Keys) SignSubmission(ctx context.Context, payload []byte) ([]byte, error) {
	if err := k.checkSubmission(payload); err != nil {
		return nil, fmt.Errorf("sign submission: %w", err)
	}
	return statement.Sign(ctx, k.submission, statement.Submission, payload)
}

// checkSubmission refuses all but a submission of this realm, within the sequencer's bounds.
func (k *Keys) checkSubmission(payload []byte) error {
	var s submission
	err := detcbor.Unmarshal(payload, &s, maxSubmission)
	if err == nil {
		err = k.sameRealm(s.Realm)
	}
	if err == nil && (s.Version != 1 || s.Submitter == "" || len(s.Submitter) > maxSubmitter || len(s.Entries) == 0 || len(s.Entries) > maxEntries) {
		err = fmt.Errorf("version %d by %q with %d entries: version 1, a submitter of 1 to %d bytes and 1 to %d entries are expected", s.Version, s.Submitter, len(s.Entries), maxSubmitter, maxEntries)
	}
	for i, e := range s.Entries {
		if err == nil && (len(e) == 0 || len(e) > maxEntry) {
			err = fmt.Errorf("entry %d has %d bytes: 1 to %d are allowed", i+1, len(e), maxEntry)
		}
	}
	return err
}

// auditHead is the wire form of a head of the audit log (docs/formats.md).
type auditHead struct {
	_        struct{} `cbor:",toarray"`
	Version  uint
	Realm    identity.Realm
	Sequence int64
	Hash     []byte
	Time     int64 // seconds since 1970
}

// SignAuditHead signs a head of the audit log of this realm.
func (k *Keys) SignAuditHead(ctx context.Context, payload []byte) ([]byte, error) {
	if err := k.checkAuditHead(payload); err != nil {
		return nil, fmt.Errorf("sign head of the audit log: %w", err)
	}
	return statement.Sign(ctx, k.audit, statement.AuditHead, payload)
}

// checkAuditHead refuses all but a head of this realm's audit log.
func (k *Keys) checkAuditHead(payload []byte) error {
	var h auditHead
	err := detcbor.Unmarshal(payload, &h, maxLeaf)
	if err == nil {
		err = k.sameRealm(h.Realm)
	}
	if err == nil && (h.Version != 1 || h.Sequence < 0 || len(h.Hash) != sha256.Size || h.Time <= 0) {
		err = fmt.Errorf("version %d, entry %d, hash of %d bytes, time %d: these bytes are no head of version 1", h.Version, h.Sequence, len(h.Hash), h.Time)
	}
	return err
}

func (k *Keys) sameRealm(r identity.Realm) error {
	if r != k.realm {
		return fmt.Errorf("it is of realm %s, these keys are of %s", r, k.realm)
	}
	return nil
}
