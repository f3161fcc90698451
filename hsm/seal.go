package hsm

import (
	"context"
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"
)

const (
	// NonceSize and TagSize are AES-GCM's (SP 800-38D section 5.2.1).
	NonceSize = 12
	TagSize   = 16
	// maxSealed bounds what is sealed or opened at once: packages are a few kilobytes.
	maxSealed = 1 << 20
)

// errNoAAD: SoftHSM 2.6.1 crashes the process on AES-GCM without additional data.
var errNoAAD = errors.New("no additional data given: bind the ciphertext to what it belongs to")

// Seal encrypts with AES-256-GCM under a 12-byte nonce drawn by the token; the 16-byte
// tag is appended to the ciphertext. aad must not be empty.
func (k *Key) Seal(ctx context.Context, aad, plaintext []byte) (nonce, ciphertext []byte, err error) {
	if len(aad) == 0 {
		return nil, nil, fmt.Errorf("hsm: seal with %s: %w", k, errNoAAD)
	}
	if len(plaintext) > maxSealed {
		return nil, nil, fmt.Errorf("hsm: seal with %s: %d bytes, and at most %d go at once", k, len(plaintext), maxSealed)
	}
	lib := k.token.lib
	err = k.use(ctx, "seal with "+k.String(), func(s *session, h pkcs11.ObjectHandle) (err error) {
		if nonce, err = k.token.nonces.take(s); err != nil {
			return err
		}
		ciphertext, err = lib.encrypt(s.handle, h, nonce, aad, plaintext)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	if len(ciphertext) != len(plaintext)+TagSize {
		return nil, nil, fmt.Errorf("hsm: seal with %s: the token gave %d bytes instead of %d", k, len(ciphertext), len(plaintext)+TagSize)
	}
	return nonce, ciphertext, nil
}

// Open decrypts what Seal made. errors.Is(err, [ErrData]) when nonce, aad or ciphertext
// aren't as they were sealed under this key.
func (k *Key) Open(ctx context.Context, nonce, aad, ciphertext []byte) ([]byte, error) {
	fail := func(err error) ([]byte, error) {
		return nil, fmt.Errorf("hsm: open with %s: %w", k, err)
	}
	switch {
	case len(aad) == 0:
		return fail(errNoAAD)
	case len(nonce) != NonceSize:
		return fail(fmt.Errorf("a nonce of %d bytes, and %d are due: %w", len(nonce), NonceSize, ErrData))
	case len(ciphertext) < TagSize || len(ciphertext) > maxSealed+TagSize:
		return fail(fmt.Errorf("a ciphertext of %d bytes, and %d to %d are due: %w", len(ciphertext), TagSize, maxSealed+TagSize, ErrData))
	}
	lib := k.token.lib
	var plaintext []byte
	err := k.use(ctx, "open with "+k.String(), func(s *session, h pkcs11.ObjectHandle) (err error) {
		err = twice(func() (err error) {
			plaintext, err = lib.decrypt(s.handle, h, nonce, aad, ciphertext)
			return err
		})
		return k.token.blame(s, err, k)
	})
	return plaintext, err
}
