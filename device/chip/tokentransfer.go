package chip

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/statement"
)

// Exchange makes a fresh pair as session objects.
func (c *Token) Exchange(ctx context.Context) (Exchange, error) {
	k, err := c.token.Generate(ctx, hsm.Spec{Kind: hsm.EphemeralKey})
	if err != nil {
		return nil, fmt.Errorf("make ephemeral pair: %w", err)
	}
	point, err := statement.ParsePoint(k.Public())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make ephemeral pair: %w", err), k.Destroy(ctx))
	}
	return &tokenExchange{chip: c, point: point, key: k}, nil
}

type tokenExchange struct {
	chip  *Token
	point statement.PublicKey

	mu  sync.Mutex
	key *hsm.Key // nil once used
}

func (x *tokenExchange) Point() statement.PublicKey { return x.point }

func (x *tokenExchange) take() *hsm.Key {
	x.mu.Lock()
	defer x.mu.Unlock()
	k := x.key
	x.key = nil
	return k
}

func (x *tokenExchange) Agree(ctx context.Context, peer statement.PublicKey, suite keypackage.Suite, transcript [32]byte, secrets bool) (_ Transfer, err error) {
	key := x.take()
	if key == nil {
		return nil, fmt.Errorf("agree with the SPP: pair %w", ErrUsed)
	}
	if peer == x.point {
		return nil, errors.Join(fmt.Errorf("agree with the SPP: %w", ErrPoint), destroy(ctx, key))
	}
	t := x.chip.token
	agreed, err := t.Agree(ctx, key, peer.Point(), hsm.Spec{Kind: hsm.AgreedKey})
	// The pair has served, also where it failed.
	if err = errors.Join(err, destroy(ctx, key)); err != nil {
		return nil, errors.Join(fmt.Errorf("agree with the SPP: %w", err), destroy(ctx, agreed))
	}
	transfer := &tokenTransfer{chip: x.chip}
	defer func() {
		// The agreed secret has served once the transfer's keys are derived.
		if e := destroy(ctx, agreed); err != nil || e != nil {
			err = errors.Join(err, e, transfer.Close(ctx))
		}
	}()
	transfer.kek, err = t.Derive(ctx, agreed, hsm.KDF1, keypackage.TransferContext(suite, keypackage.TransferKEK, transcript), hsm.Spec{Kind: hsm.TransferUnwrapKey})
	if err != nil {
		return nil, err
	}
	if secrets {
		transfer.pkg, err = t.Derive(ctx, agreed, hsm.KDF1, keypackage.TransferContext(suite, keypackage.TransferPackage, transcript), hsm.Spec{Kind: hsm.TransferOpenKey})
		if err != nil {
			return nil, err
		}
	}
	return transfer, nil
}

func (x *tokenExchange) Close(ctx context.Context) error { return destroy(ctx, x.take()) }

// destroy ends session keys; nil and dead ones are fine.
func destroy(ctx context.Context, keys ...*hsm.Key) error {
	var errs []error
	for _, k := range keys {
		if k == nil {
			continue
		}
		if err := k.Destroy(context.WithoutCancel(ctx)); err != nil && !errors.Is(err, hsm.ErrKeyGone) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

type tokenTransfer struct {
	chip     *Token
	kek, pkg *hsm.Key
}

func (t *tokenTransfer) Unwrap(ctx context.Context, m keypackage.Manifest, index int, blob []byte) (Key, error) {
	return t.chip.unwrap(ctx, t.kek, m, index, blob, inbound)
}

func (t *tokenTransfer) Open(ctx context.Context, transcript [32]byte, s keypackage.Sealed) ([]byte, error) {
	return open(ctx, t.pkg, s, keypackage.PackageAAD(transcript))
}

func (t *tokenTransfer) Close(ctx context.Context) error {
	kek, pkg := t.kek, t.pkg
	t.kek, t.pkg = nil, nil
	return destroy(ctx, kek, pkg)
}

// open decrypts what stands in a package.
func open(ctx context.Context, key *hsm.Key, s keypackage.Sealed, external []byte) ([]byte, error) {
	if key == nil {
		return nil, fmt.Errorf("open: key %w", ErrUsed)
	}
	b, err := key.Open(ctx, s.Nonce[:], keypackage.SealedAAD(external), s.Ciphertext)
	if errors.Is(err, hsm.ErrData) {
		return nil, fmt.Errorf("open: %w", ErrData)
	}
	return b, err
}
