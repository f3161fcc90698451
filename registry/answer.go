package registry

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/identity"
)

// Media types of the HTTP side.
const (
	MediaCBOR    = "application/cbor"
	MediaJSON    = "application/json"
	MediaProblem = "application/problem+json" // RFC 9457
)

// Header fields that accompany a single entry, so that one who reads CBOR
// needs to parse nothing to learn what was served. Mirrors of static files
// may lack them: the entry itself says all but the sequence number.
const (
	HeaderType       = "Devicekeys-Type"
	HeaderGeneration = "Devicekeys-Generation"
	HeaderNewest     = "Devicekeys-Newest" // "true", only where the newest entry was asked for
	HeaderSequence   = "Devicekeys-Sequence"
	HeaderLeafHash   = "Devicekeys-Leaf-Hash"
)

// Answer is an entry as the HTTP side tells it in JSON.
type Answer struct {
	Record     identity.RecordID   `json:"record"`
	Type       EntryType           `json:"type"`
	Generation identity.Generation `json:"generation"`
	Realm      identity.Realm      `json:"realm"`
	Sequence   int64               `json:"sequence"`
	LeafHash   Hash                `json:"leaf_hash"`
	Newest     bool                `json:"newest,omitempty"` // only where the newest entry was asked for
	Entry      []byte              `json:"entry"`            // encoded entry, base64
}

// Batch is the answer to a batch lookup: the newest entry of each record
// asked for, in the order of the question.
type Batch struct {
	Entries []Answer            `json:"entries"`
	Missing []identity.RecordID `json:"missing"`
}

// Lookup is the question of a batch lookup.
type Lookup struct {
	Records []identity.RecordID `json:"records"` // 1 to MaxBatch
}

// Hash is a SHA-256 hash that JSON spells in hexadecimal.
type Hash [sha256.Size]byte

// String gives the 64 hexadecimal digits.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// MarshalText writes the 64 hexadecimal digits.
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText reads 64 hexadecimal digits.
func (h *Hash) UnmarshalText(b []byte) error {
	if len(b) != 2*len(h) {
		return fmt.Errorf("hash of %d characters: %d hexadecimal digits are expected", len(b), 2*len(h))
	}
	if _, err := hex.Decode(h[:], b); err != nil {
		return fmt.Errorf("hash: %w", err)
	}
	return nil
}

// answer gives the JSON form of an entry whose encoding is known.
func (s Stored) answer(encoded []byte) Answer {
	e := s.Entry
	return Answer{Record: e.Record, Type: e.Type, Generation: e.Generation, Realm: e.Realm,
		Sequence: s.Sequence, LeafHash: s.LeafHash, Entry: encoded}
}

// maxBatchSize bounds an encoded batch, in bytes.
const maxBatchSize = MaxBatch * (MaxEntry + 64)

const batchVersion = 1

// batchWire is the CBOR form: [1, [[sequence, entry]…], [missing record id…]].
type batchWire struct {
	_       struct{} `cbor:",toarray"`
	Version uint
	Entries []placedWire
	Missing [][]byte
}

type placedWire struct {
	_        struct{} `cbor:",toarray"`
	Sequence int64
	Entry    []byte
}

// EncodeCBOR gives the batch's CBOR form.
func (b Batch) EncodeCBOR() ([]byte, error) {
	w := batchWire{Version: batchVersion, Entries: []placedWire{}, Missing: [][]byte{}}
	for _, a := range b.Entries {
		w.Entries = append(w.Entries, placedWire{Sequence: a.Sequence, Entry: a.Entry})
	}
	for _, id := range b.Missing {
		w.Missing = append(w.Missing, id[:])
	}
	return detcbor.Marshal(w)
}

// parseBatch reads the CBOR form and gives the entries by their record.
func parseBatch(raw []byte) (map[identity.RecordID]Stored, []identity.RecordID, error) {
	var w batchWire
	if err := detcbor.Unmarshal(raw, &w, maxBatchSize); err != nil {
		return nil, nil, fmt.Errorf("read batch: %w", err)
	}
	if w.Version != batchVersion || len(w.Entries)+len(w.Missing) > MaxBatch {
		return nil, nil, fmt.Errorf("read batch: version %d with %d entries and %d missing: version %d and at most %d are expected",
			w.Version, len(w.Entries), len(w.Missing), batchVersion, MaxBatch)
	}
	if w.Entries == nil || w.Missing == nil {
		return nil, nil, fmt.Errorf("read batch: null stands for the entries or the missing records: an empty array is expected")
	}
	found := map[identity.RecordID]Stored{}
	for i, p := range w.Entries {
		e, err := ParseEntry(p.Entry)
		if err != nil {
			return nil, nil, fmt.Errorf("read batch: entry %d: %w", i+1, err)
		}
		if _, twice := found[e.Record]; twice || p.Sequence < 0 {
			return nil, nil, fmt.Errorf("read batch: entry %d: record %s stands twice or has no sequence number", i+1, e.Record.Short())
		}
		found[e.Record] = Stored{Entry: e, Sequence: p.Sequence, LeafHash: e.LeafHash()}
	}
	var missing []identity.RecordID
	for i, m := range w.Missing {
		if len(m) != len(identity.RecordID{}) {
			return nil, nil, fmt.Errorf("read batch: missing record %d: an id of %d bytes", i+1, len(m))
		}
		missing = append(missing, identity.RecordID(m))
	}
	return found, missing, nil
}
