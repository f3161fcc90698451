package main

import (
	"context"
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

// makeChips makes devices with software chips of these names in a folder that has none, and
// the delivery list of them, whose path it gives, signed by a new chip maker's key. public is
// where its public half goes.
func makeChips(ctx context.Context, b softwareBench, names []string, public string, progress func(int)) (list string, err error) {
	maker, err := statement.GenerateSoftwareKey()
	if err != nil {
		return "", err
	}
	for _, dir := range []string{filepath.Join(b.dir, "software"), filepath.Dir(public)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return "", err
		}
	}
	if err := os.WriteFile(public, maker.Public().PEM(), 0o600); err != nil {
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
	raw, err := keypackage.SignDeliveryList(context.WithoutCancel(ctx), maker, d)
	if err != nil {
		return "", err
	}
	list = filepath.Join(filepath.Dir(public), "delivery-0001.cbor")
	return list, os.WriteFile(list, raw, 0o600)
}
