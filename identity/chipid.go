package identity

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
)

// ChipID is the identifier that the chip maker put into a chip's read-only
// storage: 16, 24 or 32 random bytes. Knowing it entitles one to look up and
// open the device's registry entries, so it never stands in a URL, a log, an
// error or an X.509 certificate; print the RecordID instead.
// ChipIDs are comparable. The zero value is no chip ID.
type ChipID struct{ bytes string }

// ParseChipID checks the length and refuses an identifier of zeros, which is
// what an unprogrammed chip reads as. The error does not repeat the bytes.
func ParseChipID(b []byte) (ChipID, error) {
	switch len(b) {
	case 16, 24, 32:
	default:
		return ChipID{}, fmt.Errorf("chip ID has %d bytes: 16, 24 or 32 are allowed", len(b))
	}
	var or byte
	for _, c := range b {
		or |= c
	}
	if or == 0 {
		return ChipID{}, fmt.Errorf("chip ID is all zero: the chip was never programmed; send it back to the chip maker")
	}
	return ChipID{string(b)}, nil
}

// Bytes gives the identifier itself: for artefacts that carry it to the
// device and for key derivation, never for people.
func (c ChipID) Bytes() []byte { return []byte(c.bytes) }

// Len gives the length in bytes: 16, 24 or 32; 0 for the zero value.
func (c ChipID) Len() int { return len(c.bytes) }

// IsZero reports whether c is no chip ID.
func (c ChipID) IsZero() bool { return c.bytes == "" }

// RecordID gives the public name under which the registry files the chip.
func (c ChipID) RecordID() RecordID {
	return RecordID(sha256.Sum256(append([]byte(recordLabel), c.bytes...)))
}

// UEID gives the value of the certificate's ueid claim (RFC 9711 §4.2.1):
// type 0x01, RAND, and the chip ID.
func (c ChipID) UEID() []byte { return append([]byte{ueidRandom}, c.bytes...) }

// String hides the identifier.
func (c ChipID) String() string { return "[chip ID]" }

// GoString hides the identifier.
func (c ChipID) GoString() string { return "identity.ChipID{[hidden]}" }

// Format hides the identifier from every verb, %x included.
func (c ChipID) Format(f fmt.State, _ rune) { fmt.Fprint(f, c.String()) }

// LogValue logs the record id in the identifier's place.
func (c ChipID) LogValue() slog.Value { return slog.StringValue("record " + c.RecordID().Short()) }

// MarshalText refuses: a chip ID is written to no JSON, YAML or flag.
func (c ChipID) MarshalText() ([]byte, error) {
	return nil, fmt.Errorf("write a chip ID as text: refused, it opens the device's record; write its record id")
}

// recordLabel separates this hash from every other one (docs/formats.md).
const recordLabel = "dk-record"

// ueidRandom is the UEID type of a random identifier (RFC 9711 §4.2.1.1).
const ueidRandom = 0x01

// RecordID is the public name of a chip's record:
// SHA-256("dk-record" ‖ chip ID). It may be printed and stands in URLs; it
// leads to no chip ID, since those are at least 128 random bits.
type RecordID [sha256.Size]byte

// ParseRecordID reads 64 hexadecimal digits, lower case.
func ParseRecordID(s string) (RecordID, error) {
	var r RecordID
	if len(s) != 2*len(r) {
		return r, fmt.Errorf("record id has %d characters: 64 lower-case hexadecimal digits are expected", len(s))
	}
	for _, c := range s {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return r, fmt.Errorf("record id %q: %q is not a lower-case hexadecimal digit", s, c)
		}
	}
	if _, err := hex.Decode(r[:], []byte(s)); err != nil {
		return r, fmt.Errorf("record id %q: %w", s, err)
	}
	return r, nil
}

// String gives the 64 hexadecimal digits.
func (r RecordID) String() string { return hex.EncodeToString(r[:]) }

// Short gives the first twelve digits, enough to tell records apart in a log.
func (r RecordID) Short() string { return r.String()[:12] }

// MarshalText writes the 64 hexadecimal digits.
func (r RecordID) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (r *RecordID) UnmarshalText(b []byte) error {
	v, err := ParseRecordID(string(b))
	if err != nil {
		return err
	}
	*r = v
	return nil
}
