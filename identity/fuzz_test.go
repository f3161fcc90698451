package identity_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"strings"
	"testing"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/statement"
)

// near adds an artefact and some that miss by a little.
func near(f *testing.F, b []byte) {
	f.Add(b)
	f.Add(b[:len(b)-1])
	f.Add(append(bytes.Clone(b), 0))
	other := bytes.Clone(b)
	other[len(b)/2] ^= 1
	f.Add(other)
	f.Add([]byte{})
}

// FuzzParseCertificate holds the parser against the boot ROM's way, by offsets:
// unsigned, both refuse everything but the seed.
func FuzzParseCertificate(f *testing.F) {
	s, c := newGoldenSigner(f), goldenClaims(f)
	claims, err := c.Encode()
	if err != nil {
		f.Fatal(err)
	}
	cert, err := identity.SignCertificate(f.Context(), s, claims)
	if err != nil {
		f.Fatal(err)
	}
	near(f, cert.Bytes())
	f.Add(claims)
	l := identity.NewLayout(s.Public(), len(c.Subject.URN()), c.ChipID.Len())
	f.Fuzz(func(t *testing.T, b []byte) {
		got, slow := identity.ParseCertificate(b, s.Public())
		rom := l.Verify(b, s.Public(), c.ChipID, c.Realm)
		if (slow == nil) != (rom == nil) {
			t.Fatalf("the parser says %v, the ROM says %v", slow, rom)
		}
		switch {
		case slow == nil && (!bytes.Equal(b, cert.Bytes()) || got.Claims != c || !bytes.Equal(got.Bytes(), b) || got.ClaimsHash() != sha256.Sum256(claims)):
			t.Fatalf("a certificate that nobody signed: %x", b)
		case slow != nil && !errors.Is(slow, statement.ErrForm) && !errors.Is(slow, statement.ErrSignature):
			t.Fatalf("unsigned, and refused for something else: %v", slow)
		case slow != nil && got.Bytes() != nil:
			t.Fatal("a certificate beside an error")
		}
	})
}

// FuzzClaims reads any claims, bare and signed by the key in the ROM: what the
// parser takes, the ROM of that product line takes, and it is one encoding.
func FuzzClaims(f *testing.F) {
	s, c := newGoldenSigner(f), goldenClaims(f)
	serial, err := identity.ParseSerial("32473-A1B2.C3")
	if err != nil {
		f.Fatal(err)
	}
	eui, err := identity.ParseEUI48("0024be804ff1")
	if err != nil {
		f.Fatal(err)
	}
	for _, id := range []identity.Identity{c.Subject, serial, eui} {
		c.Subject = id
		claims, err := c.Encode()
		if err != nil {
			f.Fatal(err)
		}
		near(f, claims)
	}
	id := string(c.ChipID.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := identity.ParseClaims(b)
		if err != nil {
			if strings.Contains(err.Error(), id) {
				t.Fatalf("the error has the chip ID: %v", err)
			}
			if _, err := identity.SignCertificate(t.Context(), s, b); err == nil {
				t.Fatalf("what are no claims was signed: %x", b)
			}
			return
		}
		if again, err := got.Encode(); err != nil || !bytes.Equal(again, b) || len(b) > identity.MaxClaims {
			t.Fatalf("%x\nreads, and is written as\n%x, %v", b, again, err)
		}
		cert, err := identity.SignCertificate(t.Context(), s, b)
		if err != nil || len(cert.Bytes()) > identity.MaxCertificate {
			t.Fatalf("claims that read can't be signed, or in %d bytes: %v", len(cert.Bytes()), err)
		}
		l := identity.NewLayout(s.Public(), len(got.Subject.URN()), got.ChipID.Len())
		if err := l.Verify(cert.Bytes(), s.Public(), got.ChipID, got.Realm); err != nil || l.Length != len(cert.Bytes()) {
			t.Fatalf("the parser takes what the ROM refuses: %v, %d bytes of %d", err, len(cert.Bytes()), l.Length)
		}
	})
}

