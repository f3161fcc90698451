package keypackage

import (
	"crypto/sha256"
	"fmt"

	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/statement"
)

// WaitingKey is a device's key that was made before its package: in the pool,
// or in the row of a device under way. Its bytes are wrapped under one of the
// SPP's pool wrap keys and nowhere else.
//
// AES-KW binds nothing to what it wraps. So a waiting key is kept only as the
// value of a [Secret], sealed under PoolAAD: a row can't be put in another
// identity's or entry's place.
type WaitingKey struct {
	Algorithm Algorithm
	Wrapped   []byte // AES-KW: 40 bytes, of a pair 80
	Public    []byte // a pair's point; empty for a symmetric key
	X509      []byte // a pair's certificate, DER; empty without one
}

// MaxX509 bounds an X.509 certificate of a device's key, in bytes.
const MaxX509 = 2048

const waitingVersion = 1

type waitingWire struct {
	_         struct{} `cbor:",toarray"`
	Version   uint
	Algorithm Algorithm
	Wrapped   []byte
	Public    []byte
	X509      []byte
}

// Encode gives the key's one encoding. It refuses what ParseWaitingKey refuses.
func (w WaitingKey) Encode() ([]byte, error) {
	if err := w.check(); err != nil {
		return nil, fmt.Errorf("encode waiting key: %w", err)
	}
	full := func(b []byte) []byte { return append([]byte{}, b...) } // nil would encode as null
	return detcbor.Marshal(waitingWire{Version: waitingVersion, Algorithm: w.Algorithm, Wrapped: full(w.Wrapped), Public: full(w.Public), X509: full(w.X509)})
}

// ParseWaitingKey reads the one encoding of a waiting key. That the wrapped key is the
// one that belongs to the public point, the HSM says when it unwraps it.
func ParseWaitingKey(b []byte) (WaitingKey, error) {
	var w waitingWire
	if err := detcbor.Unmarshal(b, &w, MaxSecret); err != nil {
		return WaitingKey{}, fmt.Errorf("read waiting key: %w", err)
	}
	if w.Version != waitingVersion {
		return WaitingKey{}, fmt.Errorf("read waiting key: version %d is not known", w.Version)
	}
	if w.Wrapped == nil || w.Public == nil || w.X509 == nil {
		return WaitingKey{}, fmt.Errorf("read waiting key: null in place of bytes")
	}
	k := WaitingKey{Algorithm: w.Algorithm, Wrapped: w.Wrapped, Public: absent(w.Public), X509: absent(w.X509)}
	if err := k.check(); err != nil {
		return WaitingKey{}, fmt.Errorf("read waiting key: %w", err)
	}
	return k, nil
}

// PointHash gives SHA-256 of a pair's point: how pool and records know it again.
func (w WaitingKey) PointHash() [sha256.Size]byte { return sha256.Sum256(w.Public) }

func absent(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return b
}

func (w WaitingKey) check() error {
	e := Entry{Algorithm: w.Algorithm}
	switch {
	case !w.Algorithm.Symmetric() && !w.Algorithm.Pair():
		return fmt.Errorf("%s is no key's", w.Algorithm)
	case len(w.Wrapped) != e.WrappedSize():
		return fmt.Errorf("wrapped in %d bytes, %s takes %d", len(w.Wrapped), w.Algorithm, e.WrappedSize())
	case len(w.X509) > MaxX509:
		return fmt.Errorf("certificate of %d bytes, at most %d are allowed", len(w.X509), MaxX509)
	case w.Algorithm.Symmetric() && len(w.Public)+len(w.X509) > 0:
		return fmt.Errorf("a symmetric key has neither public half nor certificate")
	case w.Algorithm.Symmetric():
		return nil
	}
	_, err := statement.ParsePoint(w.Public)
	return err
}

// ServiceKeyLabel is the label under which a device's key is wrapped to the device
// service's HSM: it binds the blob to record, generation and entry, so that no row
// of a table passes for another.
func ServiceKeyLabel(record identity.RecordID, g identity.Generation, entry string) string {
	return fmt.Sprintf("service-key/%x/%d/%s", record[:], g, entry)
}
