package keypackage_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"errors"
	"strings"
	"testing"

	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/statement"
)

// newFixedSigner gives one key that signs as RFC 6979 says: the fuzzer's processes
// each make their own, and what one signs the other must take.
func newFixedSigner(t testing.TB) statement.SoftwareKey {
	t.Helper()
	k, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), sequence(1, 32))
	if err != nil {
		t.Fatal(err)
	}
	key, err := statement.NewSoftwareKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return key.Deterministic()
}

// near adds an artefact and some that miss by a little.
func near(f *testing.F, b []byte) {
	f.Add(b)
	f.Add(b[:len(b)-1])
	f.Add(append(bytes.Clone(b), 0))
	f.Add(b[:len(b)/2])
	other := bytes.Clone(b)
	other[len(b)/2] ^= 1
	f.Add(other)
	f.Add([]byte{})
}

// same fails where what was read is not written as it was.
func same(t *testing.T, what string, b, again []byte, err error) {
	t.Helper()
	if err != nil || !bytes.Equal(again, b) {
		t.Fatalf("%s\n%x\nreads, and is written as\n%x, %v", what, b, again, err)
	}
}

func FuzzManifest(f *testing.F) {
	fx := newFixture(f)
	raw, err := fx.manifest.Encode()
	if err != nil {
		f.Fatal(err)
	}
	near(f, raw)
	one := fx.manifest
	one.Entries = one.Entries[:1]
	if raw, err = one.Encode(); err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := keypackage.ParseManifest(b)
		if err != nil {
			quiet(t, err, b)
			return
		}
		again, err := m.Encode()
		same(t, "a manifest", b, again, err)
		if n := len(m.Entries); n == 0 || n > keypackage.MaxEntries || len(b) > keypackage.MaxManifest {
			t.Fatalf("%d entries in %d bytes", n, len(b))
		}
		clear := 0
		for _, e := range m.Entries {
			if e.Form() == keypackage.FormClear {
				clear++
			}
		}
		if len(m.Wrapped())+len(m.Secrets())+clear != len(m.Entries) {
			t.Fatalf("of %d entries %d travel wrapped, %d as secrets, %d in clear", len(m.Entries), len(m.Wrapped()), len(m.Secrets()), clear)
		}
		if i, ok := m.Proving(); ok && m.Entries[i].Algorithm != keypackage.HMACSHA256 {
			t.Fatalf("entry %d can prove nothing", i)
		}
	})
}

// quiet fails where an error repeats a chip ID: every manifest and hello of the
// seeds has the fixture's.
func quiet(t *testing.T, err error, b []byte) {
	t.Helper()
	id := sequence(0x10, 16)
	if bytes.Contains(b, id) && strings.Contains(err.Error(), string(id)) {
		t.Fatalf("the error has the chip ID: %v", err)
	}
}

func FuzzHello(f *testing.F) {
	fx := newFixture(f)
	raw, err := fx.hello.Encode()
	if err != nil {
		f.Fatal(err)
	}
	near(f, raw)
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := keypackage.ParseHello(b)
		if err != nil {
			quiet(t, err, b)
			return
		}
		again, err := h.Encode()
		same(t, "a hello", b, again, err)
		if len(b) > keypackage.MaxHello || h.ChipID.IsZero() || h.Point.IsZero() {
			t.Fatalf("a hello of %d bytes: %+v", len(b), h)
		}
	})
}

// codes: a package of one sort is never one of the other, and the error says so.
func codes(t *testing.T, b []byte, code, other keypackage.Code, err error) {
	t.Helper()
	if errors.Is(err, keypackage.ErrCode) && bytes.HasPrefix(b, code[:]) || err == nil && !bytes.HasPrefix(b, code[:]) {
		t.Fatalf("code %x: %v", b[:min(8, len(b))], err)
	}
	if bytes.HasPrefix(b, other[:]) && len(b) <= keypackage.MaxPackage && !errors.Is(err, keypackage.ErrCode) {
		t.Fatalf("a package of the other sort: %v", err)
	}
	if len(b) > keypackage.MaxPackage && !errors.Is(err, detcbor.ErrTooLarge) {
		t.Fatalf("a package of %d bytes: %v", len(b), err)
	}
}

func FuzzDataPackage(f *testing.F) {
	fx := newFixture(f)
	raw, err := fx.data.Encode()
	if err != nil {
		f.Fatal(err)
	}
	near(f, raw)
	fx.data.Secrets = nil
	if raw, err = fx.data.Encode(); err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add(fx.backup)
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := keypackage.ParseDataPackage(b)
		codes(t, b, keypackage.DataCode, keypackage.BackupCode, err)
		if err != nil {
			return
		}
		again, err := p.Encode()
		same(t, "a data package", b, again, err)
		if len(p.Certificate) > identity.MaxCertificate {
			t.Fatalf("a certificate of %d bytes", len(p.Certificate))
		}
	})
}

func FuzzBackup(f *testing.F) {
	fx := newFixture(f)
	near(f, fx.backup)
	data, err := fx.data.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := keypackage.ParseBackup(b)
		codes(t, b, keypackage.BackupCode, keypackage.DataCode, err)
		if err != nil {
			return
		}
		again, err := p.Encode()
		same(t, "a backup", b, again, err)
	})
}

