package rom_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/identity/identitytest"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/statement"
)

// What the documents print.
func TestGolden(t *testing.T) {
	t.Parallel()
	p := start(t)
	id, pkg := golden(t, "../../identity/testdata/golden.json"), golden(t, "../../keypackage/testdata/golden.json")
	rom := newSigner(t, goldenKey)
	me := self{id["chip_id"], identity.Development, identity.TypeIMEI, id["rom_key_point"], id["rom_key_hash"]}

	if r, hash := p.ask(t, 'H', id["rom_key_point"]); r != resultOK || !bytes.Equal(hash, id["rom_key_hash"]) {
		t.Errorf("hash of the ROM key: %s, %x", r, hash)
	}
	r, b := p.ask(t, 'V', me.fields(id["certificate"])...)
	if r != resultOK {
		t.Fatalf("the golden certificate: %s", r)
	}
	claims, err := identity.ParseClaims(id["claims"])
	if err != nil {
		t.Fatal(err)
	}
	want := fieldsOf(claims, id["claims"])
	copy(want.ClaimsHash[:], id["claims_hash"])
	if diff := cmp.Diff(want, readFields(t, b)); diff != "" {
		t.Errorf("fields (-Go +C):\n%s", diff)
	}

	// The other file has claims and no certificate.
	cert, err := identity.SignCertificate(t.Context(), rom, pkg["claims"])
	if err != nil {
		t.Fatal(err)
	}
	me = selfOf(cert.Claims, rom.Public())
	r, b = p.ask(t, 'S', me.fields(cert.Bytes())...)
	if r != resultOK || len(b) != 50+50+71 {
		t.Fatalf("contexts: %s, %d bytes", r, len(b))
	}
	seal := keypackage.ChipContext(cert.Realm, keypackage.ChipSeal, cert.ClaimsHash())
	for name, c := range map[string]struct{ have, want []byte }{
		"chip_wrap_context": {b[:50], pkg["chip_wrap_context"]},
		"chip seal context": {b[50:100], seal},
		"backup_gcm_aad":    {b[100:], pkg["backup_gcm_aad"]},
	} {
		if !bytes.Equal(c.have, c.want) || len(c.want) == 0 {
			t.Errorf("%s: %x, should be %x", name, c.have, c.want)
		}
	}
	manifest := func(m []byte) result {
		r, _ := p.ask(t, 'M', append(me.fields(cert.Bytes()), m)...)
		return r
	}
	if r := manifest(pkg["manifest"]); r != resultOK {
		t.Errorf("the golden manifest: %s", r)
	}
	for _, m := range [][]byte{pkg["manifest"][1:], append(bytes.Clone(pkg["manifest"]), 0), flip(pkg["manifest"], 40, 1)} {
		if r := manifest(m); r != resultManifest {
			t.Errorf("another manifest: %s", r)
		}
	}
	if r := manifest(nil); r != resultArgument {
		t.Errorf("no manifest: %s", r)
	}
	if r, _ := p.ask(t, 'P', pkg["backup"]); r != resultBackup {
		t.Errorf("the golden backup: %s", r)
	}
}

func TestPackageCodes(t *testing.T) {
	t.Parallel()
	p := start(t)
	most := make([]byte, keypackage.MaxPackage+1)
	copy(most, keypackage.BackupCode[:])
	for name, c := range map[string]struct {
		bytes []byte
		want  result
	}{
		"backup":        {append(keypackage.BackupCode[:], 1, 2), resultBackup},
		"code alone":    {keypackage.BackupCode[:], resultBackup},
		"ordinary":      {append(keypackage.DataCode[:], 0x84), resultData},
		"the largest":   {most[:keypackage.MaxPackage], resultBackup},
		"larger":        {most, resultForm},
		"cut":           {keypackage.BackupCode[:7], resultForm},
		"nothing":       {nil, resultForm},
		"a certificate": {[]byte("\xd2\x84\x58\x37\xa3\x01\x26\x04\x48"), resultForm},
	} {
		if r, _ := p.ask(t, 'P', c.bytes); r != c.want {
			t.Errorf("%s: %s, should be %s", name, r, c.want)
		}
	}
	// Every other code: each byte, each value.
	for i := range keypackage.BackupCode {
		for x := 1; x < 256; x++ {
			code := flip(keypackage.BackupCode[:], i, byte(x))
			want := resultForm
			if bytes.Equal(code, keypackage.DataCode[:]) {
				want = resultData
			}
			if r, _ := p.ask(t, 'P', code); r != want {
				t.Errorf("code %x: %s, should be %s", code, r, want)
			}
		}
	}
}

