package provisioning

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning/profile"
	"github.com/devicekeys/devicekeys/provisioning/records"
)

// Keys of a device that are functions of nothing were made, by the HSM or
// outside, and have to be kept until the device has them. They lie in the
// device's row like drawn secrets, as values of the same form: the key wrapped in
// the HSM (keypackage.WaitingKey), and that sealed to identity and entry. A redo,
// here or at another SPP, finds the same keys; publication empties the row.
//
// A secret that is no key waits in the pool as it lies in the row later: sealed to
// identity and entry, nothing else around it. It is in this process's memory while a
// package is made, as one that is drawn on the line.

// sealedByEntry are keys and secrets that wait in the pool, as they lie there.
type sealedByEntry map[string][]byte

// waitingWith gives what waits in the pool with an identity, of that what the
// profile names.
func (b *beginning) waitingWith(ctx context.Context, id identity.Identity) (sealedByEntry, error) {
	names := b.profile.InPool()
	if len(names) == 0 {
		return nil, nil
	}
	found, err := b.pool.WaitingKeys(ctx, id)
	if err != nil {
		return nil, err
	}
	waiting := sealedByEntry{}
	for _, name := range names {
		sealed, ok := found[name]
		if !ok {
			return nil, refuse(CodePoolEmpty, "make the key: spp pool generate; or import it: spp pool import-keys", "%s %s waits in the pool without a key or secret for entry %q", id.Type(), id, name)
		}
		waiting[name] = sealed
	}
	return waiting, nil
}

// makeKeys makes the keys that don't wait. A generation that takes over an
// identity finds nothing in the pool: that left it with the first one. Secrets that
// were drawn in advance are drawn anew then (drawSecrets); what came from outside is
// there once.
func (b *beginning) makeKeys(ctx context.Context, secrets secretsByEntry, waited sealedByEntry) error {
	for _, e := range b.profile.Entries {
		if _, ok := waited[e.Name]; ok || !e.Source.Waits() {
			continue
		}
		if e.Source == profile.Imported {
			return refuse(CodeProfile, "give the device a new identity, whose keys are imported: scrap it first", "entry %q is imported, and this identity's key or secret was given to a device before", e.Name)
		}
		if !e.WaitingKey() {
			continue
		}
		w, err := b.keys.Make(ctx, e.Algorithm)
		if err != nil {
			return err
		}
		s, err := sealable(w)
		if err != nil {
			return fmt.Errorf("entry %q: %w", e.Name, err)
		}
		secrets[e.Name] = s
	}
	return nil
}

// sealable gives a waiting key in the form in which it is sealed.
func sealable(w keypackage.WaitingKey) (keypackage.Secret, error) {
	b, err := w.Encode()
	if err != nil {
		return keypackage.Secret{}, err
	}
	s := keypackage.Secret{Random: make([]byte, commitmentBytes), Value: b}
	rand.Read(s.Random) // never fails; what is sealed here is ciphertext already, so no HSM is asked
	return s, nil
}

// SealWaiting seals a waiting key to the identity and entry that it waits for:
// the bytes that the pool keeps, and the device's row later.
func SealWaiting(ctx context.Context, keys Keys, realm identity.Realm, batch int64, id identity.Identity, entry string, w keypackage.WaitingKey) ([]byte, error) {
	s, err := sealable(w)
	if err != nil {
		return nil, fmt.Errorf("seal the key of %s, entry %q: %w", id, entry, err)
	}
	return sealTo(ctx, keys, realm, batch, id, entry, s)
}

// sealTo seals what waits, a key in the form of sealable or a secret, to the identity
// and entry that it waits for.
func sealTo(ctx context.Context, keys Keys, realm identity.Realm, batch int64, id identity.Identity, entry string, s keypackage.Secret) ([]byte, error) {
	fail := func(err error) ([]byte, error) {
		return nil, fmt.Errorf("seal what waits for %s, entry %q: %w", id, entry, err)
	}
	plaintext, err := detcbor.Marshal(s)
	if err != nil {
		return fail(err)
	}
	defer clear(plaintext)
	sealed, err := keys.SealSecret(ctx, keypackage.PoolAAD(realm, batch, id, entry), plaintext)
	if err != nil {
		return fail(err)
	}
	return sealed.Encode(), nil
}

// openWaited opens what came from the pool: what is another identity's or entry's
// doesn't open. Whether it is what the profile says, checkWaited looks.
func (b *beginning) openWaited(ctx context.Context, d records.Device, waited sealedByEntry) error {
	for entry, sealed := range waited {
		s, err := b.openSecret(ctx, d, records.SealedSecret{Entry: entry, Sealed: sealed})
		if err != nil && (ctx.Err() != nil || errors.As(err, new(*keyError))) {
			return err // the HSM is away or slow, and says nothing of the key
		}
		if err != nil {
			return b.poolKey(ctx, d, "what waits in the pool for an entry does not open as this identity's: the row was changed, or is another's",
				facts{"entry": entry, "came": digest(sealed)}).because(err)
		}
		b.secrets[entry] = s
	}
	return nil
}

