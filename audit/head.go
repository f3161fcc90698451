package audit

import (
	"context"
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/statement"
)

// Head fixes the log up to and including one entry.
type Head struct {
	Realm identity.Realm
	Seq   int64
	Hash  [sha256.Size]byte
	// At is the entry's time, or, in a head read from a statement, when it was
	// signed, to the second.
	At time.Time
	// Statement is the signed form, where the head was read from one.
	Statement []byte

	signedTime bool // At is a time of signing
}

const headVersion = 1

// maxHead bounds a signed head, in bytes: about 250 with its envelope.
const maxHead = 1024

type headWire struct {
	_       struct{} `cbor:",toarray"`
	Version uint
	Realm   identity.Realm
	Seq     int64
	Hash    []byte
	Time    int64
}

// Payload gives what the audit key signs: [1, realm, seq, hash, unix seconds].
func (h Head) Payload() ([]byte, error) {
	if !h.Realm.Valid() || h.Seq < 1 || h.At.Unix() < 0 {
		return nil, fmt.Errorf("encode audit head: realm %s, entry %d, time %d: each must be given", h.Realm, h.Seq, h.At.Unix())
	}
	return detcbor.Marshal(headWire{Version: headVersion, Realm: h.Realm, Seq: h.Seq, Hash: h.Hash[:], Time: h.At.Unix()})
}

// ParseHead reads a signed head and checks its signature with the audit key.
func ParseHead(raw []byte, key statement.PublicKey) (Head, error) {
	payload, err := statement.Open(raw, statement.AuditHead, key, maxHead)
	if err != nil {
		return Head{}, err
	}
	var w headWire
	if err := detcbor.Unmarshal(payload, &w, maxHead); err != nil {
		return Head{}, fmt.Errorf("read audit head: %w", err)
	}
	if w.Version != headVersion || !w.Realm.Valid() || w.Seq < 1 || len(w.Hash) != sha256.Size || w.Time < 0 {
		return Head{}, fmt.Errorf("read audit head: version %d, realm, entry or hash is not known", w.Version)
	}
	return Head{
		Realm: w.Realm, Seq: w.Seq, Hash: [sha256.Size]byte(w.Hash), At: time.Unix(w.Time, 0).UTC(),
		Statement: append([]byte(nil), raw...), signedTime: true,
	}, nil
}

// SignHead signs the end of the log and keeps the statement beside it. sign is
// given the payload and answers with a statement.AuditHead; it is not called
// for an empty log, whose zero Head comes back.
//
// A crash between signing and keeping loses a signature that nobody saw; the
// next call makes another.
func (l *Log) SignHead(ctx context.Context, sign func(ctx context.Context, payload []byte) ([]byte, error)) (Head, error) {
	h, err := l.Head(ctx)
	if err != nil || h.Seq == 0 {
		return Head{}, err
	}
	h.At = time.Now().UTC().Truncate(time.Second)
	payload, err := h.Payload()
	if err != nil {
		return Head{}, err
	}
	if h.Statement, err = sign(ctx, payload); err != nil {
		return Head{}, fmt.Errorf("sign the head of the audit log at entry %d: %w", h.Seq, err)
	}
	h.signedTime = true
	if _, err := l.db.ExecContext(ctx, `select audit_keep_head($1, $2, $3)`, h.Seq, h.Hash[:], h.Statement); err != nil {
		return Head{}, fmt.Errorf("keep the signed head of the audit log at entry %d: %w", h.Seq, err)
	}
	return h, nil
}

// Heads gives the signed heads kept beside the log, oldest first, each checked
// with the audit key and for the log's realm. One that does not check out is an
// error that matches ErrBroken.
func (l *Log) Heads(ctx context.Context, key statement.PublicKey) ([]Head, error) {
	var heads []Head
	for after := int64(0); ; {
		page, err := l.headPage(ctx, after)
		if err != nil {
			return nil, err
		}
		for _, kept := range page {
			h, err := ParseHead(kept.Statement, key)
			switch {
			case err != nil:
				return nil, fmt.Errorf("%w: the signed head at entry %d: %w", ErrBroken, kept.Seq, err)
			case h.Seq != kept.Seq || h.Realm != l.realm:
				return nil, fmt.Errorf("%w: the signed head at entry %d is of entry %d, realm %s", ErrBroken, kept.Seq, h.Seq, h.Realm)
			}
			heads = append(heads, h)
			after = kept.Seq
		}
		if len(page) < pageSize {
			return heads, nil
		}
	}
}

func (l *Log) headPage(ctx context.Context, after int64) ([]Head, error) {
	rows, err := l.db.QueryContext(ctx, `select seq, statement from audit_signed_head where seq > $1 order by seq limit $2`, after, pageSize)
	if err != nil {
		return nil, fmt.Errorf("read signed heads: %w", err)
	}
	defer rows.Close()
	var page []Head
	for rows.Next() {
		var h Head
		if err := rows.Scan(&h.Seq, &h.Statement); err != nil {
			return nil, fmt.Errorf("read signed heads: %w", err)
		}
		page = append(page, h)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read signed heads: %w", err)
	}
	return page, nil
}
