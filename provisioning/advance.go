package provisioning

import (
	"context"
	"errors"
	"fmt"
	"math/big"

	"golang.org/x/sync/errgroup"

	"github.com/devicekeys/devicekeys/devicecert"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning/pool"
	"github.com/devicekeys/devicekeys/provisioning/profile"
	"github.com/devicekeys/devicekeys/statement"
)

// KeyPool is what making keys in advance asks of the identity pool.
type KeyPool interface {
	// Keyless lists identities, free or reserved, that lack keys.
	Keyless(ctx context.Context, line string, entries []string, above string, limit int) ([]pool.Keyless, error)
	// AddKeys keeps keys; those that are there stay.
	AddKeys(ctx context.Context, keys []pool.Key) (int64, error)
}

// Advance makes keys before their devices come, so that assembly makes none: for
// each identity of a product line and each of its entries of source pool one key,
// and its certificate where the profile asks for one, or, of algorithm none, one secret
// that the HSM draws. What it makes lies in the
// pool as an imported key does. Several may run at once; of two keys for one
// entry the first stays.
type Advance struct {
	Realm    identity.Realm
	Profile  profile.Profile
	Keys     Keys
	DeviceCA Certifier // nil where the profile has no certificates
	Pool     KeyPool
	Workers  int // keys made at once, from 1
	// Order commits the operator's order to the records and the audit log, for a
	// page: how many keys, and the first and last identity. Nil: there is none, as
	// in an import, which has one for the whole file.
	// Secrets are counted as keys.
	Order func(ctx context.Context, keys int, first, last identity.Identity) error
	// License commits the audit entries for a page's certificates, which name
	// their serial numbers (audit.Certifications); first and last are of the page's
	// identities.
	License func(ctx context.Context, serials []*big.Int, first, last identity.Identity) error
	// Progress is told how many identities have their keys now; may be nil.
	Progress func(identities int)
}

// advancePage is how many identities get their keys between two commits: a
// second's work, which is what a crash loses.
const advancePage = 64

// ErrNothingInAdvance says that a profile has no entry of source pool, ErrSecret that a
// secret from outside is not what the profile says.
var (
	ErrNothingInAdvance = errors.New("no entry of the profile has source pool")
	ErrSecret           = errors.New("the secret is not what the profile says")
)

// Run makes the keys of up to limit identities (0: all), in the order of their
// values, and tells how many identities and keys that were. A crash keeps what
// was committed, page by page; running it again goes on from there.
func (a Advance) Run(ctx context.Context, limit int) (identities int, keys int64, err error) {
	entries := map[string]profile.Entry{}
	var names []string
	for _, e := range a.Profile.Entries {
		if e.Source == profile.Pool {
			entries[e.Name] = e
			names = append(names, e.Name)
		}
	}
	if len(names) == 0 {
		return 0, 0, fmt.Errorf("make keys in advance for product line %q: %w", a.Profile.Name, ErrNothingInAdvance)
	}
	above := ""
	for limit == 0 || identities < limit {
		n := advancePage
		if limit != 0 {
			n = min(n, limit-identities)
		}
		page, err := a.Pool.Keyless(ctx, a.Profile.Name, names, above, n)
		if err != nil || len(page) == 0 {
			return identities, keys, err
		}
		added, err := a.page(ctx, page, entries)
		keys += added
		if err != nil {
			return identities, keys, err
		}
		identities += len(page)
		above = page[len(page)-1].Identity.Value()
		if a.Progress != nil {
			a.Progress(len(page))
		}
	}
	return identities, keys, nil
}

