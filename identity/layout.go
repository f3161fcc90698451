package identity

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"

	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/statement"
)

// Layout is where things stand in the certificates of one product line: what a
// boot ROM has compiled in. All certificates of one type of identity and one
// length of chip ID have one layout; docs/formats.md prints it.
type Layout struct {
	Length     int  // of the certificate, bytes
	Protected  Span // protected header, without its CBOR head
	Payload    Span // claims, without their CBOR head
	Subject    Span // the identity's URN
	IssuedAt   Span // 4 bytes, big endian
	ChipID     Span // without the UEID type byte
	Realm      Span // 1 byte
	Generation Span // 4 bytes, big endian
	Manifest   Span // SHA-256
	Signature  Span // r‖s

	prefix []byte // template with the variable spans zeroed
	fixed  []bool // which bytes of the template are constant
}

// Span is a run of bytes: [Offset, Offset+Length).
type Span struct{ Offset, Length int }

func (s Span) of(b []byte) []byte { return b[s.Offset : s.Offset+s.Length] }

// ErrLayout says that bytes are no certificate of the layout.
var ErrLayout = errors.New("certificate does not have the product line's layout")

// NewLayout computes the layout for a ROM key, a length of URN and a length of
// chip ID, both in bytes. It builds the constant bytes from the formats'
// definition and not by encoding a sample.
func NewLayout(rom statement.PublicKey, urn, chipID int) Layout {
	var b []byte
	var fixed []bool
	put := func(c ...byte) {
		b = append(b, c...)
		for range c {
			fixed = append(fixed, true)
		}
	}
	hole := func(n int) Span {
		s := Span{len(b), n}
		b = append(b, make([]byte, n)...)
		fixed = append(fixed, make([]bool, n)...)
		return s
	}
	var l Layout
	protected, _ := statement.Protected(statement.IdentityCertificate, rom)
	put(0xd2, 0x84)
	put(detcbor.Head(2, uint64(len(protected)))...)
	l.Protected = Span{len(b), len(protected)}
	put(protected...)
	put(0xa0)

	// The claims set's length: a map of six, each key and value with its head.
	n := 1 + (1 + len(detcbor.Head(3, uint64(urn))) + urn) + (1 + 5) + (3 + len(detcbor.Head(2, uint64(chipID+1))) + 1 + chipID) +
		(5 + 1) + (5 + 1 + 4) + (5 + 2 + sha256.Size)
	put(detcbor.Head(2, uint64(n))...)
	l.Payload = Span{len(b), n}
	put(0xa6, 0x02)
	put(detcbor.Head(3, uint64(urn))...)
	l.Subject = hole(urn)
	put(0x06, 0x1a)
	l.IssuedAt = hole(4)
	put(0x19, 0x01, 0x00)
	put(detcbor.Head(2, uint64(chipID+1))...)
	put(ueidRandom)
	l.ChipID = hole(chipID)
	put(0x3a, 0x00, 0x01, 0x00, 0x00)
	l.Realm = hole(1)
	put(0x3a, 0x00, 0x01, 0x00, 0x01, 0x44)
	l.Generation = hole(4)
	put(0x3a, 0x00, 0x01, 0x00, 0x02, 0x58, 0x20)
	l.Manifest = hole(sha256.Size)
	put(0x58, 0x40)
	l.Signature = hole(64)
	l.Length, l.prefix, l.fixed = len(b), b, fixed
	return l
}

// Verify is the boot ROM's way of checking a certificate: compare the length
// and the constant bytes, compare the chip ID with the fused one, hash, verify.
// There is no parser. It tells whether this certificate, made by the ROM key's
// owner, belongs to this chip and realm.
func (l Layout) Verify(raw []byte, rom statement.PublicKey, chip ChipID, realm Realm) error {
	if len(raw) != l.Length {
		return ErrLayout
	}
	for i, fixed := range l.fixed {
		if fixed && raw[i] != l.prefix[i] {
			return ErrLayout
		}
	}
	if !bytes.Equal(l.ChipID.of(raw), chip.Bytes()) || l.Realm.of(raw)[0] != byte(realm) {
		return ErrLayout
	}
	// Sig_structure of RFC 9052 §4.4: 84 6a "Signature1" protected 40 payload,
	// both byte strings with the heads they have in the certificate.
	h := sha256.New()
	h.Write([]byte("\x84\x6aSignature1"))
	h.Write(raw[2 : l.Protected.Offset+l.Protected.Length])
	h.Write([]byte{0x40})
	h.Write(raw[l.Protected.Offset+l.Protected.Length+1 : l.Payload.Offset+l.Payload.Length])
	return rom.Verify(h.Sum(nil), l.Signature.of(raw))
}

// GenerationOf reads the generation of a certificate that Verify accepted.
func (l Layout) GenerationOf(raw []byte) Generation {
	return Generation(binary.BigEndian.Uint32(l.Generation.of(raw)))
}

// URNOf reads the identity's URN of a certificate that Verify accepted.
func (l Layout) URNOf(raw []byte) string { return string(l.Subject.of(raw)) }