// Null pointers, wrong sizes of output, unverified claims, distances between results.
func TestArguments(t *testing.T) {
	t.Parallel()
	if r, _ := start(t).ask(t, 'T'); r != resultOK {
		t.Error(r)
	}
}

func flip(b []byte, i int, x byte) []byte {
	c := bytes.Clone(b)
	c[i] ^= x
	return c
}

func sign(t fataler, s statement.Signer, c identity.Claims) (coded, raw []byte) {
	t.Helper()
	coded, err := c.Encode()
	if err != nil {
		t.Fatalf("%v", err)
	}
	cert, err := identity.SignCertificate(context.Background(), s, coded)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return coded, cert.Bytes()
}

// For every layout: taken with the right fields; refused with any byte changed, at any other length, and by every other device.
func TestEveryLayout(t *testing.T) {
	t.Parallel()
	rom, other := newSigner(t, goldenKey), newSigner(t, strings.Repeat("5a", 32))
	lengths := map[int]bool{}
	for _, m := range identitytest.EveryLayout(t, rom) {
		lengths[len(m.Raw)] = true
		t.Run(m.Name, func(t *testing.T) {
			t.Parallel()
			p := start(t)
			me := selfOf(m.Claims, rom.Public())
			r, b := p.ask(t, 'V', me.fields(m.Raw)...)
			if r != resultOK {
				t.Fatal(r)
			}
			if diff := cmp.Diff(fieldsOf(m.Claims, m.Coded), readFields(t, b)); diff != "" {
				t.Errorf("fields (-Go +C):\n%s", diff)
			}
			refuse := func(what string, raw []byte, me self, want ...result) {
				t.Helper()
				r, _ := p.ask(t, 'V', me.fields(raw)...)
				if r == resultOK || len(want) > 0 && !slices.Contains(want, r) {
					t.Errorf("%s: %s", what, r)
				}
			}
			// A PRNG chooses one more change for each byte; the place is what counts.
			random := rand.New(rand.NewPCG(uint64(len(m.Raw)), 1))
			for i := range m.Raw {
				for _, x := range []byte{1, 0x80, byte(2 + random.IntN(126))} {
					bad := flip(m.Raw, i, x)
					refuse(fmt.Sprintf("byte %d changed by %02x", i, x), bad, me)
					if me.accepts(bad, rom.Public()) {
						t.Errorf("byte %d changed by %02x: Go takes it", i, x)
					}
				}
				refuse(fmt.Sprintf("cut to %d", i), m.Raw[:i], me, resultForm)
				refuse(fmt.Sprintf("cut by %d at the beginning", i+1), m.Raw[i+1:], me, resultForm, resultKey)
			}
			for n := 1; n <= 300; n += 1 + n/8 {
				refuse(fmt.Sprintf("%d zeros more", n), append(bytes.Clone(m.Raw), make([]byte, n)...), me, resultForm)
			}
			refuse("twice", append(bytes.Clone(m.Raw), m.Raw...), me, resultForm)

			with := func(change func(*self)) self {
				s := me
				change(&s)
				return s
			}
			otherHash := other.Public().Hash()
			for _, c := range []struct {
				what string
				me   self
				want result
			}{
				{"another chip", with(func(s *self) { s.chip = flip(s.chip, len(s.chip)-1, 1) }), resultChip},
				{"the other realm", with(func(s *self) { s.realm = identity.Development }), resultRealm},
				{"another key burned in", with(func(s *self) { s.hash = otherHash[:] }), resultKey},
				{"another key beside the burned hash", with(func(s *self) { s.key = other.Public().Point() }), resultKey},
				{"another key", with(func(s *self) { s.key, s.hash = other.Public().Point(), otherHash[:] }), resultKey},
				{"a compressed key", with(func(s *self) { s.key = flip(s.key, 0, 6) }), resultKey},
				{"no realm", with(func(s *self) { s.realm = 0 }), resultArgument},
				{"a third realm", with(func(s *self) { s.realm = 3 }), resultArgument},
				{"type 0", with(func(s *self) { s.typ = 0 }), resultArgument},
				{"type 5", with(func(s *self) { s.typ = 5 }), resultArgument},
				{"a chip never programmed", with(func(s *self) { s.chip = make([]byte, len(s.chip)) }), resultArgument},
				{"no chip ID", with(func(s *self) { s.chip = nil }), resultArgument},
				{"a chip ID of 17 bytes", with(func(s *self) { s.chip = bytes.Repeat([]byte{1}, 17) }), resultArgument},
			} {
				refuse(c.what, m.Raw, c.me, c.want)
			}
			for _, typ := range []identity.Type{identity.TypeIMEI, identity.TypeEUI48, identity.TypeEUI64, identity.TypeSerial} {
				if typ != me.typ {
					refuse("type "+typ.String(), m.Raw, with(func(s *self) { s.typ = typ }))
				}
			}
			for _, n := range []int{16, 24, 32} {
				if n != len(me.chip) {
					refuse(fmt.Sprintf("chip ID of %d bytes", n), m.Raw, with(func(s *self) { s.chip = append(bytes.Clone(s.chip), s.chip...)[:n] }))
				}
			}
		})
	}
	if len(lengths) < 15 {
		t.Errorf("only %d lengths of certificate: %v", len(lengths), lengths)
	}
}

