package maker_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"strings"
	"testing"

	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/statement"
)

// TestSign: each function signs its own statement type with its own key, and nothing else.
func TestSign(t *testing.T) {
	t.Parallel()
	_, _, k := opened(t)
	ctx := t.Context()
	s := device(t, 1)
	hash := sha256.Sum256(nil)
	const production = identity.Production
	long := make([]byte, 64<<10)

	type sign func(payload []byte) ([]byte, error)
	certificate := func(b []byte) ([]byte, error) { c, err := k.SignCertificate(ctx, b); return c.Bytes(), err }
	registry := func(b []byte) ([]byte, error) { return k.SignRegistryStatement(ctx, b) }
	submission := func(b []byte) ([]byte, error) { return k.SignSubmission(ctx, b) }
	head := func(b []byte) ([]byte, error) { return k.SignAuditHead(ctx, b) }
	unlock := func(u identity.Unlock) sign {
		return func([]byte) ([]byte, error) { return k.SignUnlock(ctx, u) }
	}
	leaf := func(realm identity.Realm, kind int) []byte {
		return detcbor.Array(1, realm, kind, s.record[:], 1, hash[:])
	}
	for _, c := range []struct {
		name    string
		sign    sign
		payload []byte
		typ     statement.Type
		key     statement.PublicKey
		refused string
	}{
		{"certificate", certificate, s.claims(t, dev), statement.IdentityCertificate, k.ROMKey(), ""},
		{"certificate of production", certificate, s.claims(t, production), "", statement.PublicKey{}, "realm"},
		{"certificate over a leaf", certificate, leaf(dev, 3), "", statement.PublicKey{}, "claims"},
		{"certificate over nothing", certificate, nil, "", statement.PublicKey{}, "claims"},
		{"unlock", unlock(identity.Unlock{Realm: dev, Record: s.record, Next: 2}), nil, statement.Unlock, k.ROMKey(), ""},
		{"unlock of production", unlock(identity.Unlock{Realm: production, Record: s.record, Next: 2}), nil, "", statement.PublicKey{}, "realm"},
		{"unlock of the first generation", unlock(identity.Unlock{Realm: dev, Record: s.record, Next: 1}), nil, "", statement.PublicKey{}, "generation"},
		{"scrap", registry, leaf(dev, 3), statement.Registry, k.ROMKey(), ""},
		{"erase", registry, leaf(dev, 4), statement.Registry, k.ROMKey(), ""},
		{"register", registry, leaf(dev, 1), "", statement.PublicKey{}, "only scrap"},
		{"scrap of production", registry, leaf(production, 3), "", statement.PublicKey{}, "realm"},
		{"registry over claims", registry, s.claims(t, dev), "", statement.PublicKey{}, "CBOR"},
		{"short record id", registry, detcbor.Array(1, dev, 3, s.record[:31], 1, hash[:]), "", statement.PublicKey{}, "leaf"},
		{"submission", submission, detcbor.Array(1, dev, "spp-1", []any{[]byte{1}}), statement.Submission, k.SubmissionKey(), ""},
		{"submission of production", submission, detcbor.Array(1, production, "spp-1", []any{[]byte{1}}), "", statement.PublicKey{}, "realm"},
		{"submission of nothing", submission, detcbor.Array(1, dev, "spp-1", []any{}), "", statement.PublicKey{}, "0 entries"},
		{"submission of an empty entry", submission, detcbor.Array(1, dev, "spp-1", []any{[]byte{}}), "", statement.PublicKey{}, "entry 1"},
		{"submission of a long entry", submission, detcbor.Array(1, dev, "spp-1", []any{long}), "", statement.PublicKey{}, "entry 1"},
		{"submission by nobody", submission, detcbor.Array(1, dev, "", []any{[]byte{1}}), "", statement.PublicKey{}, "submitter"},
		{"submission over a head", submission, detcbor.Array(1, dev, 5, hash[:], 1_800_000_000), "", statement.PublicKey{}, "CBOR"},
		{"audit head", head, detcbor.Array(1, dev, 5, hash[:], 1_800_000_000), statement.AuditHead, k.AuditKey(), ""},
		{"audit head of production", head, detcbor.Array(1, production, 5, hash[:], 1_800_000_000), "", statement.PublicKey{}, "realm"},
		{"audit head with a short hash", head, detcbor.Array(1, dev, 5, hash[:20], 1_800_000_000), "", statement.PublicKey{}, "no head"},
		{"audit head, longer", head, append(detcbor.Array(1, dev, 5, hash[:], 1_800_000_000), 0), "", statement.PublicKey{}, "CBOR"},
	} {
		raw, err := c.sign(c.payload)
		if c.refused != "" {
			if err == nil || !strings.Contains(err.Error(), c.refused) {
				t.Errorf("%s: signing gives %v, want a reason with %q", c.name, err, c.refused)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		payload, err := statement.Open(raw, c.typ, c.key, len(raw))
		if err != nil || c.payload != nil && !bytes.Equal(payload, c.payload) {
			t.Errorf("%s: the statement opens as %x, %v", c.name, payload, err)
		}
	}
	if k.ROMKey() == k.SubmissionKey() || k.SubmissionKey() == k.AuditKey() || k.AuditKey() == k.ROMKey() {
		t.Error("two uses share a key")
	}
}

func TestSealSecret(t *testing.T) {
	t.Parallel()
	_, _, k := opened(t)
	ctx := t.Context()
	s, o := device(t, 1), device(t, 2)
	aad := keypackage.PoolAAD(dev, 7, s.id, "simlock")
	secret := []byte("12345678")
	box, err := k.SealSecret(ctx, aad, secret)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := k.OpenSecret(ctx, aad, box); err != nil || !bytes.Equal(got, secret) {
		t.Errorf("the secret opens as %q, %v", got, err)
	}
	flipped := keypackage.Sealed{Nonce: box.Nonce, Ciphertext: bytes.Clone(box.Ciphertext)}
	flipped.Ciphertext[0] ^= 1
	for _, c := range []struct {
		name string
		aad  []byte
		box  keypackage.Sealed
		data bool
	}{
		{"flipped bit", aad, flipped, true},
		{"another identity", keypackage.PoolAAD(dev, 7, o.id, "simlock"), box, true},
		{"another batch", keypackage.PoolAAD(dev, 8, s.id, "simlock"), box, true},
		{"another entry", keypackage.PoolAAD(dev, 7, s.id, "puk"), box, true},
		{"production", keypackage.PoolAAD(identity.Production, 7, s.id, "simlock"), box, false},
		{"a package's", keypackage.PackageAAD([32]byte{}), box, false},
		{"nothing", nil, box, false},
	} {
		if _, err := k.OpenSecret(ctx, c.aad, c.box); err == nil || errors.Is(err, hsm.ErrData) != c.data {
			t.Errorf("%s: OpenSecret gives %v, want data at fault %v", c.name, err, c.data)
		}
	}
	if _, err := k.SealSecret(ctx, keypackage.PackageAAD([32]byte{}), secret); err == nil {
		t.Error("sealed to foreign associated data")
	}
	if _, err := k.SealSecret(ctx, aad, nil); err == nil {
		t.Error("sealed nothing")
	}
	if _, err := k.SealSecret(ctx, aad, make([]byte, 5000)); err == nil {
		t.Error("sealed 5000 bytes")
	}
	if b, err := k.Random(ctx, 32); err != nil || len(b) != 32 || bytes.Equal(b, make([]byte, 32)) {
		t.Errorf("Random gives %x, %v", b, err)
	}
	if err := k.Check(ctx); err != nil {
		t.Error(err)
	}
}
