package chip

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/statement"
)

// What a token chip holds. Every label begins with the realm's prefix, so that
// a chip of the wrong realm shows by its labels; a token with objects of both
// realms is refused.
//
//	dev-chip-id          data, private, one-way   16, 24 or 32 bytes; exactly one
//	dev-chip-key         AES-256                  derives, never leaves
//	dev-attestation-key  EC P-256 pair            signs hellos
//	dev-rom-key          data, one-way            public key, 65 bytes; none or one
//	dev-lock             data, private, one-way   any: locked
//	dev-floor            data, private, one-way   4 bytes, big endian; the highest counts
const (
	application = "devicekeys" // CKA_APPLICATION of the data objects

	labelChipID      = "chip-id"
	labelChipKey     = "chip-key"
	labelAttestation = "attestation-key"
	labelROMKey      = "rom-key"
	labelLock        = "lock"
	labelFloor       = "floor"
)

// lockValue is the content of a lock object; that it is there is what counts.
var lockValue = []byte("locked")

// Token is a chip that is a PKCS#11 token of its own. Keys are found when they
// are first needed and kept as handles.
type Token struct {
	token *hsm.Token
	realm identity.Realm
	id    identity.ChipID

	mu          sync.Mutex // guards the handles below
	key         *hsm.Key   // chip key; nil until needed
	attestation *hsm.Key   // nil until needed
}

var _ Chip = (*Token)(nil)

// OpenToken takes a token that Manufacture made. It owns the token from then
// on; on error the token stays the caller's.
func OpenToken(ctx context.Context, t *hsm.Token) (*Token, error) {
	realm, id, err := readID(ctx, t)
	if err != nil {
		return nil, err
	}
	return &Token{token: t, realm: realm, id: id}, nil
}

// ErrNoChip says that a token is no chip, or not yet: it has no chip ID.
var ErrNoChip = errors.New("token has no chip ID")

// readID reads the chip ID and refuses a token that has not exactly one.
func readID(ctx context.Context, t *hsm.Token) (identity.Realm, identity.ChipID, error) {
	objects, err := t.Data(ctx, application, "")
	if err != nil {
		return 0, identity.ChipID{}, fmt.Errorf("open chip: %w", err)
	}
	var realm identity.Realm
	var found []hsm.Data
	for _, r := range []identity.Realm{identity.Development, identity.Production} {
		for _, o := range objects {
			if o.Label == r.Prefix()+labelChipID {
				realm = r
				found = append(found, o)
			}
		}
	}
	switch {
	case len(found) == 0:
		return 0, identity.ChipID{}, fmt.Errorf("open chip %q: %w: it is none, or the chip maker did not finish it", t.Info().Label, ErrNoChip)
	case len(found) > 1:
		return 0, identity.ChipID{}, fmt.Errorf("open chip %q: token has %d chip IDs, exactly one is allowed: take the chip out of use", t.Info().Label, len(found))
	case !found[0].OneWay:
		return 0, identity.ChipID{}, fmt.Errorf("open chip %q: its chip ID can be changed: take the chip out of use", t.Info().Label)
	}
	for _, o := range objects {
		if !bytes.HasPrefix([]byte(o.Label), []byte(realm.Prefix())) {
			return 0, identity.ChipID{}, fmt.Errorf("open chip %q: object %q is not of realm %s: take the chip out of use", t.Info().Label, o.Label, realm)
		}
	}
	id, err := identity.ParseChipID(found[0].Value)
	if err != nil {
		return 0, identity.ChipID{}, fmt.Errorf("open chip %q: %w", t.Info().Label, err)
	}
	return realm, id, nil
}

// Describe gives the token's manufacturer and label.
func (c *Token) Describe() Description {
	info := c.token.Info()
	return Description{Manufacturer: info.Manufacturer, Label: info.Label}
}

// Realm gives the realm the chip was made for.
func (c *Token) Realm() identity.Realm { return c.realm }