// page makes the keys of a few identities, after the entries in the audit log that
// license their certificates.
func (a Advance) page(ctx context.Context, page []pool.Keyless, entries map[string]profile.Entry) (int64, error) {
	var made []pool.Key
	var batches []int64
	var serials, licensed []*big.Int // of each key, nil where it gets no certificate
	for _, k := range page {
		for _, name := range k.Missing {
			var serial *big.Int
			if entries[name].Certificate {
				var err error
				if serial, err = devicecert.NewSerial(); err != nil {
					return 0, err
				}
				licensed = append(licensed, serial)
			}
			made = append(made, pool.Key{Identity: k.Identity, Entry: name})
			batches, serials = append(batches, k.Batch), append(serials, serial)
		}
	}
	// A crash after either leaves an order, or licences, that nobody used.
	if a.Order != nil {
		if err := a.Order(ctx, len(made), page[0].Identity, page[len(page)-1].Identity); err != nil {
			return 0, err
		}
	}
	if len(licensed) > 0 {
		if err := a.License(ctx, licensed, page[0].Identity, page[len(page)-1].Identity); err != nil {
			return 0, err
		}
	}
	group, work := errgroup.WithContext(ctx)
	group.SetLimit(max(a.Workers, 1))
	for i := range made {
		group.Go(func() (err error) {
			made[i], err = a.make(work, batches[i], made[i].Identity, entries[made[i].Entry], serials[i])
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return 0, err
	}
	return a.Pool.AddKeys(ctx, made)
}

// make makes the key, or draws the secret, that an entry waits for.
func (a Advance) make(ctx context.Context, batch int64, id identity.Identity, e profile.Entry, serial *big.Int) (pool.Key, error) {
	fail := func(err error) (pool.Key, error) {
		return pool.Key{}, fmt.Errorf("fill entry %q of %s: %w", e.Name, id, err)
	}
	if e.WaitingKey() {
		w, err := a.Keys.Make(ctx, e.Algorithm)
		if err != nil {
			return fail(err)
		}
		return a.Seal(ctx, batch, id, e, w, serial)
	}
	random := randomOf(a.Keys)
	drawn, err := random(ctx, drawnBytes(e))
	if err != nil {
		return fail(err)
	}
	s, err := drawSecret(ctx, random, e, drawn)
	if err != nil {
		return fail(err)
	}
	return a.sealSecret(ctx, batch, id, e, s)
}

// SealSecret seals a secret that is no key, and came from outside, to identity and entry:
// as the pool keeps it. It refuses one that the profile wouldn't have. The random bytes
// of its commitment are the HSM's. The value is cleared, also where it fails.
func (a Advance) SealSecret(ctx context.Context, batch int64, id identity.Identity, e profile.Entry, value []byte) (pool.Key, error) {
	defer clear(value)
	if !e.WaitingSecret() {
		return pool.Key{}, fmt.Errorf("secret of %s: the profile's entry %q is none that waits: a fault in the caller", id, e.Name)
	}
	if err := e.CheckSecret(value); err != nil {
		return pool.Key{}, fmt.Errorf("%w: %w", ErrSecret, err)
	}
	random, err := randomOf(a.Keys)(ctx, commitmentBytes)
	if err != nil {
		return pool.Key{}, fmt.Errorf("draw a commitment: %w", err)
	}
	return a.sealSecret(ctx, batch, id, e, keypackage.Secret{Random: random, Value: value})
}

// sealSecret seals and wipes a secret.
func (a Advance) sealSecret(ctx context.Context, batch int64, id identity.Identity, e profile.Entry, s keypackage.Secret) (pool.Key, error) {
	defer wipe(secretsByEntry{e.Name: s})
	sealed, err := sealTo(ctx, a.Keys, a.Realm, batch, id, e.Name, s)
	return pool.Key{Identity: id, Entry: e.Name, Sealed: sealed}, err
}

// Seal certifies a waiting key, where its entry asks for that and no certificate
// came with it, and seals it to identity and entry: as the pool keeps it. The
// certificate's serial number is one that an audit entry licensed; nil where there
// will be no certificate.
func (a Advance) Seal(ctx context.Context, batch int64, id identity.Identity, e profile.Entry, w keypackage.WaitingKey, serial *big.Int) (pool.Key, error) {
	fail := func(err error) (pool.Key, error) {
		return pool.Key{}, fmt.Errorf("key of %s, entry %q: %w", id, e.Name, err)
	}
	if e.Certificate && len(w.X509) == 0 {
		if serial == nil {
			return fail(errors.New("no serial number was licensed for its certificate"))
		}
		public, err := statement.ParsePoint(w.Public)
		if err != nil {
			return fail(err)
		}
		r := devicecert.Request{Realm: a.Realm, Use: w.Algorithm.Use(), Public: public, ProductLine: a.Profile.Name, Serial: serial}
		if a.Profile.IdentityInCertificates {
			r.Identity = id
		}
		if w.X509, err = a.DeviceCA.Certify(ctx, r); err != nil {
			return fail(err)
		}
	}
	sealed, err := SealWaiting(ctx, a.Keys, a.Realm, batch, id, e.Name, w)
	if err != nil {
		return fail(err)
	}
	key := pool.Key{Identity: id, Entry: e.Name, Sealed: sealed}
	if w.Algorithm.Pair() {
		point := w.PointHash()
		key.Point = point[:]
	}
	return key, nil
}
