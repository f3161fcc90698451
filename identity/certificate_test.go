package identity_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/statement"
)

var update = flag.Bool("update", false, "write the golden vectors anew instead of comparing them")

// newGoldenSigner gives the key of RFC 6979 §A.2.5, which signs as that says, so that vectors do not move.
func newGoldenSigner(t testing.TB) statement.SoftwareKey {
	t.Helper()
	d, _ := hex.DecodeString("c9afa9d845ba75166b5c215767b1d6934e50c3db36e89b127b8a622b120f6721")
	k, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), d)
	if err != nil {
		t.Fatal(err)
	}
	key, err := statement.NewSoftwareKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return key.Deterministic()
}

func goldenClaims(t testing.TB) identity.Claims {
	t.Helper()
	id, err := identity.ParseIMEI("00440245000001")
	if err != nil {
		t.Fatal(err)
	}
	chip, err := identity.ParseChipID([]byte("\x00\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff"))
	if err != nil {
		t.Fatal(err)
	}
	return identity.Claims{
		Subject: id, IssuedAt: 1700000000, ChipID: chip, Realm: identity.Development, Generation: 1,
		Manifest: sha256.Sum256([]byte("manifest")),
	}
}

// golden is what docs/formats.md prints.
type golden struct {
	ROMKeyPoint string                   `json:"rom_key_point"`
	ROMKeyHash  string                   `json:"rom_key_hash"`
	ChipID      string                   `json:"chip_id"`
	RecordID    string                   `json:"record_id"`
	Claims      string                   `json:"claims"`
	ClaimsHash  string                   `json:"claims_hash"`
	Certificate string                   `json:"certificate"`
	Unlock      string                   `json:"unlock"`
	Layout      map[string]identity.Span `json:"layout"`
}

func TestGolden(t *testing.T) {
	t.Parallel()
	s := newGoldenSigner(t)
	c := goldenClaims(t)
	claims, err := c.Encode()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := identity.SignCertificate(t.Context(), s, claims)
	if err != nil {
		t.Fatal(err)
	}
	unlock, err := identity.SignUnlock(t.Context(), s, identity.Unlock{Realm: c.Realm, Record: c.ChipID.RecordID(), Next: 2})
	if err != nil {
		t.Fatal(err)
	}
	l := identity.NewLayout(s.Public(), len(c.Subject.URN()), c.ChipID.Len())
	romHash, claimsHash := s.Public().Hash(), cert.ClaimsHash()
	got := golden{
		ROMKeyPoint: hex.EncodeToString(s.Public().Point()), ROMKeyHash: hex.EncodeToString(romHash[:]),
		ChipID: hex.EncodeToString(c.ChipID.Bytes()), RecordID: c.ChipID.RecordID().String(),
		Claims: hex.EncodeToString(claims), ClaimsHash: hex.EncodeToString(claimsHash[:]),
		Certificate: hex.EncodeToString(cert.Bytes()), Unlock: hex.EncodeToString(unlock),
		Layout: map[string]identity.Span{
			"certificate": {Offset: 0, Length: l.Length}, "protected": l.Protected, "payload": l.Payload, "subject": l.Subject, "issued_at": l.IssuedAt,
			"chip_id": l.ChipID, "realm": l.Realm, "generation": l.Generation, "manifest": l.Manifest, "signature": l.Signature,
		},
	}
	compareGolden(t, "testdata/golden.json", got)
}

