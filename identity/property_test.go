package identity_test

import (
	"bytes"
	"crypto/sha256"
	"testing"

	"pgregory.net/rapid"

	"github.com/devicekeys/devicekeys/detcbor/detcbortest"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/statement"
)

func drawIdentity(t *rapid.T) identity.Identity {
	text := map[identity.Type]string{
		identity.TypeIMEI:   `[0-9]{14}`,
		identity.TypeEUI48:  `[0-9a-f][02468ace][0-9a-f]{9}1`,
		identity.TypeEUI64:  `[0-9a-f][02468ace][0-9a-f]{4}0[0-9a-f]{8}1`,
		identity.TypeSerial: `[1-9][0-9]{0,9}-[A-Z0-9.]{1,32}`,
	}
	kind := rapid.SampledFrom([]identity.Type{identity.TypeIMEI, identity.TypeEUI48, identity.TypeEUI64, identity.TypeSerial}).Draw(t, "type")
	id, err := identity.FromValue(kind, rapid.StringMatching(text[kind]).Draw(t, "identity"))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func drawChip(t *rapid.T) identity.ChipID {
	b := rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "chip ID")[:rapid.SampledFrom([]int{16, 24, 32}).Draw(t, "chip ID's length")]
	b[0] |= 1 // not all zero
	c, err := identity.ParseChipID(b)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func drawClaims(t *rapid.T) identity.Claims {
	return identity.Claims{
		Subject: drawIdentity(t), ChipID: drawChip(t),
		IssuedAt:   rapid.Uint32Min(1<<16).Draw(t, "iat"),
		Realm:      rapid.SampledFrom([]identity.Realm{identity.Development, identity.Production}).Draw(t, "realm"),
		Generation: identity.Generation(rapid.Uint32Min(1).Draw(t, "generation")),
		Manifest:   [32]byte(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "manifest")),
	}
}

// TestClaimsInjective: two different (identity, chip, realm, generation,
// manifest, time) never have the same claims, nor one claims' hash, even where
// only one of the six differs; and the same always have the same.
func TestClaimsInjective(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a, other := drawClaims(t), drawClaims(t)
		b := a
		for _, i := range rapid.SliceOfN(rapid.IntRange(0, 5), 1, 2).Draw(t, "differ") {
			switch i {
			case 0:
				b.Subject = other.Subject
			case 1:
				b.ChipID = other.ChipID
			case 2:
				b.IssuedAt = other.IssuedAt
			case 3:
				b.Realm = other.Realm
			case 4:
				b.Generation = other.Generation
			case 5:
				b.Manifest = other.Manifest
			}
		}
		x, err1 := a.Encode()
		y, err2 := b.Encode()
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		if bytes.Equal(x, y) != (a == b) || (sha256.Sum256(x) == sha256.Sum256(y)) != (a == b) {
			t.Fatalf("%+v and %+v: %x and %x", a, b, x, y)
		}
		// One length for a type of identity and a length of chip ID: no claims
		// begin others.
		if a.Subject.Type() == b.Subject.Type() && len(a.Subject.URN()) == len(b.Subject.URN()) && a.ChipID.Len() == b.ChipID.Len() && len(x) != len(y) {
			t.Fatalf("%d and %d bytes", len(x), len(y))
		}
		detcbortest.OneEncoding(t, "claims", x, func(b []byte) ([]byte, error) {
			c, err := identity.ParseClaims(b)
			if err != nil {
				return nil, err
			}
			again, err := c.Encode()
			if err != nil {
				t.Fatalf("%x was read and can't be written: %v", b, err)
			}
			return again, nil
		})
	})
}

// TestRecordIDApart: the hash that names a chip is no other hash of its bytes.
func TestRecordIDApart(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a, b := drawChip(t), drawChip(t)
		if (a.RecordID() == b.RecordID()) != (a == b) || a.RecordID() == sha256.Sum256(a.Bytes()) {
			t.Fatalf("%s and %s", a.RecordID(), b.RecordID())
		}
	})
}

// TestURNInjective: no two identities, of whatever types, have one URN, and
// none is read as one of another type.
func TestURNInjective(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a, b := drawIdentity(t), drawIdentity(t)
		if (a.URN() == b.URN()) != (a == b) {
			t.Fatalf("%s %s and %s %s", a.Type(), a, b.Type(), b)
		}
		if back, err := identity.FromURN(a.URN()); err != nil || back != a {
			t.Fatalf("%s reads as %v, %v", a.URN(), back, err)
		}
	})
}

func TestUnlockOneEncoding(t *testing.T) {
	t.Parallel()
	s := newGoldenSigner(t)
	rapid.Check(t, func(t *rapid.T) {
		u := identity.Unlock{Realm: identity.Development, Record: drawChip(t).RecordID(), Next: identity.Generation(rapid.Uint32Min(2).Draw(t, "next"))}
		raw, err := identity.SignUnlock(t.Context(), s, u)
		if err != nil {
			t.Fatal(err)
		}
		payload, err := statement.Open(raw, statement.Unlock, s.Public(), identity.MaxCertificate)
		if err != nil {
			t.Fatal(err)
		}
		detcbortest.OneEncoding(t, "unlock", payload, func(b []byte) ([]byte, error) {
			raw, err := statement.Sign(t.Context(), s, statement.Unlock, b)
			if err != nil {
				return nil, err
			}
			u, err := identity.ParseUnlock(raw, s.Public())
			if err != nil {
				return nil, err
			}
			again, err := identity.SignUnlock(t.Context(), s, u)
			if err != nil {
				t.Fatalf("%x was read and can't be written: %v", b, err)
			}
			return statement.Open(again, statement.Unlock, s.Public(), identity.MaxCertificate)
		})
	})
}
