package chip

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/rand"
	"fmt"
	"sync"

	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/statement"
)

// Exchange makes a fresh pair.
func (c *Software) Exchange(context.Context) (Exchange, error) {
	private, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make ephemeral pair: %w", err)
	}
	point, err := statement.ParsePoint(private.PublicKey().Bytes())
	if err != nil {
		return nil, fmt.Errorf("make ephemeral pair: %w", err)
	}
	return &softwareExchange{private: private, point: point}, nil
}

type softwareExchange struct {
	point statement.PublicKey

	mu      sync.Mutex
	private *ecdh.PrivateKey // nil once used
}

func (x *softwareExchange) Point() statement.PublicKey { return x.point }

func (x *softwareExchange) take() *ecdh.PrivateKey {
	x.mu.Lock()
	defer x.mu.Unlock()
	k := x.private
	x.private = nil
	return k
}

func (x *softwareExchange) Agree(_ context.Context, peer statement.PublicKey, suite keypackage.Suite, transcript [32]byte, secrets bool) (Transfer, error) {
	private := x.take()
	if private == nil {
		return nil, fmt.Errorf("agree with the SPP: pair %w", ErrUsed)
	}
	if peer == x.point {
		return nil, fmt.Errorf("agree with the SPP: %w", ErrPoint)
	}
	public, err := ecdh.P256().NewPublicKey(peer.Point())
	if err != nil {
		return nil, fmt.Errorf("agree with the SPP: %w", err)
	}
	agreed, err := private.ECDH(public)
	if err != nil {
		return nil, fmt.Errorf("agree with the SPP: %w", err)
	}
	t := &softwareTransfer{}
	if t.kek, err = derive(agreed, keypackage.TransferContext(suite, keypackage.TransferKEK, transcript)); err != nil {
		return nil, err
	}
	if secrets {
		if t.pkg, err = derive(agreed, keypackage.TransferContext(suite, keypackage.TransferPackage, transcript)); err != nil {
			return nil, err
		}
	}
	return t, nil
}

func (x *softwareExchange) Close(context.Context) error {
	x.take()
	return nil
}

type softwareTransfer struct{ kek, pkg []byte }

func (t *softwareTransfer) Unwrap(_ context.Context, m keypackage.Manifest, index int, blob []byte) (Key, error) {
	if t.kek == nil {
		return nil, fmt.Errorf("unwrap key: transfer %w", ErrUsed)
	}
	return unwrapSoftware(t.kek, m, index, blob, true)
}

func (t *softwareTransfer) Open(_ context.Context, transcript [32]byte, s keypackage.Sealed) ([]byte, error) {
	if t.pkg == nil {
		return nil, fmt.Errorf("open secrets: transfer %w", ErrUsed)
	}
	return openSoftware(t.pkg, s, keypackage.PackageAAD(transcript))
}

func (t *softwareTransfer) Close(context.Context) error {
	t.kek, t.pkg = nil, nil
	return nil
}

// Protect derives the chip wrap key and the chip seal key.
func (c *Software) Protect(_ context.Context, claims [32]byte) (Protection, error) {
	wrap, seal, err := c.chipKeys(claims)
	if err != nil {
		return nil, err
	}
	return &softwareProtection{wrap: wrap, seal: seal, claims: claims}, nil
}

// Recover derives the same keys, for the other direction.
func (c *Software) Recover(_ context.Context, claims [32]byte) (Recovery, error) {
	wrap, seal, err := c.chipKeys(claims)
	if err != nil {
		return nil, err
	}
	return &softwareRecovery{wrap: wrap, seal: seal, claims: claims}, nil
}

func (c *Software) chipKeys(claims [32]byte) (wrap, seal []byte, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if wrap, err = derive(c.state.ChipKey, keypackage.ChipContext(c.state.Realm, keypackage.ChipWrap, claims)); err != nil {
		return nil, nil, err
	}
	seal, err = derive(c.state.ChipKey, keypackage.ChipContext(c.state.Realm, keypackage.ChipSeal, claims))
	return wrap, seal, err
}

type softwareProtection struct {
	wrap, seal []byte // nil once closed; seal nil once used
	claims     [32]byte
}

func (p *softwareProtection) Wrap(_ context.Context, k Key) ([]byte, error) {
	key, ok := k.(*softwareKey)
	if !ok || !key.inbound || p.wrap == nil {
		return nil, fmt.Errorf("wrap key: a key from a transfer of this chip is needed, and an open protection: %w", ErrUsed)
	}
	value, err := key.take()
	if err != nil {
		return nil, fmt.Errorf("wrap key: %w", err)
	}
	return wrapKey(p.wrap, value)
}

func (p *softwareProtection) Seal(_ context.Context, contents []byte) (keypackage.Sealed, error) {
	if p.seal == nil {
		return keypackage.Sealed{}, fmt.Errorf("seal backup: chip seal key %w", ErrUsed)
	}
	aead, err := newGCM(p.seal)
	if err != nil {
		return keypackage.Sealed{}, err
	}
	p.seal = nil
	var s keypackage.Sealed
	rand.Read(s.Nonce[:]) // never fails: see crypto/rand
	s.Ciphertext = aead.Seal(nil, s.Nonce[:], contents, keypackage.SealedAAD(keypackage.BackupAAD(p.claims)))
	return s, nil
}

func (p *softwareProtection) Close(context.Context) error {
	p.wrap, p.seal = nil, nil
	return nil
}

type softwareRecovery struct {
	wrap, seal []byte // nil once closed
	claims     [32]byte
}

func (r *softwareRecovery) Open(_ context.Context, s keypackage.Sealed) ([]byte, error) {
	if r.seal == nil {
		return nil, fmt.Errorf("open backup: recovery %w", ErrUsed)
	}
	return openSoftware(r.seal, s, keypackage.BackupAAD(r.claims))
}

func (r *softwareRecovery) Unwrap(_ context.Context, m keypackage.Manifest, index int, blob []byte) (Key, error) {
	if r.wrap == nil {
		return nil, fmt.Errorf("unwrap key: recovery %w", ErrUsed)
	}
	return unwrapSoftware(r.wrap, m, index, blob, false)
}

func (r *softwareRecovery) Close(context.Context) error {
	r.wrap, r.seal = nil, nil
	return nil
}

func newGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("AES-GCM: %w", err)
	}
	return cipher.NewGCM(block)
}

func openSoftware(key []byte, s keypackage.Sealed, external []byte) ([]byte, error) {
	aead, err := newGCM(key)
	if err != nil {
		return nil, err
	}
	b, err := aead.Open(nil, s.Nonce[:], s.Ciphertext, keypackage.SealedAAD(external))
	if err != nil {
		return nil, fmt.Errorf("open: %w", ErrData)
	}
	return b, nil
}