// What is signed but no claims set is refused by C as by Go.
func TestSignedNonsense(t *testing.T) {
	t.Parallel()
	p, rom := start(t), newSigner(t, goldenKey)
	hash := rom.Public().Hash()
	for name, claims := range identitytest.BadClaims() {
		raw, err := statement.Sign(t.Context(), rom, statement.IdentityCertificate, claims)
		if err != nil {
			t.Fatal(err)
		}
		for typ := identity.TypeIMEI; typ <= identity.TypeSerial; typ++ {
			me := self{bytes.Repeat([]byte{0xc1}, 16), identity.Development, typ, rom.Public().Point(), hash[:]}
			if me.accepts(raw, rom.Public()) {
				t.Errorf("%s: Go takes it", name)
			}
			if r, _ := p.ask(t, 'V', me.fields(raw)...); r != resultClaims && r != resultForm && r != resultRealm {
				t.Errorf("%s as %s: %s", name, typ, r)
			}
		}
	}
	// The same set without a mistake is taken: the rows above fail for what they name.
	m := identityClaims(t, identity.TypeIMEI, "00440245000001")
	_, raw := sign(t, rom, m)
	if r, _ := p.ask(t, 'V', selfOf(m, rom.Public()).fields(raw)...); r != resultOK {
		t.Error(r)
	}
}

func identityClaims(t fataler, typ identity.Type, text string) identity.Claims {
	t.Helper()
	id, err := identity.FromValue(typ, text)
	if err != nil {
		t.Fatalf("%v", err)
	}
	chip, err := identity.ParseChipID(bytes.Repeat([]byte{0xc1}, 16))
	if err != nil {
		t.Fatalf("%v", err)
	}
	return identity.Claims{Subject: id, IssuedAt: 1700000000, ChipID: chip, Realm: identity.Development, Generation: 1}
}

