package statement

import (
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
)

// PointSize is the length of an uncompressed P-256 point, the only form in
// which a point travels (SEC 1 §2.3.3, "04 ‖ x ‖ y").
const PointSize = 65

// PublicKey is a P-256 public key in its canonical form. The manufacturer's
// identity-signing key, once written into a device's ROM, is the ROM key.
// PublicKeys are comparable. The zero value is no key.
type PublicKey struct{ point [PointSize]byte }

// KeyID names a key inside a statement: the first eight bytes of the SHA-256
// of its SubjectPublicKeyInfo. It selects, it does not authenticate.
type KeyID [8]byte

// String gives the key id in hexadecimal.
func (k KeyID) String() string { return hex.EncodeToString(k[:]) }

// ParsePoint reads an uncompressed point and refuses every other form, points
// off the curve and the point at infinity.
func ParsePoint(b []byte) (PublicKey, error) {
	var k PublicKey
	if len(b) != PointSize || b[0] != 4 {
		return k, fmt.Errorf("public key of %d bytes is no uncompressed P-256 point of %d", len(b), PointSize)
	}
	if _, err := ecdh.P256().NewPublicKey(b); err != nil {
		return k, fmt.Errorf("public key is not a point of P-256")
	}
	copy(k.point[:], b)
	return k, nil
}

// FromECDSA takes a standard library key, which must be of P-256.
func FromECDSA(pub *ecdsa.PublicKey) (PublicKey, error) {
	if pub == nil || pub.Curve != elliptic.P256() {
		return PublicKey{}, fmt.Errorf("public key is not of P-256")
	}
	b, err := pub.Bytes()
	if err != nil {
		return PublicKey{}, fmt.Errorf("public key: %w", err)
	}
	return ParsePoint(b)
}

// ParsePEM reads a SubjectPublicKeyInfo in PEM ("BEGIN PUBLIC KEY").
func ParsePEM(b []byte) (PublicKey, error) {
	block, rest := pem.Decode(b)
	if block == nil || block.Type != "PUBLIC KEY" || len(rest) != 0 {
		return PublicKey{}, fmt.Errorf("one PEM block \"PUBLIC KEY\" is expected")
	}
	k, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return PublicKey{}, fmt.Errorf("public key: %w", err)
	}
	pub, ok := k.(*ecdsa.PublicKey)
	if !ok {
		return PublicKey{}, fmt.Errorf("public key is a %T, an EC P-256 key is expected", k)
	}
	return FromECDSA(pub)
}

// Point gives the 65 bytes of the uncompressed point.
func (k PublicKey) Point() []byte { return append([]byte(nil), k.point[:]...) }

// IsZero reports whether k is no key.
func (k PublicKey) IsZero() bool { return k.point[0] == 0 }

// SPKI gives the DER SubjectPublicKeyInfo (RFC 5480).
func (k PublicKey) SPKI() []byte { return append(append([]byte(nil), spkiP256...), k.point[:]...) }

// PEM gives the SubjectPublicKeyInfo in PEM.
func (k PublicKey) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: k.SPKI()})
}

// Hash gives SHA-256 of the SubjectPublicKeyInfo: how a device names the key
// in its ROM.
func (k PublicKey) Hash() [sha256.Size]byte { return sha256.Sum256(k.SPKI()) }

// ID gives the key's short name.
func (k PublicKey) ID() KeyID {
	h := k.Hash()
	return KeyID(h[:8])
}

// String gives the key id.
func (k PublicKey) String() string {
	if k.IsZero() {
		return "no key"
	}
	return "key " + k.ID().String()
}

func (k PublicKey) ecdsa() (*ecdsa.PublicKey, error) {
	return ecdsa.ParseUncompressedPublicKey(elliptic.P256(), k.point[:])
}

// Verify checks a bare ECDSA signature r‖s over a SHA-256 digest.
func (k PublicKey) Verify(digest, signature []byte) error {
	key, err := k.ecdsa()
	if err != nil || len(signature) != signatureSize ||
		!ecdsa.Verify(key, digest, new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])) {
		return ErrSignature
	}
	return nil
}

// spkiP256 is the constant beginning of a P-256 SubjectPublicKeyInfo.
var spkiP256 = []byte{
	0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01,
	0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
}
