package identity

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"

	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/statement"
)

// Generation counts the packages a chip was given, from 1. A new package takes
// a new generation; a device never goes back to one below its floor.
type Generation uint32

// Claims is what the manufacturer states in an identity certificate: this
// identity belongs to this chip, and these are its keys (through the hash of
// their manifest). Encoded as a CWT claims set (RFC 8392) of constant length
// for a type of identity and a length of chip ID, so that a ROM reads it by
// offsets (Layout).
type Claims struct {
	Subject    Identity          // sub (2), as URN
	IssuedAt   uint32            // iat (6), seconds since 1970, always four bytes wide
	ChipID     ChipID            // ueid (256), type RAND
	Realm      Realm             // private claim -65537
	Generation Generation        // private claim -65538, four bytes, big endian
	Manifest   [sha256.Size]byte // private claim -65539, SHA-256 of the manifest
}

// minIssuedAt is the least time whose CBOR form has four bytes (RFC 8949 §3).
const minIssuedAt = 1 << 16

// claimsSet is the wire form. The private claims lie below -65536, as RFC 8392
// §9.1.1 has it.
type claimsSet struct {
	Subject    string `cbor:"2,keyasint"`
	IssuedAt   uint32 `cbor:"6,keyasint"`
	UEID       []byte `cbor:"256,keyasint"`
	Realm      Realm  `cbor:"-65537,keyasint"`
	Generation []byte `cbor:"-65538,keyasint"`
	Manifest   []byte `cbor:"-65539,keyasint"`
}

// MaxClaims bounds an encoded claims set, in bytes: a URN of 54, a chip ID of
// 32 and the framing come to less than 200.
const MaxClaims = 256

// MaxCertificate bounds a certificate, in bytes.
const MaxCertificate = 512

// Encode gives the claims' one encoding. The certificate signs these bytes,
// the backup is bound to their hash, and signing again keeps them.
func (c Claims) Encode() ([]byte, error) {
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("encode identity claims: %w", err)
	}
	return detcbor.Marshal(claimsSet{
		Subject:    c.Subject.URN(),
		IssuedAt:   c.IssuedAt,
		UEID:       c.ChipID.UEID(),
		Realm:      c.Realm,
		Generation: binary.BigEndian.AppendUint32(nil, uint32(c.Generation)),
		Manifest:   c.Manifest[:],
	})
}

func (c Claims) check() error {
	switch {
	case c.Subject == nil || c.Subject.Value() == "":
		return fmt.Errorf("there is no identity")
	case c.IssuedAt < minIssuedAt:
		return fmt.Errorf("issued-at time %d is not a time of this century", c.IssuedAt)
	case c.ChipID.IsZero():
		return fmt.Errorf("there is no chip ID")
	case !c.Realm.Valid():
		return fmt.Errorf("%s is not a realm", c.Realm)
	case c.Generation == 0:
		return fmt.Errorf("generation 0 is not allowed, the first is 1")
	}
	return nil
}

// ParseClaims reads the one encoding of a claims set.
func ParseClaims(b []byte) (Claims, error) {
	var s claimsSet
	if err := detcbor.Unmarshal(b, &s, MaxClaims); err != nil {
		return Claims{}, fmt.Errorf("read identity claims: %w", err)
	}
	if len(s.Generation) != 4 || len(s.Manifest) != sha256.Size || len(s.UEID) < 1 || s.UEID[0] != ueidRandom {
		return Claims{}, fmt.Errorf("read identity claims: generation, manifest hash or ueid has a wrong form")
	}
	subject, err := FromURN(s.Subject)
	if err != nil {
		return Claims{}, fmt.Errorf("read identity claims: %w", err)
	}
	chip, err := ParseChipID(s.UEID[1:])
	if err != nil {
		return Claims{}, fmt.Errorf("read identity claims: %w", err)
	}
	c := Claims{
		Subject:    subject,
		IssuedAt:   s.IssuedAt,
		ChipID:     chip,
		Realm:      s.Realm,
		Generation: Generation(binary.BigEndian.Uint32(s.Generation)),
		Manifest:   [sha256.Size]byte(s.Manifest),
	}
	if err := c.check(); err != nil {
		return Claims{}, fmt.Errorf("read identity claims: %w", err)
	}
	return c, nil
}

// Certificate is an identity certificate whose signature was checked: the
// patent's signature over identity and chip identifier, with framing. By
// vouching for the manifest it authenticates every key of the device.
type Certificate struct {
	Claims
	raw    []byte
	claims []byte
}

// SignCertificate makes the certificate over claims that were encoded before
// (Claims.Encode) and, by the SPP, stored before: each signing of the same
// claims gives an equally good certificate.
func SignCertificate(ctx context.Context, s statement.Signer, claims []byte) (Certificate, error) {
	if _, err := ParseClaims(claims); err != nil {
		return Certificate{}, fmt.Errorf("sign identity certificate: %w", err)
	}
	raw, err := statement.Sign(ctx, s, statement.IdentityCertificate, claims)
	if err != nil {
		return Certificate{}, err
	}
	return ParseCertificate(raw, s.Public())
}

// ParseCertificate checks form and signature with the key in the device's ROM.
// It matches statement.ErrForm or statement.ErrSignature. Whether the
// certificate is for this chip, realm and generation is the caller's to ask.
func ParseCertificate(raw []byte, rom statement.PublicKey) (Certificate, error) {
	payload, err := statement.Open(raw, statement.IdentityCertificate, rom, MaxCertificate)
	if err != nil {
		return Certificate{}, err
	}
	c, err := ParseClaims(payload)
	if err != nil {
		return Certificate{}, err
	}
	return Certificate{Claims: c, raw: append([]byte(nil), raw...), claims: payload}, nil
}

// Bytes gives the certificate as it travels.
func (c Certificate) Bytes() []byte { return c.raw }

// ClaimsBytes gives the signed claims as they were encoded.
func (c Certificate) ClaimsBytes() []byte { return c.claims }

// ClaimsHash gives SHA-256 of the claims: what backup, chip keys and the
// messages of the line are bound to. Signing again does not change it.
func (c Certificate) ClaimsHash() [sha256.Size]byte { return sha256.Sum256(c.claims) }

// MaxGeneration is the last generation of a chip.
const MaxGeneration Generation = math.MaxUint32