func compareGolden(t *testing.T, file string, got golden) {
	t.Helper()
	b, err := json.MarshalIndent(got, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	b = append(b, '\n')
	if *update {
		if err := os.WriteFile(file, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(b)); diff != "" {
		t.Errorf("a format that can never change has changed (-was +is):\n%s", diff)
	}
}

func TestCertificate(t *testing.T) {
	t.Parallel()
	s := newGoldenSigner(t)
	c := goldenClaims(t)
	claims, err := c.Encode()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := identity.SignCertificate(t.Context(), s, claims)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(c, cert.Claims, cmp.AllowUnexported(identity.IMEI{}, identity.ChipID{})); diff != "" {
		t.Errorf("claims changed on the way:\n%s", diff)
	}
	for i := range claims {
		bad := bytes.Clone(claims)
		bad[i] ^= 0x01
		if got, err := identity.ParseClaims(bad); err == nil {
			again, err := got.Encode()
			if err != nil || !bytes.Equal(again, bad) {
				t.Fatalf("byte %d flipped: read as claims that encode as %x", i, again)
			}
		}
	}
	for name, spoil := range map[string]func(*identity.Claims){
		"no identity":   func(c *identity.Claims) { c.Subject = nil },
		"no chip":       func(c *identity.Claims) { c.ChipID = identity.ChipID{} },
		"no realm":      func(c *identity.Claims) { c.Realm = 0 },
		"foreign realm": func(c *identity.Claims) { c.Realm = 3 },
		"generation 0":  func(c *identity.Claims) { c.Generation = 0 },
		"no clock":      func(c *identity.Claims) { c.IssuedAt = 5 },
	} {
		bad := c
		spoil(&bad)
		if _, err := bad.Encode(); err == nil {
			t.Errorf("%s: encoded", name)
		}
	}
}

// The boot ROM's way: offsets, constants, one hash, one signature.
func TestLayoutVerifies(t *testing.T) {
	t.Parallel()
	s := newGoldenSigner(t)
	for _, chipLen := range []int{16, 24, 32} {
		for _, in := range []struct {
			typ  identity.Type
			text string
		}{{identity.TypeIMEI, "00440245000001"}, {identity.TypeEUI48, "0024be804ff1"}, {identity.TypeSerial, "32473-ABCDEFGHIJKLMNOPQRSTUVWXYZ012345"}} {
			id, err := identity.Parse(in.typ, in.text)
			if err != nil {
				t.Fatal(err)
			}
			c := goldenClaims(t)
			c.Subject, c.Generation = id, 0x01020304
			if c.ChipID, err = identity.ParseChipID(bytes.Repeat([]byte{0xc1}, chipLen)); err != nil {
				t.Fatal(err)
			}
			claims, err := c.Encode()
			if err != nil {
				t.Fatal(err)
			}
			cert, err := identity.SignCertificate(t.Context(), s, claims)
			if err != nil {
				t.Fatal(err)
			}
			l := identity.NewLayout(s.Public(), len(id.URN()), chipLen)
			raw := cert.Bytes()
			if err := l.Verify(raw, s.Public(), c.ChipID, c.Realm); err != nil {
				t.Fatalf("%s, chip ID of %d bytes: %v", id, chipLen, err)
			}
			if l.GenerationOf(raw) != c.Generation || l.URNOf(raw) != id.URN() {
				t.Fatalf("read generation %d and %q", l.GenerationOf(raw), l.URNOf(raw))
			}
			for i := range raw {
				bad := bytes.Clone(raw)
				bad[i] ^= 0x80
				if l.Verify(bad, s.Public(), c.ChipID, c.Realm) == nil {
					t.Fatalf("byte %d of %d flipped, and the ROM takes it", i, len(raw))
				}
			}
			if l.Verify(raw, s.Public(), c.ChipID, identity.Production) == nil {
				t.Error("the ROM takes a certificate of another realm")
			}
			other, _ := identity.ParseChipID(bytes.Repeat([]byte{0xc2}, chipLen))
			if l.Verify(raw, s.Public(), other, c.Realm) == nil {
				t.Error("the ROM takes another chip's certificate")
			}
			if l.Verify(raw[:len(raw)-1], s.Public(), c.ChipID, c.Realm) == nil || l.Verify(nil, s.Public(), c.ChipID, c.Realm) == nil {
				t.Error("the ROM takes a short certificate")
			}
		}
	}
}

func TestUnlock(t *testing.T) {
	t.Parallel()
	s := newGoldenSigner(t)
	u := identity.Unlock{Realm: identity.Development, Record: goldenClaims(t).ChipID.RecordID(), Next: 7}
	raw, err := identity.SignUnlock(t.Context(), s, u)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := identity.ParseUnlock(raw, s.Public()); err != nil || got != u {
		t.Fatalf("%+v, %v", got, err)
	}
	if _, err := identity.ParseCertificate(raw, s.Public()); err == nil {
		t.Error("an unlock statement passes for a certificate")
	}
	u.Next = 1
	if _, err := identity.SignUnlock(t.Context(), s, u); err == nil {
		t.Error("an unlock to the first generation was signed")
	}
}