// Any certificate: same fields, contexts and associated data as Go's; after any mutation, of
// the certificate or, before signing, of the claims, the same word.
func TestAgreement(t *testing.T) {
	t.Parallel()
	p, rom := start(t), newSigner(t, goldenKey)
	texts := map[identity.Type]*rapid.Generator[string]{
		identity.TypeIMEI:   rapid.StringMatching(`[0-9]{14}`),
		identity.TypeEUI48:  rapid.StringMatching(`[0-9a-f][02468ace][0-9a-f]{9}[1-9a-f]`),
		identity.TypeEUI64:  rapid.StringMatching(`[0-9a-f][02468ace][0-9a-f]{4}[0-9a-e][0-9a-f]{8}[1-9a-f]`),
		identity.TypeSerial: rapid.StringMatching(`[1-9][0-9]{0,9}-[0-9A-Z.]{1,32}`),
	}
	taken, refused := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		typ := rapid.SampledFrom([]identity.Type{identity.TypeIMEI, identity.TypeEUI48, identity.TypeEUI64, identity.TypeSerial}).Draw(t, "type")
		c := identityClaims(t, typ, texts[typ].Draw(t, "identity"))
		n := rapid.SampledFrom([]int{16, 24, 32}).Draw(t, "length of chip ID")
		chip, err := identity.ParseChipID(append(rapid.SliceOfN(rapid.Byte(), n-1, n-1).Draw(t, "chip ID"), 1))
		if err != nil {
			t.Fatal(err)
		}
		c.ChipID = chip
		c.Realm = rapid.SampledFrom([]identity.Realm{identity.Development, identity.Production}).Draw(t, "realm")
		c.Generation = identity.Generation(rapid.Uint32Min(1).Draw(t, "generation"))
		c.IssuedAt = rapid.Uint32Min(1<<16).Draw(t, "issued at")
		copy(c.Manifest[:], rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "manifest"))
		coded, raw := sign(t, rom, c)
		me := selfOf(c, rom.Public())

		r, b := p.ask(t, 'V', me.fields(raw)...)
		if r != resultOK {
			t.Fatalf("a good certificate: %s", r)
		}
		want := fieldsOf(c, coded)
		if diff := cmp.Diff(want, readFields(t, b)); diff != "" {
			t.Fatalf("fields (-Go +C):\n%s", diff)
		}
		_, b = p.ask(t, 'S', me.fields(raw)...)
		contexts := slices.Concat(keypackage.ChipContext(c.Realm, keypackage.ChipWrap, want.ClaimsHash), keypackage.ChipContext(c.Realm, keypackage.ChipSeal, want.ClaimsHash),
			keypackage.SealedAAD(keypackage.BackupAAD(want.ClaimsHash)))
		if !bytes.Equal(b, contexts) {
			t.Fatalf("contexts and associated data are %x, Go's %x", b, contexts)
		}

		agree := func(what string, raw []byte) {
			r, _ := p.ask(t, 'V', me.fields(raw)...)
			if goes := me.accepts(raw, rom.Public()); goes != (r == resultOK) {
				t.Fatalf("%s: C says %s, Go takes it: %v\n%x", what, r, goes, raw)
			}
			if r == resultOK {
				taken++
			} else {
				refused++
			}
		}
		agree("mutated certificate", mutate(t, raw))
		signed, err := statement.Sign(context.Background(), rom, statement.IdentityCertificate, mutate(t, coded))
		if err != nil {
			t.Fatal(err)
		}
		agree("mutated claims, signed", signed)
	})
	if taken == 0 || refused == 0 {
		t.Errorf("%d mutants taken, %d refused: one half of the test checks nothing", taken, refused)
	}
}

// mutate changes, removes or adds a few bytes.
func mutate(t *rapid.T, b []byte) []byte {
	b = bytes.Clone(b)
	for range rapid.IntRange(1, 3).Draw(t, "changes") {
		at := rapid.IntRange(0, len(b)-1).Draw(t, "place")
		switch rapid.IntRange(0, 5).Draw(t, "kind of change") {
		case 0:
			b = slices.Insert(b, at, rapid.Byte().Draw(t, "byte"))
		case 1:
			if len(b) > 1 {
				b = slices.Delete(b, at, at+1)
			}
		case 2:
			b[at] = rapid.Byte().Draw(t, "byte")
		case 3: // within digits and letters another digit or letter often gives other good claims
			b[at] ^= 1
		case 4:
			b[at]++
		default:
			if len(b) >= at+4 {
				binary.BigEndian.PutUint32(b[at:], binary.BigEndian.Uint32(b[at:])+1)
			}
		}
	}
	return b
}
