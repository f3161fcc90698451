package message

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/devicecert"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/statement"
)

// Suite says how a message is encrypted. The numbers are part of the format.
type Suite uint8

// SuiteP256 is DHKEM(P-256, HKDF-SHA256), HKDF-SHA256, AES-256-GCM: 0x0010,
// 0x0001 and 0x0002 in RFC 9180 §7.
const SuiteP256 Suite = 1

// String names the suite.
func (s Suite) String() string {
	if s == SuiteP256 {
		return "DHKEM(P-256, HKDF-SHA256), HKDF-SHA256, AES-256-GCM"
	}
	return fmt.Sprintf("suite %d", uint8(s))
}

// KeyID names a recipient's key: SHA-256 of its public point.
type KeyID [sha256.Size]byte

// KeyIDOf gives a key's.
func KeyIDOf(k statement.PublicKey) KeyID { return sha256.Sum256(k.Point()) }

// String gives the key id in hexadecimal.
func (k KeyID) String() string { return hex.EncodeToString(k[:]) }

// MarshalText gives the key id in hexadecimal.
func (k KeyID) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// Header is what anyone sees of a message. Nothing vouches for it.
type Header struct {
	Suite      Suite
	KeyID      KeyID
	Ciphertext int // length in bytes, the tag of 16 included
}

// tagSize is that of AES-GCM, in bytes.
const tagSize = 16

type envelope struct {
	_          struct{} `cbor:",toarray"`
	Version    uint
	Suite      uint
	KeyID      []byte
	Enc        []byte
	Ciphertext []byte
}

// ParseHeader reads what can be read of a message without a key. It matches
// ErrForm.
func ParseHeader(raw []byte) (Header, error) {
	e, err := parseEnvelope(raw)
	if err != nil {
		return Header{}, err
	}
	return Header{Suite: Suite(e.Suite), KeyID: KeyID(e.KeyID), Ciphertext: len(e.Ciphertext)}, nil
}

// parseEnvelope reads a message's frame. What it gives has a known suite, a
// key id and a point of P-256.
func parseEnvelope(raw []byte) (envelope, error) {
	var e envelope
	fail := func(format string, args ...any) (envelope, error) {
		return envelope{}, fmt.Errorf("read message: %w: "+format, append([]any{ErrForm}, args...)...)
	}
	if err := detcbor.Unmarshal(raw, &e, MaxSize); err != nil {
		return fail("%w", err)
	}
	switch {
	case e.Version != version:
		return fail("version %d is not known", e.Version)
	case e.Suite != uint(SuiteP256):
		return fail("suite %d is not known", e.Suite)
	case len(e.KeyID) != len(KeyID{}):
		return fail("a key id of %d bytes", len(e.KeyID))
	case len(e.Ciphertext) < tagSize:
		return fail("a ciphertext of %d bytes", len(e.Ciphertext))
	}
	// Before the token sees it: some take points in other forms, or off the curve.
	if _, err := statement.ParsePoint(e.Enc); err != nil {
		return fail("encapsulated key: %w", err)
	}
	return e, nil
}

// info binds the key schedule to realm and certificate.
func info(to devicecert.Certificate) []byte {
	hash := to.Hash()
	return detcbor.Array("dk-message", version, uint8(to.Realm), hash[:])
}

func aad(s Suite, id KeyID, enc []byte) []byte {
	return detcbor.Array(version, uint8(s), id[:], enc)
}

// plainWire is the plaintext: a content, or a statement over one.
type plainWire struct {
	_       struct{} `cbor:",toarray"`
	Version uint
	Signed  uint
	Bytes   []byte
}

const (
	anonymous = 0
	signed    = 1
)

// checkCertificate refuses certificates of keys that nothing can be encrypted to.
func checkCertificate(c devicecert.Certificate) error {
	switch {
	case !c.Checked():
		return fmt.Errorf("there is no certificate that was checked: devicecert.Check gives one")
	case c.Use != keypackage.UseAgreement:
		return fmt.Errorf("the certificate is of a key for %s: one for key agreement is needed, which is another of the device's keys", c.Use)
	}
	return nil
}
