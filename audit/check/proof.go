package check

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/devicekeys/devicekeys/audit"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning/records"
	"github.com/devicekeys/devicekeys/statement"
)

// proof checks invariant 3 for one row: a published generation has a proof that
// it was restored, and with keys at hand the HSM says that the proof is right.
func (c *checker) proof(ctx context.Context, d records.Device) {
	if !published(d) {
		return
	}
	where := rows(deviceRow(d.Record, d.Generation))
	c.checked(Proofs, 1)
	if len(d.Proof) != sha256.Size || d.Challenge == [32]byte{} {
		c.violated(Proofs, d.Record, where, "the device is %s with a proof of %d bytes, or without a challenge: it was never shown to restore; the row was changed", d.State, len(d.Proof))
		return
	}
	if c.Keys == nil {
		return
	}
	m, err := keypackage.ParseManifest(d.Manifest)
	if err != nil {
		return // said by the invariant on forms
	}
	at, ok := m.Proving()
	if !ok || !m.Entries[at].Key.Derived() {
		c.violated(Proofs, d.Record, where, "the manifest names no key, derived from the master key, that a proof could be verified with")
		return
	}
	if err := c.verifyProof(ctx, d, m.Entries[at].Key); errors.Is(err, statement.ErrSignature) {
		c.violated(Proofs, d.Record, where, "the HSM says that the proof is wrong: proof, challenge, backup or claims were changed, or the device has other keys")
	} else if err != nil {
		c.unread(Proofs, err)
	}
}

func (c *checker) verifyProof(ctx context.Context, d records.Device, id keypackage.KeyID) (err error) {
	// The entry is committed before the key is derived; a crash in between
	// leaves an entry without a use.
	if err := c.Audit.Append(ctx, audit.Event{
		Kind: audit.Check, Key: fmt.Sprintf("%spurpose-%s-%d", c.Realm.Prefix(), id.Name, id.Version),
		Record: d.Record, Generation: d.Generation, Actor: c.Actor, Note: "verify the restore proof",
	}); err != nil {
		return err
	}
	key, err := c.Keys.DeviceKey(ctx, id, keypackage.DeviceKeyContext(c.Realm, id, d.Identity, d.Generation, d.Record))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, key.Destroy(context.WithoutCancel(ctx))) }()
	return key.Verify(ctx, keypackage.RestoredMessage(sha256.Sum256(d.Claims), sha256.Sum256(d.Backup), d.Challenge), d.Proof)
}
