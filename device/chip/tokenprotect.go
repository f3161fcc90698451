package chip

import (
	"context"
	"errors"
	"fmt"

	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/keypackage"
)

// derive derives one of the chip's keys for a set of claims.
func (c *Token) derive(ctx context.Context, kind hsm.Kind, use keypackage.ChipKeyUse, claims [32]byte) (*hsm.Key, error) {
	key, err := c.chipKey(ctx)
	if err != nil {
		return nil, err
	}
	return c.token.Derive(ctx, key, hsm.KDF1, keypackage.ChipContext(c.realm, use, claims), hsm.Spec{Kind: kind})
}

// Protect derives the chip wrap key, for wrapping only, and the chip seal key,
// for sealing only.
func (c *Token) Protect(ctx context.Context, claims [32]byte) (Protection, error) {
	wrap, err := c.derive(ctx, hsm.ChipWrapKey, keypackage.ChipWrap, claims)
	if err != nil {
		return nil, err
	}
	seal, err := c.derive(ctx, hsm.ChipSealKey, keypackage.ChipSeal, claims)
	if err != nil {
		return nil, errors.Join(err, destroy(ctx, wrap))
	}
	return &tokenProtection{chip: c, wrap: wrap, seal: seal, claims: claims}, nil
}

type tokenProtection struct {
	chip       *Token
	wrap, seal *hsm.Key // nil once closed
	sealed     bool
	claims     [32]byte
}

func (p *tokenProtection) Wrap(ctx context.Context, k Key) ([]byte, error) {
	key, ok := k.(*tokenKey)
	if !ok || key.place != inbound || p.wrap == nil {
		return nil, fmt.Errorf("wrap key: a key from a transfer of this chip is needed, and an open protection: %w", ErrUsed)
	}
	return p.chip.token.Wrap(ctx, p.wrap, key.key)
}

func (p *tokenProtection) Seal(ctx context.Context, contents []byte) (keypackage.Sealed, error) {
	var s keypackage.Sealed
	if p.seal == nil || p.sealed {
		return s, fmt.Errorf("seal backup: chip seal key %w", ErrUsed)
	}
	p.sealed = true
	nonce, ciphertext, err := p.seal.Seal(ctx, keypackage.SealedAAD(keypackage.BackupAAD(p.claims)), contents)
	if err != nil {
		return s, err
	}
	if copy(s.Nonce[:], nonce) != len(nonce) || len(nonce) != len(s.Nonce) {
		return s, fmt.Errorf("seal backup: the token drew a nonce of %d bytes", len(nonce))
	}
	s.Ciphertext = ciphertext
	return s, nil
}

func (p *tokenProtection) Close(ctx context.Context) error {
	wrap, seal := p.wrap, p.seal
	p.wrap, p.seal = nil, nil
	return destroy(ctx, wrap, seal)
}

// Recover derives the same keys again, for opening and for unwrapping into
// what never leaves.
func (c *Token) Recover(ctx context.Context, claims [32]byte) (Recovery, error) {
	seal, err := c.derive(ctx, hsm.ChipOpenKey, keypackage.ChipSeal, claims)
	if err != nil {
		return nil, err
	}
	return &tokenRecovery{chip: c, seal: seal, claims: claims}, nil
}

type tokenRecovery struct {
	chip   *Token
	seal   *hsm.Key // nil once closed
	wrap   *hsm.Key // derived when the first key is unwrapped: not for what doesn't open
	claims [32]byte
}

func (r *tokenRecovery) Open(ctx context.Context, s keypackage.Sealed) ([]byte, error) {
	return open(ctx, r.seal, s, keypackage.BackupAAD(r.claims))
}

func (r *tokenRecovery) Unwrap(ctx context.Context, m keypackage.Manifest, index int, blob []byte) (Key, error) {
	if r.seal == nil {
		return nil, fmt.Errorf("unwrap key: recovery %w", ErrUsed)
	}
	if r.wrap == nil {
		wrap, err := r.chip.derive(ctx, hsm.ChipBootUnwrapKey, keypackage.ChipWrap, r.claims)
		if err != nil {
			return nil, err
		}
		r.wrap = wrap
	}
	return r.chip.unwrap(ctx, r.wrap, m, index, blob, resident)
}

func (r *tokenRecovery) Close(ctx context.Context) error {
	seal, wrap := r.seal, r.wrap
	r.seal, r.wrap = nil, nil
	return destroy(ctx, seal, wrap)
}
