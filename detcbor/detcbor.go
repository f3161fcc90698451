// Package detcbor encodes and decodes deterministic CBOR (RFC 8949 §4.2.1),
// the only form in which Devicekeys signs, hashes or authenticates anything.
//
// One value has one encoding. Decoding therefore ends with a second encoding
// that must give the same bytes: whatever a lenient decoder would have let
// pass (a longer integer than needed, keys out of order, a field nobody knows)
// is refused there. On top of the RFC the project forbids tags and indefinite
// lengths, and bounds size and depth. Floats are forbidden too: no type of the
// formats holds one, and decoding into such a type refuses it (only an
// interface value would take it, and nothing decodes into one); the two tags that do travel
// (COSE_Sign1 and the backup code) stand at fixed places and are compared as
// constant bytes by their owners.
package detcbor

import (
	"bytes"
	"errors"
	"fmt"
	"math"

	"github.com/fxamacker/cbor/v2"
)

// MaxArtefact is the largest artefact, in bytes, that a device or the SPP
// parses: a boot ROM's buffer, and far above any package in use (a package
// with one key is below 1 KiB).
const MaxArtefact = 64 << 10

// Bounds of one item, enough for every format in docs/formats.md.
const (
	maxDepth    = 8
	maxElements = 1 << 17 // a chip maker's delivery list is the longest array
	maxPairs    = 64
)

// ErrNotDeterministic says that bytes are CBOR, but not the one encoding that
// RFC 8949 §4.2.1 allows for their value.
var ErrNotDeterministic = errors.New("not deterministic CBOR (RFC 8949 §4.2.1)")

// ErrTooLarge says that an item is longer than its reader allows.
var ErrTooLarge = errors.New("CBOR item is too large")

var encoding, decoding = modes()

func modes() (cbor.EncMode, cbor.DecMode) {
	opts := cbor.CoreDetEncOptions()
	opts.TagsMd = cbor.TagsForbidden
	enc, err := opts.EncMode()
	if err != nil {
		panic(err) // constant options; a test calls this
	}
	dec, err := cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		MaxNestedLevels:   maxDepth,
		MaxArrayElements:  maxElements,
		MaxMapPairs:       maxPairs,
		UTF8:              cbor.UTF8RejectInvalid,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
		IntDec:            cbor.IntDecConvertNone,
		NaN:               cbor.NaNDecodeForbidden,
		Inf:               cbor.InfDecodeForbidden,
	}.DecMode()
	if err != nil {
		panic(err) // constant options; a test calls this
	}
	return enc, dec
}

// Marshal gives the one encoding of v. It is safe for concurrent use.
func Marshal(v any) ([]byte, error) {
	b, err := encoding.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode CBOR: %w", err)
	}
	return b, nil
}

// Must is Marshal for values that always encode: arrays and structs of
// integers, strings and byte strings. A failure is a mistake in the program.
func Must(v any) []byte {
	b, err := Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("detcbor: a value of type %T does not encode: %v", v, err))
	}
	return b
}

// Array encodes its arguments as one CBOR array: the form of every context,
// transcript and associated data of the design (docs/formats.md). Arguments
// are strings, byte strings, unsigned and signed integers, and nested []any.
func Array(items ...any) []byte { return Must(items) }

// Unmarshal decodes data, at most limit bytes, into v and refuses every
// encoding but the deterministic one. v's type must hold all that the data
// says: fields that v does not know are refused, not dropped.
// Errors match ErrTooLarge or ErrNotDeterministic where those apply.
func Unmarshal(data []byte, v any, limit int) error {
	if len(data) > limit {
		return fmt.Errorf("%w: %d bytes, at most %d are read", ErrTooLarge, len(data), limit)
	}
	if err := decoding.Unmarshal(data, v); err != nil {
		return fmt.Errorf("decode CBOR: %w", err)
	}
	again, err := encoding.Marshal(v)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotDeterministic, err)
	}
	if !bytes.Equal(again, data) {
		return ErrNotDeterministic
	}
	return nil
}

// Head gives the bytes that begin an item of the given major type (0 to 7)
// and argument: the constant bytes of an artefact of constant length
// (RFC 8949 §3). It is what a boot ROM compares instead of parsing.
func Head(major byte, n uint64) []byte {
	m := major << 5
	switch {
	case n < 24:
		return []byte{m | byte(n)}
	case n <= math.MaxUint8:
		return []byte{m | 24, byte(n)}
	case n <= math.MaxUint16:
		return []byte{m | 25, byte(n >> 8), byte(n)}
	case n <= math.MaxUint32:
		return []byte{m | 26, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}
	default:
		return []byte{m | 27, byte(n >> 56), byte(n >> 48), byte(n >> 40), byte(n >> 32), byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}
	}
}
