package keypackage

import (
	"crypto/sha256"
	"fmt"

	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/statement"
)

// Suite names the algorithms of a transfer and whether the chip is attested.
type Suite uint8

// The suites. Both: ECDH P-256 with the plain x coordinate as key, KDF 1, AES-KW,
// AES-256-GCM, SHA-256.
const (
	// SuiteAttested is signed by the attestation key that the chip maker's
	// delivery list names for the chip.
	SuiteAttested Suite = 1
	// SuiteUnattested has no signature: whoever controls the line's cabling
	// could take the chip's place. A product line switches it on and owns the
	// risk (docs/threat-model.md).
	SuiteUnattested Suite = 2
)

// Valid reports whether the suite is known.
func (s Suite) Valid() bool { return s == SuiteAttested || s == SuiteUnattested }

// String gives "attested" or "unattested".
func (s Suite) String() string {
	switch s {
	case SuiteAttested:
		return "attested"
	case SuiteUnattested:
		return "unattested"
	}
	return fmt.Sprintf("suite %d", uint8(s))
}

// Hello is the device's first message on the line, M1.
type Hello struct {
	Realm  identity.Realm
	Suite  Suite
	ChipID identity.ChipID
	ROMKey [sha256.Size]byte   // hash of the key in its ROM: a device of another maker, or realm, is found here
	Point  statement.PublicKey // e_D, fresh for this message, its private half in the chip
}

// MaxHello bounds an encoded hello with its attestation, in bytes.
const MaxHello = 1024

const helloVersion = 1

type helloWire struct {
	_       struct{} `cbor:",toarray"`
	Version uint
	Realm   identity.Realm
	Suite   Suite
	ChipID  []byte
	ROMKey  []byte
	Point   []byte
}

// Encode gives the hello's one encoding: the bytes that the attestation signs
// and the transcript hashes.
func (h Hello) Encode() ([]byte, error) {
	if !h.Realm.Valid() || !h.Suite.Valid() || h.ChipID.IsZero() || h.Point.IsZero() {
		return nil, fmt.Errorf("encode hello: realm, suite, chip ID or point is missing")
	}
	return detcbor.Marshal(helloWire{
		Version: helloVersion, Realm: h.Realm, Suite: h.Suite, ChipID: h.ChipID.Bytes(), ROMKey: h.ROMKey[:], Point: h.Point.Point(),
	})
}

// ParseHello reads the one encoding of a hello.
func ParseHello(b []byte) (Hello, error) {
	var w helloWire
	if err := detcbor.Unmarshal(b, &w, MaxHello); err != nil {
		return Hello{}, fmt.Errorf("read hello: %w", err)
	}
	switch {
	case w.Version != helloVersion:
		return Hello{}, fmt.Errorf("read hello: version %d is not known", w.Version)
	case !w.Realm.Valid():
		return Hello{}, fmt.Errorf("read hello: %s is not a realm", w.Realm)
	case !w.Suite.Valid():
		return Hello{}, fmt.Errorf("read hello: %s is not known", w.Suite)
	case len(w.ROMKey) != sha256.Size:
		return Hello{}, fmt.Errorf("read hello: hash of the ROM key has %d bytes", len(w.ROMKey))
	}
	chip, err := identity.ParseChipID(w.ChipID)
	if err != nil {
		return Hello{}, fmt.Errorf("read hello: %w", err)
	}
	point, err := statement.ParsePoint(w.Point)
	if err != nil {
		return Hello{}, fmt.Errorf("read hello: %w", err)
	}
	return Hello{Realm: w.Realm, Suite: w.Suite, ChipID: chip, ROMKey: [sha256.Size]byte(w.ROMKey), Point: point}, nil
}
