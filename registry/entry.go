package registry

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math"

	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
)

// MaxEntry bounds an encoded entry, in bytes: the length prefix of an entry in
// a tiled log has two bytes (C2SP tlog-tiles), so that every entry can become
// one of such a log.
const MaxEntry = 1<<16 - 1

// MaxStatement bounds the statement of a scrap or erase entry, in bytes: a leaf
// below 96, a signature of 64 and the framing stay far below it.
const MaxStatement = 512

const entryVersion = 1

// Entry is one line of the registry. No two entries share type, record id and
// generation. Entries are values; their slices must not be changed.
type Entry struct {
	Realm      identity.Realm
	Type       EntryType
	Record     identity.RecordID
	Generation identity.Generation // from 1
	Sealed     []byte              // register, supersede: the sealed record (Seal); certificates: PublicCertificates, unsealed; else empty
	Statement  []byte              // scrap, erase: the statement (SignStatement); else empty
}

type entryWire struct {
	_          struct{} `cbor:",toarray"`
	Version    uint
	Realm      identity.Realm
	Type       EntryType
	Record     []byte
	Generation identity.Generation
	Sealed     []byte
	Statement  []byte
}

// Encode gives the entry's one encoding, at most MaxEntry bytes. It refuses an
// entry that ParseEntry would refuse.
func (e Entry) Encode() ([]byte, error) {
	if err := e.check(); err != nil {
		return nil, fmt.Errorf("encode registry entry: %w", err)
	}
	b := e.encode()
	if len(b) > MaxEntry {
		return nil, fmt.Errorf("encode registry entry: %d bytes, at most %d are allowed: shorten the record", len(b), MaxEntry)
	}
	return b, nil
}

// entryItems is how many items an entry's array has.
const entryItems = 7

// entryOverhead is the most that an entry's encoding has beyond sealed record and statement, in bytes.
const entryOverhead = 64

func (e Entry) encode() []byte {
	b := make([]byte, 0, entryOverhead+len(e.Sealed)+len(e.Statement))
	b = e.appendKey(appendHead(b, majorArray, entryItems))
	return appendBytes(appendBytes(b, e.Sealed), e.Statement)
}

// appendKey appends what entry and leaf begin with: version, realm, type, record id, generation.
func (e Entry) appendKey(b []byte) []byte {
	b = appendHead(appendHead(appendHead(b, majorUint, entryVersion), majorUint, uint64(e.Realm)), majorUint, uint64(e.Type))
	return appendHead(appendBytes(b, e.Record[:]), majorUint, uint64(e.Generation))
}

// readEntry reads the usual case of an entry's encoding; what it gives for another is not ok.
func readEntry(b []byte) (e Entry, ok bool) {
	c := cursor{rest: b}
	if len(b) > MaxEntry || c.array() != entryItems || c.uint(entryVersion) != entryVersion {
		return Entry{}, false
	}
	e.Realm, e.Type = identity.Realm(c.uint(math.MaxUint8)), EntryType(c.uint(math.MaxUint8))
	record := c.bytes()
	e.Generation = identity.Generation(c.uint(uint64(identity.MaxGeneration)))
	sealed, statement := c.bytes(), c.bytes()
	if !c.done() || len(record) != len(e.Record) {
		return Entry{}, false
	}
	e.Record = identity.RecordID(record)
	e.Sealed, e.Statement = absent(sealed), absent(statement)
	return e, true
}

// ParseEntry reads the one encoding of an entry and checks its form: realm,
// type, record id and generation, a sealed record where the type has one and a
// statement where it has not. Whether the record opens and the statement holds
// is asked by Open and CheckStatement. Both may be parts of b, which must not be
// changed any more.
func ParseEntry(b []byte) (Entry, error) {
	e, ok := readEntry(b)
	if !ok {
		return parseOddEntry(b)
	}
	if err := e.check(); err != nil {
		return Entry{}, fmt.Errorf("read registry entry: %w", err)
	}
	return e, nil
}

// parseOddEntry is ParseEntry of what readEntry doesn't take: it says what is wrong.
func parseOddEntry(b []byte) (Entry, error) {
	var w entryWire
	if err := detcbor.Unmarshal(b, &w, MaxEntry); err != nil {
		return Entry{}, fmt.Errorf("read registry entry: %w", err)
	}
	if w.Version != entryVersion {
		return Entry{}, fmt.Errorf("read registry entry: version %d is not known", w.Version)
	}
	if len(w.Record) != len(identity.RecordID{}) {
		return Entry{}, fmt.Errorf("read registry entry: record id has %d bytes, %d are expected", len(w.Record), len(identity.RecordID{}))
	}
	if w.Sealed == nil || w.Statement == nil {
		return Entry{}, fmt.Errorf("read registry entry: null stands for the sealed record or the statement: an empty byte string is expected")
	}
	e := Entry{
		Realm: w.Realm, Type: w.Type, Record: identity.RecordID(w.Record), Generation: w.Generation,
		Sealed: absent(w.Sealed), Statement: absent(w.Statement),
	}
	if err := e.check(); err != nil {
		return Entry{}, fmt.Errorf("read registry entry: %w", err)
	}
	return e, nil
}

