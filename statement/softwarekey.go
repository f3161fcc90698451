package statement

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/asn1"
	"fmt"
	"io"
	"math/big"
)

// SoftwareKey is a [Signer] whose private key lies in this process's memory: a
// sender's own, from a file of his, and those of software chips, tests and
// benchmarks. No key of the maker is one. It is safe for concurrent use, and
// nothing wipes it.
type SoftwareKey struct {
	private *ecdsa.PrivateKey
	public  PublicKey
	random  io.Reader // nil: signatures as RFC 6979 says
}

// NewSoftwareKey takes a private key, which must be of P-256.
func NewSoftwareKey(private *ecdsa.PrivateKey) (SoftwareKey, error) {
	public, err := FromECDSA(&private.PublicKey)
	return SoftwareKey{private, public, rand.Reader}, err
}

// GenerateSoftwareKey makes a new key.
func GenerateSoftwareKey() (SoftwareKey, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return SoftwareKey{}, err
	}
	return NewSoftwareKey(private)
}

// Deterministic gives the key as one that signs the same digest with the same
// bytes each time (RFC 6979 §3.2), for vectors that must not move.
func (k SoftwareKey) Deterministic() SoftwareKey {
	k.random = nil
	return k
}

// Public gives the public half.
func (k SoftwareKey) Public() PublicKey { return k.public }

// SignDigest signs a SHA-256 digest and gives r‖s, 64 bytes. It doesn't wait, so
// it needs no context.
func (k SoftwareKey) SignDigest(_ context.Context, digest []byte) ([]byte, error) {
	if len(digest) != sha256.Size {
		return nil, fmt.Errorf("sign a digest of %d bytes: %d are expected", len(digest), sha256.Size)
	}
	der, err := k.private.Sign(k.random, digest, crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	var sig struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &sig); err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	return append(sig.R.FillBytes(make([]byte, 32)), sig.S.FillBytes(make([]byte, 32))...), nil
}
