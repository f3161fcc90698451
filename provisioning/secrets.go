package provisioning

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"

	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning/profile"
	"github.com/devicekeys/devicekeys/provisioning/records"
)

// secretsByEntry are the values of a device's entries that were drawn or read
// from a file, with the random bytes of their commitments. They are in clear,
// in this process's memory, for one call; clear entries are among them, so that
// a redo finds the same value for every entry.
type secretsByEntry map[string]keypackage.Secret

func wipe(secrets secretsByEntry) {
	for _, s := range secrets {
		clear(s.Random)
		clear(s.Value)
	}
}

// drawSecrets gets a value for each entry that is a secret and doesn't wait: it is
// drawn, or read from its file. All random bytes come from the HSM, in one call. A
// secret that was drawn in advance waits for an identity's first device; a generation or
// board that takes the identity over draws another.
func (a *Assembly) drawSecrets(ctx context.Context, p profile.Profile, id identity.Identity, waited sealedByEntry) (_ secretsByEntry, err error) {
	drawn := func(e profile.Entry) bool {
		_, waits := waited[e.Name]
		return e.Source == profile.Drawn || e.Source == profile.Pool && e.WaitingSecret() && !waits
	}
	total := 0
	for _, e := range p.Entries {
		switch {
		case e.Source == profile.File:
			total += commitmentBytes
		case drawn(e):
			total += drawnBytes(e)
		}
	}
	if total == 0 {
		return secretsByEntry{}, nil
	}
	stock, err := a.random(ctx, total)
	if err != nil {
		return nil, err
	}
	defer clear(stock)
	secrets := secretsByEntry{}
	defer func() {
		if err != nil {
			wipe(secrets)
		}
	}()
	for _, e := range p.Entries {
		var s keypackage.Secret
		switch {
		case e.Source == profile.File:
			var value []byte
			if value, err = e.Secret(id); err != nil {
				return nil, refuse(CodeProfile, "put the licensor's file where the profile says", "entry %q has no value for this device", e.Name).because(err)
			}
			s = keypackage.Secret{Random: bytes.Clone(stock[:commitmentBytes]), Value: value}
			stock = spent(stock, commitmentBytes)
		case drawn(e):
			if s, err = drawSecret(ctx, a.random, e, stock[:drawnBytes(e)]); err != nil {
				return nil, err
			}
			stock = spent(stock, drawnBytes(e))
		default:
			continue
		}
		secrets[e.Name] = s
	}
	return secrets, nil
}

func (a *Assembly) random(ctx context.Context, n int) ([]byte, error) {
	return randomOf(a.keys)(ctx, n)
}

// keepSecrets seals a device's values for its row, in the profile's order, bound
// to realm, batch, identity and entry.
func (a *Assembly) keepSecrets(ctx context.Context, p profile.Profile, d records.Device, secrets secretsByEntry, waited sealedByEntry) ([]records.SealedSecret, error) {
	var kept []records.SealedSecret
	for _, e := range p.Entries {
		if sealed, ok := waited[e.Name]; ok {
			kept = append(kept, records.SealedSecret{Entry: e.Name, Sealed: sealed})
			continue
		}
		s, drawn := secrets[e.Name]
		if !drawn {
			continue
		}
		plaintext, err := detcbor.Marshal(s)
		if err != nil {
			return nil, err
		}
		sealed, err := a.keys.SealSecret(ctx, keypackage.PoolAAD(a.realm, d.Batch, d.Identity, e.Name), plaintext)
		clear(plaintext)
		if err != nil {
			return nil, err
		}
		kept = append(kept, records.SealedSecret{Entry: e.Name, Sealed: sealed.Encode()})
	}
	return kept, nil
}

// maxKept bounds a sealed value, in bytes: the longest secret and its framing.
const maxKept = keypackage.MaxSecret + 256

// openSecrets gives back what keepSecrets kept.
func (a *Assembly) openSecrets(ctx context.Context, d records.Device) (secretsByEntry, error) {
	secrets := secretsByEntry{}
	for _, kept := range d.Secrets {
		s, err := a.openSecret(ctx, d, kept)
		if err != nil {
			wipe(secrets)
			return nil, err
		}
		secrets[kept.Entry] = s
	}
	return secrets, nil
}

func (a *Assembly) openSecret(ctx context.Context, d records.Device, kept records.SealedSecret) (s keypackage.Secret, err error) {
	sealed, err := keypackage.ParseSealed(kept.Sealed, maxKept)
	if err != nil {
		return s, err
	}
	plaintext, err := a.keys.OpenSecret(ctx, keypackage.PoolAAD(a.realm, d.Batch, d.Identity, kept.Entry), sealed)
	if err != nil {
		return s, err
	}
	defer clear(plaintext)
	return parseKept(plaintext)
}

// parseKept reads what was sealed: a secret with its random bytes. No error repeats a byte of it.
func parseKept(plaintext []byte) (s keypackage.Secret, err error) {
	if err := detcbor.Unmarshal(plaintext, &s, maxKept); err != nil {
		return keypackage.Secret{}, err
	}
	if len(s.Random) != sha256.Size || len(s.Value) == 0 || len(s.Value) > keypackage.MaxSecret {
		return keypackage.Secret{}, fmt.Errorf("a kept secret of %d bytes with %d random ones: 1 to %d with %d are expected", len(s.Value), len(s.Random), keypackage.MaxSecret, sha256.Size)
	}
	return s, nil
}
