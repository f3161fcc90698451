package provisioning

import (
	"context"
	"fmt"
	"math/big"

	"github.com/devicekeys/devicekeys/devicecert"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning/pool"
	"github.com/devicekeys/devicekeys/provisioning/profile"
)

// Importer brings into the HSM what was sent to its transport key, under a label.
type Importer interface {
	// Import gives a device's key as it waits; of a pair, public is its point.
	Import(ctx context.Context, alg keypackage.Algorithm, public []byte, label string, blob []byte) (keypackage.WaitingKey, error)
	// ImportSecret gives a secret that is no key, in clear.
	ImportSecret(ctx context.Context, label string, blob []byte) ([]byte, error)
}

// Outside is a key, or a secret that is none, that came from outside for an identity
// that waits.
type Outside struct {
	Identity identity.Identity
	Batch    int64         // the identity's
	Entry    profile.Entry // of source imported
	Public   []byte        // of a pair, its point
	Blob     []byte        // keypackage.TransportBlob, or TransportSecret, in its encoding
}

// OutsideError says which of the keys of a page could not be taken.
type OutsideError struct {
	At  int // in the page, from 0
	Err error
}

func (e *OutsideError) Error() string { return e.Err.Error() }
func (e *OutsideError) Unwrap() error { return e.Err }

// Take brings a page of keys from outside into the HSM, certifies those of which the
// profile asks it, after the entries in the audit log that license that, seals all and
// keeps them in the pool; it tells how many are new. A crash leaves licences that nobody
// used, or the whole page. What can't be taken matches *OutsideError, and then none of
// the page is kept.
func (a Advance) Take(ctx context.Context, from Importer, page []Outside) (int64, error) {
	var serials, licensed []*big.Int // of each key, nil where it gets no certificate
	for _, o := range page {
		var serial *big.Int
		if o.Entry.Certificate {
			var err error
			if serial, err = devicecert.NewSerial(); err != nil {
				return 0, err
			}
			licensed = append(licensed, serial)
		}
		serials = append(serials, serial)
	}
	if len(licensed) > 0 {
		if err := a.License(ctx, licensed, page[0].Identity, page[len(page)-1].Identity); err != nil {
			return 0, err
		}
	}
	var all []pool.Key
	for i, o := range page {
		key, err := a.take(ctx, from, o, serials[i])
		if err != nil {
			return 0, &OutsideError{i, err}
		}
		all = append(all, key)
	}
	return a.Pool.AddKeys(ctx, all)
}

func (a Advance) take(ctx context.Context, from Importer, o Outside, serial *big.Int) (pool.Key, error) {
	fail := func(err error) (pool.Key, error) {
		return pool.Key{}, fmt.Errorf("the key of %s, entry %q: %w", o.Identity, o.Entry.Name, err)
	}
	if !o.Entry.WaitingSecret() {
		key, err := from.Import(ctx, o.Entry.Algorithm, o.Public, keypackage.DeviceKeyLabel(o.Identity, o.Entry.Name), o.Blob)
		if err != nil {
			return fail(err)
		}
		return a.Seal(ctx, o.Batch, o.Identity, o.Entry, key, serial)
	}
	secret, err := from.ImportSecret(ctx, keypackage.DeviceSecretLabel(o.Identity, o.Entry.Name), o.Blob)
	if err != nil {
		return fail(err)
	}
	key, err := a.SealSecret(ctx, o.Batch, o.Identity, o.Entry, secret)
	if err != nil {
		return fail(err)
	}
	return key, nil
}
