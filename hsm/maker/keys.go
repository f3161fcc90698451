package maker

import (
	"context"
	"errors"
	"fmt"

	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/statement"
)

// Keys is the maker's key ring, opened. Its methods are safe for concurrent use. It needs no closing: closing the
// token ends its session keys.
type Keys struct {
	tok   *hsm.Token
	realm identity.Realm

	identitySigning, submission, audit signer
	poolSeal, transport                *hsm.Key
	deviceCAs                          []statement.PublicKey // by version, from 1
	poolWrap, poolUnwrap               map[bool]*hsm.Key     // by whether they are of pairs
	purposes                           map[purposeID]*hsm.Key
	kdfs                               map[uint32]hsm.KDF // by master version
	specs                              []hsm.Spec         // of all keys, in the order of the inventory
}

// purposeID names a purpose key.
type purposeID struct {
	purpose string
	version uint32
}

// Open finds all keys that Create made, each by its full template, reads its attributes back and refuses the set if
// one is missing, half written or has other attributes than its kind. It uses no key. Opening takes a few hundred
// PKCS#11 calls; everything is kept after that.
func Open(ctx context.Context, tok *hsm.Token, realm identity.Realm) (*Keys, error) {
	if !realm.Valid() {
		return nil, fmt.Errorf("open the maker's keys: %s is not a realm", realm)
	}
	k := &Keys{tok: tok, realm: realm, purposes: map[purposeID]*hsm.Key{}, kdfs: map[uint32]hsm.KDF{}}
	if err := k.open(ctx); err != nil {
		err = fmt.Errorf("open the maker's keys in token %q: %w", tok.Info().Label, err)
		if errors.Is(err, hsm.ErrNoKey) {
			err = fmt.Errorf("%w: run custodian setup, which makes what is missing", err)
		}
		return nil, err
	}
	return k, nil
}

func (k *Keys) open(ctx context.Context) error {
	all, err := readRecords(ctx, k.tok, k.realm)
	if err != nil {
		return err
	}
	found := map[string]*hsm.Key{}
	for _, f := range fixed {
		if found[f.name], err = k.find(ctx, hsm.Spec{Kind: f.kind, Label: k.realm.Prefix() + f.name}); err != nil {
			return err
		}
	}
	if err := k.openDeviceCAs(ctx, found[nameDeviceCA]); err != nil {
		return err
	}
	for _, r := range all.sorted() {
		spec := hsm.Spec{Kind: hsm.MasterKey, Label: r.label(), KDF: r.KDF}
		if r.Purpose != "" {
			spec.Kind = hsm.PurposeKey
		}
		// Find compares the mechanisms too, so a key that allows another KDF than the recorded one is refused here.
		key, err := k.find(ctx, spec)
		if err != nil {
			return err
		}
		if r.Purpose == "" {
			k.kdfs[r.Master] = r.KDF
		} else {
			k.purposes[purposeID{r.Purpose, r.Master}] = key
		}
	}
	if len(k.kdfs) == 0 || len(k.purposes) == 0 {
		return fmt.Errorf("%w: no master key with a purpose key is recorded in it", hsm.ErrNoKey)
	}
	for _, r := range all.sorted() {
		if kdf, ok := k.kdfs[r.Master]; !ok || kdf != r.KDF {
			return fmt.Errorf("record %q says KDF %d, its master key's record KDF %d (0: there is none): the token was changed by something else; stop using it", r.label(), r.KDF, kdf)
		}
	}
	for name, s := range map[string]*signer{nameIdentitySigning: &k.identitySigning, nameSubmission: &k.submission, nameAudit: &k.audit} {
		if *s, err = newSigner(found[name]); err != nil {
			return err
		}
	}
	k.poolSeal, k.transport = found[namePoolSeal], found[nameTransport]
	k.poolWrap = map[bool]*hsm.Key{false: found[namePoolWrap], true: found[namePoolPairWrap]}
	k.poolUnwrap = map[bool]*hsm.Key{false: found[namePoolUnwrap], true: found[namePoolPairUnwrap]}
	return nil
}

// find finds one key and notes it for the inventory.
func (k *Keys) find(ctx context.Context, s hsm.Spec) (*hsm.Key, error) {
	key, err := k.tok.Find(ctx, s)
	if err != nil {
		return nil, err
	}
	k.specs = append(k.specs, s)
	return key, nil
}

// Realm gives the realm of the keys.
func (k *Keys) Realm() identity.Realm { return k.realm }

// ROMKey gives the public half of the identity-signing key, which every device has in its ROM.
func (k *Keys) ROMKey() statement.PublicKey { return k.identitySigning.public }

// SubmissionKey gives the key that the sequencer checks submissions with.
func (k *Keys) SubmissionKey() statement.PublicKey { return k.submission.public }

// AuditKey gives the key that heads of the audit log are checked with.
func (k *Keys) AuditKey() statement.PublicKey { return k.audit.public }

// Random gives n random bytes from the token.
func (k *Keys) Random(ctx context.Context, n int) ([]byte, error) { return k.tok.Random(ctx, n) }

// Check tells whether the token still works, by reading one of its keys and drawing random bytes. It uses no key.
func (k *Keys) Check(ctx context.Context) error { return k.tok.Check(ctx) }

// Derivable tells whether a device key of this name, KDF and master version can be derived here: what a product
// line's profile is checked against before the line starts. The error names the ceremony that is missing.
func (k *Keys) Derivable(key keypackage.KeyID) error {
	_, err := k.purpose(key)
	return err
}

func (k *Keys) purpose(key keypackage.KeyID) (*hsm.Key, error) {
	kdf, ok := k.kdfs[key.Version]
	switch {
	case !key.Derived():
		return nil, fmt.Errorf("key %q is none that is derived: its KDF is 0", key)
	case !ok:
		return nil, fmt.Errorf("key %q: the token has no master key of version %d: a ceremony makes one (custodian setup in the development realm)", key, key.Version)
	case uint8(kdf) != key.KDF:
		return nil, fmt.Errorf("key %q: master key version %d is used with KDF %d only: correct the profile, or make a new version in a ceremony", key, key.Version, kdf)
	}
	p, ok := k.purposes[purposeID{key.Name, key.Version}]
	if !ok {
		return nil, fmt.Errorf("key %q: the token has no purpose key %q of master version %d: a ceremony derives one (custodian setup in the development realm)", key, key.Name, key.Version)
	}
	return p, nil
}
