package maker

import (
	"context"
	"fmt"

	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
)

// poolAAD is the wire form of keypackage.PoolAAD.
type poolAAD struct {
	_        struct{} `cbor:",toarray"`
	Label    string
	Version  uint
	Realm    identity.Realm
	Batch    int64
	Identity string // URN
	Entry    string
}

// maxPoolAAD bounds the associated data, in bytes.
const maxPoolAAD = 256

// maxSealed bounds what is sealed for the pool, in bytes: a secret with its 32 random bytes and framing.
const maxSealed = keypackage.MaxSecret + 64

// checkPoolAAD makes sure that the pool seal key seals and opens nothing but secrets of this realm's pool.
func (k *Keys) checkPoolAAD(aad []byte) error {
	var a poolAAD
	if err := detcbor.Unmarshal(aad, &a, maxPoolAAD); err != nil {
		return fmt.Errorf("associated data: %w", err)
	}
	if a.Label != "dk-pool" || a.Version != 1 || a.Entry == "" {
		return fmt.Errorf("associated data is not of the pool: a fault in the caller")
	}
	if _, err := identity.FromURN(a.Identity); err != nil {
		return fmt.Errorf("associated data: %w", err)
	}
	return k.sameRealm(a.Realm)
}

// SealSecret encrypts a secret that waits in the pool or the records, bound to aad, which is what
// keypackage.PoolAAD gives. The nonce is the token's.
func (k *Keys) SealSecret(ctx context.Context, aad, plaintext []byte) (keypackage.Sealed, error) {
	if err := k.checkPoolAAD(aad); err != nil {
		return keypackage.Sealed{}, fmt.Errorf("seal secret: %w", err)
	}
	if len(plaintext) == 0 || len(plaintext) > maxSealed {
		return keypackage.Sealed{}, fmt.Errorf("seal secret of %d bytes: 1 to %d are allowed", len(plaintext), maxSealed)
	}
	nonce, ciphertext, err := k.poolSeal.Seal(ctx, keypackage.SealedAAD(aad), plaintext)
	if err != nil {
		return keypackage.Sealed{}, fmt.Errorf("seal secret: %w", err)
	}
	return sealed(nonce, ciphertext)
}

// OpenSecret opens what SealSecret made with the same aad. hsm.ErrData says that it was changed, or belongs to
// another identity or entry.
func (k *Keys) OpenSecret(ctx context.Context, aad []byte, s keypackage.Sealed) ([]byte, error) {
	if err := k.checkPoolAAD(aad); err != nil {
		return nil, fmt.Errorf("open secret: %w", err)
	}
	if len(s.Ciphertext) > maxSealed+keypackage.TagSize {
		return nil, fmt.Errorf("open secret: %d bytes, at most %d are read", len(s.Ciphertext), maxSealed+keypackage.TagSize)
	}
	plaintext, err := k.poolSeal.Open(ctx, s.Nonce[:], keypackage.SealedAAD(aad), s.Ciphertext)
	if err != nil {
		return nil, fmt.Errorf("open secret: %w", err)
	}
	return plaintext, nil
}

func sealed(nonce, ciphertext []byte) (keypackage.Sealed, error) {
	if len(nonce) != keypackage.NonceSize || len(ciphertext) < keypackage.TagSize {
		return keypackage.Sealed{}, fmt.Errorf("the token gave a nonce of %d bytes and a ciphertext of %d: stop using it", len(nonce), len(ciphertext))
	}
	return keypackage.Sealed{Nonce: [keypackage.NonceSize]byte(nonce), Ciphertext: ciphertext}, nil
}
