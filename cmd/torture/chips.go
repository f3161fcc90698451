package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sync/errgroup"

	"github.com/devicekeys/devicekeys/device/chip"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/statement"
)

// chipMaker signs delivery lists of software chips.
type chipMaker struct {
	key    *ecdsa.PrivateKey
	public statement.PublicKey
}

func newChipMaker() (*chipMaker, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	public, err := statement.FromECDSA(&key.PublicKey)
	return &chipMaker{key, public}, err
}

func (m *chipMaker) Public() statement.PublicKey { return m.public }

func (m *chipMaker) SignDigest(_ context.Context, digest []byte) ([]byte, error) {
	r, s, err := ecdsa.Sign(rand.Reader, m.key, digest)
	if err != nil {
		return nil, err
	}
	return append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...), nil
}

// make makes devices with software chips of these names in a folder that has none, and
// the delivery list of them, whose path it gives. public is where the maker's key goes.
func (m *chipMaker) make(ctx context.Context, b softwareBench, names []string, public string, progress func(int)) (list string, err error) {
	for _, dir := range []string{filepath.Join(b.dir, "software"), filepath.Dir(public)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return "", err
		}
	}
	if err := os.WriteFile(public, m.public.PEM(), 0o600); err != nil {
		return "", err
	}
	d := keypackage.DeliveryList{Realm: identity.Development, Maker: "Development chips", Lot: filepath.Base(b.dir), Chips: make([]keypackage.DeliveredChip, len(names))}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(4 * runtime.GOMAXPROCS(0)) // each one syncs a file: their waits overlap
	for i, name := range names {
		group.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			c, err := chip.NewSoftware(identity.Development, 32, b.path(name, chipSuffix))
			if err != nil {
				return err
			}
			d.Chips[i] = keypackage.DeliveredChip{Record: c.ID().RecordID(), Attestation: c.Attester().Public()}
			progress(1)
			return errors.Join(makeFlash(b.path(name, flashSuffix)), c.Close(ctx))
		})
	}
	if err := group.Wait(); err != nil {
		return "", err
	}
	raw, err := keypackage.SignDeliveryList(context.WithoutCancel(ctx), m, d)
	if err != nil {
		return "", err
	}
	list = filepath.Join(filepath.Dir(public), "delivery-0001.cbor")
	return list, os.WriteFile(list, raw, 0o600)
}