// FuzzContents reads what a package decrypts to: whoever knows no key of the
// device can't choose it, but whoever made it may have erred.
func FuzzContents(f *testing.F) {
	fx := newFixture(f)
	plain, err := fx.contents.Encode(fx.manifest)
	if err != nil {
		f.Fatal(err)
	}
	near(f, plain)
	secrets, err := keypackage.EncodeSecrets(fx.secrets)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(secrets)
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := keypackage.ParseContents(b, fx.manifest)
		if err == nil {
			again, err := c.Encode(fx.manifest)
			same(t, "contents", b, again, err)
		} else if strings.Contains(err.Error(), string(fx.secrets[0].Value)) {
			t.Fatalf("the error has the secret: %v", err)
		}
		s, err := keypackage.ParseSecrets(b, fx.manifest)
		switch {
		case err == nil:
			again, err := keypackage.EncodeSecrets(s)
			same(t, "secrets", b, again, err)
			if !bytes.Equal(b, secrets) {
				t.Fatalf("%x passes for the secret that the manifest vouches for", b)
			}
		case strings.Contains(err.Error(), string(fx.secrets[0].Value)):
			t.Fatalf("the error has the secret: %v", err)
		}
	})
}

func FuzzSealed(f *testing.F) {
	fx := newFixture(f)
	near(f, fx.data.Secrets.Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		const limit = 1 << 10
		s, err := keypackage.ParseSealed(b, limit)
		if err != nil {
			return
		}
		same(t, "a sealed structure", b, s.Encode(), nil)
		if len(b) > limit || len(s.Ciphertext) < keypackage.TagSize {
			t.Fatalf("%d bytes, %d of ciphertext", len(b), len(s.Ciphertext))
		}
	})
}

// nullChips is a delivery list with null in place of its chips: fuzzing found that it read as an empty one.
var nullChips = []byte("\x85\x01\x01\x69Chipworks\x672026-47\xf6")

// A list of no chips has one encoding, and null is none.
func TestDeliveryListNullChips(t *testing.T) {
	t.Parallel()
	s := newFixedSigner(t)
	for payload, want := range map[string]bool{string(nullChips): false, strings.TrimSuffix(string(nullChips), "\xf6") + "\x80": true} {
		raw, err := statement.Sign(t.Context(), s, statement.DeliveryList, []byte(payload))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := keypackage.ParseDeliveryList(raw, s.Public()); (err == nil) != want || !want && !strings.Contains(err.Error(), "null in place of the chips") {
			t.Errorf("%x: %v", payload, err)
		}
	}
}

// FuzzDeliveryList reads lists that the chip maker signed, and ones nobody did.
func FuzzDeliveryList(f *testing.F) {
	s := newFixedSigner(f)
	l := keypackage.DeliveryList{Realm: identity.Development, Maker: "Chipworks", Lot: "2026-47"}
	for i := range 3 {
		_, p := point(f, sequence(byte(0x10*i+1), 32))
		l.Chips = append(l.Chips, keypackage.DeliveredChip{Record: identity.RecordID{byte(i)}, Attestation: p})
	}
	raw, err := keypackage.SignDeliveryList(f.Context(), s, l)
	if err != nil {
		f.Fatal(err)
	}
	near(f, raw)
	payload, err := statement.Open(raw, statement.DeliveryList, s.Public(), keypackage.MaxDeliveryList)
	if err != nil {
		f.Fatal(err)
	}
	near(f, payload)
	f.Add(nullChips)
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := keypackage.ParseDeliveryList(b, s.Public()); err == nil && !bytes.Equal(b, raw) {
			// What the fuzzer signed below never comes back as an input.
			t.Fatalf("a list that nobody signed: %x", b)
		} else if err != nil && !errors.Is(err, statement.ErrForm) && !errors.Is(err, statement.ErrSignature) {
			t.Fatalf("unsigned, and refused for something else: %v", err)
		}
		if len(b) == 0 {
			return
		}
		signed, err := statement.Sign(t.Context(), s, statement.DeliveryList, b)
		if err != nil {
			t.Fatal(err)
		}
		got, err := keypackage.ParseDeliveryList(signed, s.Public())
		if err != nil {
			return
		}
		again, err := keypackage.SignDeliveryList(t.Context(), s, got)
		same(t, "a delivery list", signed, again, err)
	})
}

// FuzzKeyFile reads the word of a sender on his file, and of nobody.
func FuzzKeyFile(f *testing.F) {
	s := newFixedSigner(f)
	k := keypackage.KeyFile{Realm: identity.Development, Line: "meter", Hash: [32]byte(sequence(1, 32))}
	raw, err := keypackage.SignKeyFile(f.Context(), s, k)
	if err != nil {
		f.Fatal(err)
	}
	payload, err := k.Encode()
	if err != nil {
		f.Fatal(err)
	}
	near(f, raw)
	near(f, payload)
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := keypackage.ParseKeyFile(b, s.Public()); err == nil && !bytes.Equal(b, raw) {
			t.Fatalf("a file that nobody signed: %x", b)
		}
		if len(b) == 0 {
			return
		}
		signed, err := statement.Sign(t.Context(), s, statement.KeyFile, b)
		if err != nil {
			t.Fatal(err)
		}
		got, err := keypackage.ParseKeyFile(signed, s.Public())
		if err != nil {
			return
		}
		again, err := keypackage.SignKeyFile(t.Context(), s, got)
		same(t, "the statement of a key file", signed, again, err)
	})
}
