package provisioning

import (
	"context"
	"crypto/sha256"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning/profile"
)

// claim makes manifest and claims. All that they are made of is in the reserved
// row, issue time and secrets included: whoever makes them again, after a crash
// or with a new hello, makes the same bytes. They are kept with the package.
func (b *beginning) claim(ctx context.Context, keys *deviceKeys) error {
	d := &b.device
	m := keypackage.Manifest{Realm: b.realm, Identity: d.Identity, ChipID: d.ChipID, Generation: d.Generation}
	used := 0
	for _, e := range b.profile.Entries {
		entry := keypackage.Entry{Kind: e.Kind, Key: b.profile.KeyID(e), Algorithm: e.Algorithm, Clear: e.Clear}
		secret, drawn := b.secrets[e.Name]
		if drawn {
			used++
		}
		if drawn && !e.WaitingKey() && isWaitingKey(secret) {
			return profileChanged(b.profile) // the entry was a key's: its wrapped bytes are nobody's secret
		}
		switch {
		case e.Source == profile.Derived && keys.named[e.Name] != nil:
			vouch, err := keys.named[e.Name].MAC(ctx, keypackage.CheckMessage(m, entry.Key))
			if err != nil {
				b.cache.drop(ctx, keys.id) // the handle may be at fault: the next try derives again
				return err
			}
			entry.Vouch = vouch
		case e.Source == profile.Value:
			entry.Vouch = []byte(e.Value)
		case e.WaitingKey():
			vouch, err := b.vouch(ctx, m, entry)
			if err != nil {
				return err
			}
			entry.Vouch = vouch
		case !drawn || len(secret.Random) != 32:
			return profileChanged(b.profile)
		case e.Clear:
			entry.Vouch = append([]byte(nil), secret.Value...)
		default:
			c := keypackage.Commitment([32]byte(secret.Random), secret.Value)
			entry.Vouch = c[:]
		}
		m.Entries = append(m.Entries, entry)
	}
	if used != len(b.secrets) {
		return profileChanged(b.profile)
	}
	var err error
	if d.Manifest, err = m.Encode(); err != nil {
		return err
	}
	c := identity.Claims{
		Subject: d.Identity, IssuedAt: d.IssuedAt, ChipID: d.ChipID, Realm: b.realm, Generation: d.Generation, Manifest: sha256.Sum256(d.Manifest),
	}
	d.Claims, err = c.Encode()
	return err
}

// isWaitingKey tells whether what is kept for an entry is a key that waits, and no secret.
func isWaitingKey(kept keypackage.Secret) bool {
	_, err := keypackage.ParseWaitingKey(kept.Value)
	return err == nil
}

// sign makes the certificate over the claims. A certificate that a crash
// loses here was seen by nobody; the next one says the same.
func (b *beginning) sign(ctx context.Context) error {
	ids, err := b.derived()
	if err != nil {
		return err
	}
	if err := b.licence(ctx, ids); err != nil {
		return err
	}
	c, err := b.keys.SignCertificate(ctx, b.device.Claims)
	if err != nil {
		return err
	}
	b.device.Certificate = c.Bytes()
	return nil
}

func profileChanged(p profile.Profile) *Refusal {
	return refuse(CodeProfile, "bring the profile back to what it was for the devices that are under way, or burn the reservation",
		"the profile of product line %q changed since this device was reserved", p.Name)
}