// points gives SHA-256 of the points of the device's pairs, which no other device
// may have.
func (b *beginning) points() ([][32]byte, error) {
	var all [][32]byte
	for _, e := range b.profile.Entries {
		if !e.WaitingKey() || !e.Algorithm.Pair() {
			continue
		}
		w, err := b.waitingKey(e.Name)
		if err != nil {
			return nil, err
		}
		all = append(all, w.PointHash())
	}
	return all, nil
}

func digests(points [][32]byte) string {
	var all []string
	for _, p := range points {
		all = append(all, hex.EncodeToString(p[:]))
	}
	return strings.Join(all, " ")
}

// poolKey keeps the incident that belongs to a key that can't be this device's, and
// gives the refusal. The identity stays reserved for the chip, so that nobody else
// meets it before somebody has looked.
func (b *beginning) poolKey(ctx context.Context, d records.Device, detail string, f facts) *Refusal {
	f["batch"] = strconv.FormatInt(d.Batch, 10)
	b.incident(ctx, b.station, deviceID{d.Record, d.Generation}, CodePoolKey, "begin", fmt.Sprintf("%s %s: %s", d.Identity.Type(), d.Identity, detail), f)
	return refuse(CodePoolKey, "set the device aside; an operator finds out who made the keys of this identity and batch, and burns it: spp pool burn",
		"a key of %s %s can't be given to record %s", d.Identity.Type(), d.Identity, d.Record.Short())
}

// waitingKey gives the key of an entry whose source is one that waits.
func (b *beginning) waitingKey(name string) (keypackage.WaitingKey, error) {
	s, ok := b.secrets[name]
	if !ok {
		return keypackage.WaitingKey{}, profileChanged(b.profile)
	}
	return keypackage.ParseWaitingKey(s.Value)
}

// vouch gives what vouches for a waiting key in its manifest entry.
func (b *beginning) vouch(ctx context.Context, m keypackage.Manifest, e keypackage.Entry) ([]byte, error) {
	w, err := b.waitingKey(e.Key.Name)
	switch {
	case err != nil:
		return nil, err
	case w.Algorithm != e.Algorithm:
		return nil, profileChanged(b.profile)
	case w.Algorithm.Pair():
		return w.Public, nil
	}
	return b.keys.CheckValue(ctx, w, keypackage.CheckMessage(m, e.Key))
}

// shared tells whether an entry's key is one that the device service can't derive. The channel takes keys of
// HMAC-SHA-256 and no others.
func shared(e profile.Entry) bool {
	return e.Source.Waits() && e.Kind == keypackage.Communication && e.Algorithm == keypackage.HMACSHA256
}

// unshared names the first such entry of a profile.
func unshared(p profile.Profile) (entry string, ok bool) {
	for _, e := range p.Entries {
		if shared(e) {
			return e.Name, true
		}
	}
	return "", false
}

// share gives the device service the communication keys that it can't derive, each
// wrapped to its HSM. A crash after it leaves a key of a device that never got it,
// or gets it again with the next hello.
func (b *beginning) share(ctx context.Context) error {
	if b.service.IsZero() {
		return nil
	}
	for _, e := range b.profile.Entries {
		if !shared(e) {
			continue
		}
		w, err := b.waitingKey(e.Name)
		if err != nil {
			return err
		}
		d := b.device
		blob, err := b.keys.Share(ctx, w, b.service, keypackage.ServiceKeyLabel(d.Record, d.Generation, e.Name))
		if err != nil {
			return err
		}
		if err := b.records.ServiceKey(ctx, d.Record, d.Generation, e.Name, blob); err != nil {
			return err
		}
	}
	return nil
}

// wrapWaiting wraps a waiting key to the device. In the HSM it is a session
// object meanwhile.
func (b *beginning) wrapWaiting(ctx context.Context, sender keypackage.Sender, name string) ([]byte, error) {
	w, err := b.waitingKey(name)
	if err != nil {
		return nil, err
	}
	key, err := b.keys.Fetch(ctx, w)
	if err != nil {
		return nil, err
	}
	defer func() {
		bound, cancel := context.WithTimeout(context.WithoutCancel(ctx), destroyTimeout)
		defer cancel()
		if err := key.Destroy(bound); err != nil {
			b.log.WarnContext(ctx, "destroying a device key failed; it ends with its session", "entry", name, "error", err)
		}
	}()
	return sender.Wrap(ctx, key)
}
