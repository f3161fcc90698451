package hsm

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/big"

	"github.com/miekg/pkcs11"
)

const (
	// DigestSize is the size of what [Key.Sign] signs: SHA-256.
	DigestSize = 32
	// SignatureSize is the size of an ECDSA P-256 signature as r ‖ s, and of Ed25519.
	SignatureSize = 64
)

// Sign gives an ECDSA P-256 signature over a SHA-256 digest, as r ‖ s, 64 bytes (the form
// of COSE, RFC 9053 section 2.1).
func (k *Key) Sign(ctx context.Context, digest []byte) ([]byte, error) {
	if len(digest) != DigestSize {
		return nil, fmt.Errorf("hsm: sign with %s: a digest of %d bytes, and %d are due", k, len(digest), DigestSize)
	}
	return k.signature(ctx, pkcs11.CKM_ECDSA, digest)
}

// SignMessage gives an Ed25519 signature over msg, 64 bytes (RFC 8032, pure).
func (k *Key) SignMessage(ctx context.Context, msg []byte) ([]byte, error) {
	return k.signature(ctx, ckmEdDSA, msg)
}

func (k *Key) signature(ctx context.Context, mechanism uint, msg []byte) ([]byte, error) {
	sig, err := k.sign(ctx, "sign", mechanism, msg)
	if err == nil && len(sig) != SignatureSize {
		return nil, fmt.Errorf("hsm: sign with %s: the token gave %d bytes instead of %d", k, len(sig), SignatureSize)
	}
	return sig, err
}

// Matches checks that a private key belongs to public, a P-256 point of 65 bytes: one
// that signs by signing 32 random bytes of the token's, one that agrees by agreeing with
// a fresh pair. An unwrapped private key tells its public half in no other way. errors.Is(err, [ErrData]) when it doesn't match.
func (k *Key) Matches(ctx context.Context, public []byte) error {
	if err := checkPoint(public); err != nil {
		return fmt.Errorf("hsm: match %s with a public key: %w", k, err)
	}
	if k.plan.uses(pkcs11.CKA_DERIVE) {
		return k.matchesAgreement(ctx, public)
	}
	nonce, err := k.token.Random(ctx, DigestSize)
	if err != nil {
		return err
	}
	// Hashed with a label of its own, so that the signature means nothing elsewhere.
	digest := sha256.Sum256(append([]byte("dk-match\x00"), nonce...))
	sig, err := k.Sign(ctx, digest[:])
	if err != nil {
		return err
	}
	if !verifyP256(public, digest[:], sig) {
		return fmt.Errorf("hsm: match %s with a public key: it belongs to another: %w", k, ErrData)
	}
	return nil
}

// verifyP256 checks r ‖ s over a digest; public has been checked.
func verifyP256(public, digest, sig []byte) bool {
	pub, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), public)
	if err != nil || len(sig) != SignatureSize {
		return false
	}
	r, s := new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])
	return ecdsa.Verify(pub, digest, r, s)
}

// try uses a new token key once, so that a key which was made but doesn't work is
// noticed before anything is built on it.
func (k *Key) try(ctx context.Context) error {
	msg := []byte("dk-first-use")
	digest := sha256.Sum256(msg)
	switch t := k.plan.template; {
	case t.keyType == ckkEdwards:
		sig, err := k.SignMessage(ctx, msg)
		if err == nil && !ed25519.Verify(k.public, msg, sig) {
			err = errors.New("its signature doesn't verify")
		}
		return err
	case t.keyType == pkcs11.CKK_EC && t.uses(pkcs11.CKA_DERIVE):
		return k.matchesAgreement(ctx, k.public)
	case t.keyType == pkcs11.CKK_EC:
		sig, err := k.Sign(ctx, digest[:])
		if err == nil && !verifyP256(k.public, digest[:], sig) {
			err = errors.New("its signature doesn't verify")
		}
		return err
	case t.uses(pkcs11.CKA_ENCRYPT):
		nonce, sealed, err := k.Seal(ctx, msg, msg)
		if err == nil {
			_, err = k.Open(ctx, nonce, msg, sealed)
		}
		return err
	case t.uses(pkcs11.CKA_WRAP):
		return k.tryWrap(ctx)
	default:
		return k.tryDerive(ctx)
	}
}

func (k *Key) tryDerive(ctx context.Context) error {
	kdf := KDF1
	if k.plan.backend != cbcBackend {
		kdf = KDF2
	}
	d, err := k.token.Derive(ctx, k, kdf, []byte("dk-first-use"), Spec{Kind: DeviceKey})
	if err != nil {
		return err
	}
	return d.Destroy(ctx)
}

// tryWrap wraps a key of the kind's class, made for that and destroyed.
func (k *Key) tryWrap(ctx context.Context) error {
	kind := DeviceKey
	if k.spec.Kind == PoolPairWrapKey {
		kind = DeviceSigningKey
	}
	t := k.token
	var made *Key
	err := t.with(ctx, "make a key to wrap", func(s *session) (err error) {
		made, err = t.generate(s, Spec{Kind: kind}, plans()[kindKey{kind: kind}])
		return err
	})
	if err != nil {
		return err
	}
	_, err = t.Wrap(ctx, k, made)
	return errors.Join(err, made.Destroy(ctx))
}
