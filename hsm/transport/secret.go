package transport

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/statement"
)

// MaxSecretBlob bounds a secret that was sent, in bytes.
const MaxSecretBlob = keypackage.MaxTransportSecret

// SealSoftware encrypts a secret that is no key, and lies in this process's memory, to a
// transport key: 1 to keypackage.MaxSecret bytes. The caller clears it.
func SealSoftware(realm identity.Realm, to statement.PublicKey, label string, secret []byte) ([]byte, error) {
	fail := func(err error) ([]byte, error) {
		return nil, fmt.Errorf("seal for transport: %w", err)
	}
	if err := keypackage.CheckTransportLabel(label); err != nil {
		return fail(err)
	}
	if len(secret) == 0 || len(secret) > keypackage.MaxSecret {
		return fail(fmt.Errorf("a secret of %d bytes: 1 to %d are allowed", len(secret), keypackage.MaxSecret))
	}
	var about []byte
	key, e, err := agreeSoftware(to, func(e []byte) []byte {
		about = keypackage.TransportSecretContext(realm, to.Point(), e, label)
		return about
	})
	if err != nil {
		return fail(err)
	}
	defer clear(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		return fail(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return fail(err)
	}
	sealed := keypackage.Sealed{}
	rand.Read(sealed.Nonce[:]) // never fails; the key is used this once
	sealed.Ciphertext = gcm.Seal(nil, sealed.Nonce[:], secret, keypackage.SealedAAD(about))
	return keypackage.TransportSecret{Realm: realm, Recipient: sha256.Sum256(to.Point()), Point: e, Label: label, Sealed: sealed}.Encode(), nil
}

// Open decrypts, in the token, a secret that was sent to own, a token's transport key, under
// label. The secret is in this process's memory then: the caller clears it. ErrOther: it was
// sent to another key, for another realm or under another label; hsm.ErrData: it was changed.
// What is agreed and derived are session objects, and gone when Open returns.
func Open(ctx context.Context, tok *hsm.Token, own *hsm.Key, realm identity.Realm, label string, blob []byte) (secret []byte, err error) {
	s, err := keypackage.ParseTransportSecret(blob)
	if err != nil {
		return nil, err
	}
	if s.Realm != realm || s.Recipient != sha256.Sum256(own.Public()) || s.Label != label {
		return nil, fmt.Errorf("open what was sent as %q in realm %s: %w", s.Label, s.Realm, ErrOther)
	}
	about := keypackage.TransportSecretContext(realm, own.Public(), s.Point, label)
	key, gone, err := agree(ctx, tok, own, s.Point, about, hsm.TransferOpenKey)
	if err != nil {
		return nil, fmt.Errorf("open what was sent: %w", err)
	}
	defer func() {
		if err = errors.Join(err, gone()); err != nil {
			clear(secret)
			secret = nil
		}
	}()
	if secret, err = key.Open(ctx, s.Sealed.Nonce[:], keypackage.SealedAAD(about), s.Sealed.Ciphertext); err != nil {
		return nil, fmt.Errorf("open what was sent: %w", err)
	}
	return secret, nil
}