// FuzzUnlock reads unlock statements, unsigned and signed.
func FuzzUnlock(f *testing.F) {
	s := newGoldenSigner(f)
	raw, err := identity.SignUnlock(f.Context(), s, identity.Unlock{Realm: identity.Development, Record: goldenClaims(f).ChipID.RecordID(), Next: 2})
	if err != nil {
		f.Fatal(err)
	}
	payload, err := statement.Open(raw, statement.Unlock, s.Public(), identity.MaxCertificate)
	if err != nil {
		f.Fatal(err)
	}
	near(f, raw)
	near(f, payload)
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := identity.ParseUnlock(b, s.Public()); err == nil && !bytes.Equal(b, raw) {
			t.Fatalf("a statement that nobody signed: %x", b)
		} else if err != nil && !errors.Is(err, statement.ErrForm) && !errors.Is(err, statement.ErrSignature) {
			t.Fatalf("unsigned, and refused for something else: %v", err)
		}
		signed, err := statement.Sign(t.Context(), s, statement.Unlock, b)
		if err != nil {
			return
		}
		u, err := identity.ParseUnlock(signed, s.Public())
		if err != nil {
			return
		}
		if again, err := identity.SignUnlock(t.Context(), s, u); err != nil || !bytes.Equal(again, signed) {
			t.Fatalf("%x\nreads as %+v, which is written as\n%x, %v", signed, u, again, err)
		}
	})
}

// FuzzIdentity reads any text as each type of identity and as all else that
// people and files write.
func FuzzIdentity(f *testing.F) {
	for _, s := range []string{
		"49015420323751", "490154203237518", "490154203237517", "00:24:be:80:4f:f1", "00-24-BE-80-4F-F1", "0024beff80804ff1", "0024befffe804ff1",
		"32473-A1B2.C3", "032473-A", "urn:gsma:imei:49015420-323751-0", "urn:dev:mac:0024befffe804ff1", "urn:dev:os:32473-A", "00440200",
		strings.Repeat("0a", 32), "development", "imei", "", "٤٩٠١٥٤٢٠٣٢٣٧٥١",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for kind := identity.Type(0); kind <= 5; kind++ {
			id, err := identity.Parse(kind, s)
			if err != nil {
				continue
			}
			// Its canonical text and its URN are the identity's again, and the only ones.
			value, err1 := identity.FromValue(kind, id.Value())
			urn, err2 := identity.FromURN(id.URN())
			if err1 != nil || err2 != nil || value != id || urn != id || id.Type() != kind {
				t.Fatalf("%s %q: value %q gives %v, %v; URN %q gives %v, %v", kind, s, id.Value(), value, err1, id.URN(), urn, err2)
			}
			if text, err := identity.Parse(kind, id.String()); err != nil || text != id {
				t.Fatalf("%s %q: its text %q gives %v, %v", kind, s, id, text, err)
			}
			if strings.ContainsAny(id.Value(), "/\\ \x00") || strings.HasPrefix(id.Value(), ".") {
				t.Fatalf("%q is no name of a file", id.Value())
			}
		}
		if id, err := identity.FromURN(s); err == nil && id.URN() != s {
			t.Fatalf("URN %q reads as %q", s, id.URN())
		}
		if r, err := identity.ParseRecordID(s); err == nil && r.String() != s {
			t.Fatalf("record id %q reads as %q", s, r)
		}
		if r, err := identity.ParseRealm(s); err == nil && (r.String() != s || !r.Valid()) {
			t.Fatalf("realm %q reads as %q", s, r)
		}
		if tac, err := identity.ParseTAC(s); err == nil {
			if string(tac) != s {
				t.Fatalf("TAC %q reads as %q", s, tac)
			}
			if id, err := tac.IMEI(999_999); err != nil || !strings.HasPrefix(id.Value(), s) {
				t.Fatalf("TAC %q has no last IMEI: %v, %v", s, id, err)
			}
		}
	})
}
