package chip

import (
	"context"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"sync"

	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/statement"
)

// softwareKey is a key of a package in a software chip.
type softwareKey struct {
	algorithm keypackage.Algorithm
	inbound   bool // may be wrapped once more

	mu      sync.Mutex
	value   []byte            // nil once destroyed
	private *ecdsa.PrivateKey // of a pair
}

// unwrapSoftware unwraps by the manifest's entry and checks against it.
func unwrapSoftware(kek []byte, m keypackage.Manifest, index int, blob []byte, inbound bool) (Key, error) {
	e, err := wrappedEntry(m, index, blob)
	if err != nil {
		return nil, err
	}
	value, err := unwrapKey(kek, blob)
	if err != nil {
		return nil, fmt.Errorf("key %q: %w", e.Key.Name, err)
	}
	k := &softwareKey{algorithm: e.Algorithm, inbound: inbound, value: value}
	if e.Form() == keypackage.FormPair {
		if k.private, err = parsePrivate(value); err != nil {
			return nil, fmt.Errorf("key %q: %w", e.Key.Name, err)
		}
		public, err := statement.FromECDSA(&k.private.PublicKey)
		if err != nil || string(public.Point()) != string(e.Vouch) {
			return nil, fmt.Errorf("key %q: %w", e.Key.Name, ErrVouch)
		}
		return k, nil
	}
	if !hmac.Equal(mac(value, keypackage.CheckMessage(m, e.Key)), e.Vouch) {
		return nil, fmt.Errorf("key %q: %w", e.Key.Name, ErrVouch)
	}
	return k, nil
}

// wrappedEntry gives the entry whose key a blob should be, by the manifest.
func wrappedEntry(m keypackage.Manifest, index int, blob []byte) (keypackage.Entry, error) {
	if index < 0 || index >= len(m.Entries) {
		return keypackage.Entry{}, fmt.Errorf("unwrap key: the manifest has no entry %d", index+1)
	}
	e := m.Entries[index]
	if e.WrappedSize() == 0 || len(blob) != e.WrappedSize() {
		return e, fmt.Errorf("key %q: wrapped in %d bytes, the manifest says %d: %w", e.Key.Name, len(blob), e.WrappedSize(), ErrData)
	}
	return e, nil
}

func mac(key, msg []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write(msg)
	return h.Sum(nil)
}

func (k *softwareKey) take() ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.value == nil {
		return nil, fmt.Errorf("key %w", ErrUsed)
	}
	return k.value, nil
}

func (k *softwareKey) hmacKey() ([]byte, error) {
	if k.algorithm.Use() != keypackage.UseMAC {
		return nil, fmt.Errorf("MAC with a key of %s: %w", k.algorithm, ErrAlgorithm)
	}
	return k.take()
}

// MAC gives HMAC-SHA-256.
func (k *softwareKey) MAC(_ context.Context, msg []byte) ([]byte, error) {
	value, err := k.hmacKey()
	if err != nil {
		return nil, err
	}
	return mac(value, msg), nil
}

// Verify checks an HMAC-SHA-256.
func (k *softwareKey) Verify(_ context.Context, msg, m []byte) error {
	value, err := k.hmacKey()
	if err != nil {
		return err
	}
	if !hmac.Equal(mac(value, msg), m) {
		return fmt.Errorf("verify MAC: %w", statement.ErrSignature)
	}
	return nil
}

// Sign signs a digest.
func (k *softwareKey) Sign(_ context.Context, digest []byte) ([]byte, error) {
	if k.algorithm.Use() != keypackage.UseSignature {
		return nil, fmt.Errorf("sign with a key of %s: %w", k.algorithm, ErrAlgorithm)
	}
	if _, err := k.take(); err != nil {
		return nil, err
	}
	return signRaw(k.private, digest)
}

// Agree gives the result of ECDH.
func (k *softwareKey) Agree(_ context.Context, peer []byte) ([]byte, error) {
	if k.algorithm.Use() != keypackage.UseAgreement || k.inbound {
		return nil, fmt.Errorf("agree with a key of %s: %w", k.algorithm, ErrAlgorithm)
	}
	if _, err := k.take(); err != nil {
		return nil, err
	}
	own, err := k.private.ECDH()
	if err != nil {
		return nil, fmt.Errorf("agree: %w", err)
	}
	public, err := ecdh.P256().NewPublicKey(peer)
	if err != nil || public.Equal(own.PublicKey()) {
		return nil, fmt.Errorf("agree: %w", ErrPoint)
	}
	return own.ECDH(public)
}

// Destroy forgets the key.
func (k *softwareKey) Destroy(context.Context) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.value = nil
	return nil
}
