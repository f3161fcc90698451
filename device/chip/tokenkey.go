package chip

import (
	"bytes"
	"context"
	"crypto/hmac"
	"errors"
	"fmt"

	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/statement"
)

// place is on which side of a chip a key of a package is: on its way in, where
// it may be wrapped once more, or at home, where it never leaves.
type place int

const (
	inbound place = iota
	resident
)

// kinds gives the template of a key by its manifest entry and its place; the
// blob has no say.
var kinds = map[keypackage.Use][2]hsm.Kind{
	keypackage.UseMAC:       {inbound: hsm.InboundKey, resident: hsm.ResidentKey},
	keypackage.UseCipher:    {inbound: hsm.InboundCipherKey, resident: hsm.ResidentCipherKey},
	keypackage.UseSignature: {inbound: hsm.InboundSigningKey, resident: hsm.ResidentSigningKey},
	keypackage.UseAgreement: {inbound: hsm.InboundAgreementKey, resident: hsm.ResidentAgreementKey},
}

// tokenKey is a key of a package in a token.
type tokenKey struct {
	algorithm keypackage.Algorithm
	place     place
	key       *hsm.Key
	public    []byte // of a pair
}

// unwrap unwraps the key of an entry and checks it against what vouches for it.
func (c *Token) unwrap(ctx context.Context, kek *hsm.Key, m keypackage.Manifest, index int, blob []byte, at place) (Key, error) {
	e, err := wrappedEntry(m, index, blob)
	if err != nil {
		return nil, err
	}
	kind, ok := kinds[e.Algorithm.Use()]
	if !ok {
		return nil, fmt.Errorf("key %q is for %s: %w", e.Key.Name, e.Algorithm, ErrAlgorithm)
	}
	if kek == nil {
		return nil, fmt.Errorf("unwrap key %q: unwrapping key %w", e.Key.Name, ErrUsed)
	}
	key, err := c.unwrapAs(ctx, kek, blob, kind[at])
	if err != nil {
		return nil, fmt.Errorf("key %q: %w", e.Key.Name, err)
	}
	if err := c.check(ctx, kek, key, m, e, blob); err != nil {
		return nil, errors.Join(fmt.Errorf("key %q: %w", e.Key.Name, err), destroy(ctx, key))
	}
	k := &tokenKey{algorithm: e.Algorithm, place: at, key: key}
	if e.Algorithm.Pair() {
		k.public = e.Vouch
	}
	return k, nil
}

func (c *Token) unwrapAs(ctx context.Context, kek *hsm.Key, blob []byte, kind hsm.Kind) (*hsm.Key, error) {
	key, err := c.token.Unwrap(ctx, kek, blob, hsm.Spec{Kind: kind})
	if errors.Is(err, hsm.ErrData) {
		return nil, ErrData
	}
	return key, err
}

// check compares a key with what vouches for it, inside the token: ErrVouch.
func (c *Token) check(ctx context.Context, kek, key *hsm.Key, m keypackage.Manifest, e keypackage.Entry, blob []byte) error {
	switch e.Algorithm.Use() {
	case keypackage.UseMAC:
		if err := key.Verify(ctx, keypackage.CheckMessage(m, e.Key), e.Vouch); errors.Is(err, hsm.ErrMAC) {
			return ErrVouch
		} else if err != nil {
			return err
		}
		return nil
	case keypackage.UseCipher:
		// A key of AES type cannot MAC: it is unwrapped once more, as what can.
		twin, err := c.unwrapAs(ctx, kek, blob, hsm.CheckKey)
		if err != nil {
			return err
		}
		mac, err := twin.MAC(ctx, keypackage.CheckMessage(m, e.Key))
		if err := errors.Join(err, destroy(ctx, twin)); err != nil {
			return err
		}
		// A check value is public: comparing it here gives nothing away.
		if !hmac.Equal(mac, e.Vouch) {
			return ErrVouch
		}
		return nil
	case keypackage.UseSignature, keypackage.UseAgreement:
		if err := key.Matches(ctx, e.Vouch); errors.Is(err, hsm.ErrData) {
			return ErrVouch
		} else if err != nil {
			return err
		}
		return nil
	}
	return ErrAlgorithm
}

func (k *tokenKey) hmacKey() error {
	if k.algorithm.Use() != keypackage.UseMAC {
		return fmt.Errorf("MAC with a key of %s: %w", k.algorithm, ErrAlgorithm)
	}
	return nil
}

// MAC gives HMAC-SHA-256.
func (k *tokenKey) MAC(ctx context.Context, msg []byte) ([]byte, error) {
	if err := k.hmacKey(); err != nil {
		return nil, err
	}
	b, err := k.key.MAC(ctx, msg)
	return b, gone(err)
}

// Verify checks an HMAC-SHA-256 inside the token.
func (k *tokenKey) Verify(ctx context.Context, msg, mac []byte) error {
	if err := k.hmacKey(); err != nil {
		return err
	}
	err := k.key.Verify(ctx, msg, mac)
	if errors.Is(err, hsm.ErrMAC) {
		return fmt.Errorf("verify MAC: %w", statement.ErrSignature)
	}
	return gone(err)
}

// Sign signs a digest.
func (k *tokenKey) Sign(ctx context.Context, digest []byte) ([]byte, error) {
	if k.algorithm.Use() != keypackage.UseSignature {
		return nil, fmt.Errorf("sign with a key of %s: %w", k.algorithm, ErrAlgorithm)
	}
	b, err := k.key.Sign(ctx, digest)
	return b, gone(err)
}

// Agree gives the result of ECDH.
func (k *tokenKey) Agree(ctx context.Context, peer []byte) ([]byte, error) {
	if k.algorithm.Use() != keypackage.UseAgreement || k.place != resident {
		return nil, fmt.Errorf("agree with a key of %s: %w", k.algorithm, ErrAlgorithm)
	}
	if bytes.Equal(peer, k.public) {
		return nil, fmt.Errorf("agree: %w", ErrPoint)
	}
	secret, err := k.key.SharedSecret(ctx, peer)
	if errors.Is(err, hsm.ErrData) {
		return nil, fmt.Errorf("agree: %w", ErrPoint)
	}
	return secret, gone(err)
}

// Destroy destroys the key.
func (k *tokenKey) Destroy(ctx context.Context) error { return destroy(ctx, k.key) }

// gone says ErrUsed of a key that is no longer there.
func gone(err error) error {
	if errors.Is(err, hsm.ErrKeyGone) {
		return fmt.Errorf("key %w: %w", ErrUsed, err)
	}
	return err
}