func absent(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return b
}

func (e Entry) check() error {
	if err := e.checkHead(); err != nil {
		return err
	}
	if e.Type.HasRecord() {
		if len(e.Statement) != 0 {
			return fmt.Errorf("a %s entry carries no statement", e.Type)
		}
		if wellSealed(e.Sealed) {
			return nil
		}
		if _, err := keypackage.ParseSealed(e.Sealed, MaxEntry); err != nil {
			return fmt.Errorf("sealed record: %w", err)
		}
		return nil
	}
	if e.Type == Certificates {
		if len(e.Statement) != 0 {
			return fmt.Errorf("a %s entry carries no statement", e.Type)
		}
		_, err := ParsePublicCertificates(e.Sealed)
		return err
	}
	switch {
	case len(e.Sealed) != 0:
		return fmt.Errorf("a %s entry carries no record", e.Type)
	case len(e.Statement) == 0:
		return fmt.Errorf("a %s entry needs a statement by the identity-signing key", e.Type)
	case len(e.Statement) > MaxStatement:
		return fmt.Errorf("statement of %d bytes, at most %d are allowed", len(e.Statement), MaxStatement)
	}
	return nil
}

// sealedHead is what every sealed record begins with: all before the nonce.
var sealedHead = func() []byte {
	s := keypackage.Sealed{Ciphertext: make([]byte, keypackage.TagSize)}.Encode()
	return s[:len(s)-keypackage.TagSize-1-keypackage.NonceSize]
}()

// wellSealed reports whether keypackage.ParseSealed takes a sealed record, without making one of it. It may say no
// where that would say yes, and never the other way round.
func wellSealed(b []byte) bool {
	if len(b) > MaxEntry || !bytes.HasPrefix(b, sealedHead) || len(b) < len(sealedHead)+keypackage.NonceSize {
		return false
	}
	c := cursor{rest: b[len(sealedHead)+keypackage.NonceSize:]}
	return len(c.bytes()) >= keypackage.TagSize && c.done()
}

// checkHead checks what is bound to the sealed record and stands in the leaf.
func (e Entry) checkHead() error {
	switch {
	case !e.Realm.Valid():
		return fmt.Errorf("%s is not a realm", e.Realm)
	case !e.Type.Valid():
		return fmt.Errorf("%s is not known", e.Type)
	case e.Record == identity.RecordID{}:
		return fmt.Errorf("there is no record id")
	case e.Generation == 0:
		return fmt.Errorf("generation 0 is not allowed, the first is 1")
	}
	return nil
}

// Leaf gives what the log commits to: everything but the record itself, of
// which it has the hash, so that a leaf outlives the erasure of its record.
func (e Entry) Leaf() []byte { return e.LeafOver(sha256.Sum256(e.Sealed)) }

// LeafOver gives the leaf of an entry of which only the hash of the sealed
// record is at hand: one whose record was erased.
func (e Entry) LeafOver(sealed [sha256.Size]byte) []byte {
	b := e.appendKey(appendHead(make([]byte, 0, maxLeaf), majorArray, leafItems))
	return appendBytes(b, sealed[:])
}

const (
	leafItems = 6
	maxLeaf   = 96 // bytes
)

// LeafHash gives SHA-256(0x00 ‖ leaf), the leaf's hash in a Merkle tree
// (RFC 6962 §2.1).
func (e Entry) LeafHash() [sha256.Size]byte { return HashLeaf(e.Leaf()) }

// HashLeaf gives SHA-256(0x00 ‖ leaf).
func HashLeaf(leaf []byte) [sha256.Size]byte {
	return sha256.Sum256(append(make([]byte, 1, 1+maxLeaf), leaf...))
}

// Equal reports whether both are the same entry, byte for byte.
func (e Entry) Equal(o Entry) bool {
	return e.Realm == o.Realm && e.Type == o.Type && e.Record == o.Record && e.Generation == o.Generation &&
		string(e.Sealed) == string(o.Sealed) && string(e.Statement) == string(o.Statement)
}