// ID gives the chip ID.
func (c *Token) ID() identity.ChipID { return c.id }

func (c *Token) label(name string) string { return c.realm.Prefix() + name }

// chipKey finds the chip key once.
func (c *Token) chipKey(ctx context.Context) (*hsm.Key, error) {
	return c.find(ctx, &c.key, hsm.Spec{Kind: hsm.ChipKey, Label: c.label(labelChipKey)})
}

func (c *Token) find(ctx context.Context, kept **hsm.Key, s hsm.Spec) (*hsm.Key, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if *kept == nil {
		k, err := c.token.Find(ctx, s)
		if err != nil {
			return nil, err
		}
		*kept = k
	}
	return *kept, nil
}

// ROMKey gives the key in ROM.
func (c *Token) ROMKey(ctx context.Context) (statement.PublicKey, error) {
	found, err := c.token.Data(ctx, application, c.label(labelROMKey))
	if err != nil {
		return statement.PublicKey{}, err
	}
	var key statement.PublicKey
	for _, o := range found {
		k, err := statement.ParsePoint(o.Value)
		if err != nil || !o.OneWay {
			return key, fmt.Errorf("ROM key of chip %q is malformed or can be changed: take the chip out of use", c.Describe().Label)
		}
		// Two writers at once leave the same key twice, or two keys. The
		// latter is nobody's device.
		if !key.IsZero() && k != key {
			return statement.PublicKey{}, fmt.Errorf("chip %q has two ROM keys: take the chip out of use", c.Describe().Label)
		}
		key = k
	}
	return key, nil
}

// WriteROMKey writes it once.
func (c *Token) WriteROMKey(ctx context.Context, key statement.PublicKey) error {
	if key.IsZero() {
		return fmt.Errorf("write ROM key: there is no key")
	}
	old, err := c.ROMKey(ctx)
	if err != nil {
		return err
	}
	if old == key {
		return nil
	}
	if !old.IsZero() {
		return fmt.Errorf("write ROM key: %w", ErrWritten)
	}
	return c.token.PutData(ctx, hsm.Data{Application: application, Label: c.label(labelROMKey), Value: key.Point(), OneWay: true})
}

// Fuses reads lock and floor.
func (c *Token) Fuses(ctx context.Context) (Fuses, error) {
	var f Fuses
	objects, err := c.token.Data(ctx, application, "") // one look for both
	if err != nil {
		return f, err
	}
	for _, o := range objects {
		switch o.Label {
		case c.label(labelLock):
			f.Locked = true
		case c.label(labelFloor):
			if len(o.Value) != 4 || !o.OneWay {
				return f, fmt.Errorf("generation floor of chip %q is malformed or can be changed: take the chip out of use", c.Describe().Label)
			}
			f.Floor = max(f.Floor, identity.Generation(binary.BigEndian.Uint32(o.Value)))
		}
	}
	return f, nil
}

// RaiseFloor adds an object with the higher floor: nothing is ever changed or
// destroyed. A crash leaves the new object or none.
func (c *Token) RaiseFloor(ctx context.Context, floor identity.Generation) error {
	now, err := c.Fuses(ctx)
	if err != nil {
		return err
	}
	if floor <= now.Floor {
		return nil
	}
	return c.token.PutData(ctx, hsm.Data{
		Application: application, Label: c.label(labelFloor),
		Value: binary.BigEndian.AppendUint32(nil, uint32(floor)), Private: true, OneWay: true,
	})
}

// Lock adds the lock object. A crash leaves it there or not.
func (c *Token) Lock(ctx context.Context) error {
	found, err := c.token.Data(ctx, application, c.label(labelLock))
	if err != nil || len(found) > 0 {
		return err
	}
	return c.token.PutData(ctx, hsm.Data{Application: application, Label: c.label(labelLock), Value: lockValue, Private: true, OneWay: true})
}

// Close closes the token's sessions; every session key dies with them.
func (c *Token) Close(context.Context) error { return c.token.Close() }
