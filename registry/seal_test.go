package registry_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/registry"
	"github.com/devicekeys/devicekeys/registry/registrytest"
	"github.com/devicekeys/devicekeys/statement"
)

// Seal and Open are inverse, and every changed byte of the sealed record or
// of what it is bound to keeps it shut.
func TestSealOpen(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		raw := rapid.SampledFrom([]int{16, 24, 32}).Draw(rt, "length")
		chip, err := identity.ParseChipID(rapid.SliceOfN(rapid.ByteRange(1, 255), raw, raw).Draw(rt, "chip"))
		if err != nil {
			rt.Fatal(err)
		}
		r := registry.Record{
			Certificate: rapid.SliceOfN(rapid.Byte(), 1, 300).Draw(rt, "certificate"),
			Backup:      rapid.SliceOfN(rapid.Byte(), 1, 600).Draw(rt, "backup"),
		}
		for range rapid.IntRange(0, 3).Draw(rt, "certificates") {
			r.X509 = append(r.X509, rapid.SliceOfN(rapid.Byte(), 1, 100).Draw(rt, "x509"))
		}
		e, err := registry.Seal(rand.Reader, chip, registry.Entry{
			Realm:      rapid.SampledFrom([]identity.Realm{identity.Development, identity.Production}).Draw(rt, "realm"),
			Type:       rapid.SampledFrom([]registry.EntryType{registry.Register, registry.Supersede}).Draw(rt, "type"),
			Generation: identity.Generation(rapid.Uint32Min(1).Draw(rt, "generation")),
		}, r)
		if err != nil {
			rt.Fatal(err)
		}
		again, err := registry.ParseEntry(registrytest.Encode(t, e))
		if err != nil {
			rt.Fatal(err)
		}
		if d := cmp.Diff(e, again); d != "" {
			rt.Fatalf("the entry read back differs:\n%s", d)
		}
		opened, err := registry.Open(chip, again)
		if err != nil {
			rt.Fatal(err)
		}
		if d := cmp.Diff(r, opened); d != "" {
			rt.Fatalf("the record opened differs:\n%s", d)
		}
		changed := again
		changed.Sealed = bytes.Clone(again.Sealed)
		at := rapid.IntRange(0, len(changed.Sealed)-1).Draw(rt, "byte")
		changed.Sealed[at] ^= 1 << rapid.IntRange(0, 7).Draw(rt, "bit")
		if _, err := registry.Open(chip, changed); !errors.Is(err, registry.ErrSealed) {
			rt.Fatalf("with byte %d changed: %v", at, err)
		}
	})
}

// The sealed record, done by hand from the text of the format.
func TestSealByHand(t *testing.T) {
	t.Parallel()
	chip, e := registrytest.Chip(t, 1), registrytest.Entry(t, 1, 2)
	mac := func(key, msg []byte) []byte {
		h := hmac.New(sha256.New, key)
		h.Write(msg)
		return h.Sum(nil)
	}
	// HKDF, RFC 5869 §2: no salt; one block; info = ["dk-record-seal", 1, 1, 2].
	info := append([]byte{0x84, 0x6e}, "dk-record-seal\x01\x01\x02"...)
	key := mac(mac(make([]byte, 32), chip.Bytes()), append(info, 1))
	// COSE_Encrypt0: [{1: 3}, {5: nonce}, ciphertext].
	head := []byte{0x83, 0x43, 0xa1, 0x01, 0x03, 0xa1, 0x05, 0x4c}
	if !bytes.HasPrefix(e.Sealed, head) {
		t.Fatalf("sealed record begins with %x", e.Sealed[:len(head)])
	}
	nonce, rest := e.Sealed[len(head):len(head)+12], e.Sealed[len(head)+12:]
	if rest[0] != 0x59 {
		t.Fatalf("ciphertext begins with %x", rest[0])
	}
	external := append([]byte{0x85, 1, 1, 2, 0x58, 0x20}, e.Record[:]...)
	external = append(external, 2)
	aad := append([]byte{0x83, 0x68}, "Encrypt0\x43\xa1\x01\x03\x58\x27"...)
	aad = append(aad, external...)
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	plaintext, err := gcm.Open(nil, nonce, rest[3:], aad)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := registry.ParseRecord(plaintext); err != nil {
		t.Fatal(err)
	}
	// RFC 6962 §2.1 over [1, realm, type, record id, generation, SHA-256(sealed)].
	sealed := sha256.Sum256(e.Sealed)
	leaf := append([]byte{0x86, 1, 1, 2, 0x58, 0x20}, e.Record[:]...)
	leaf = append(append(leaf, 2, 0x58, 0x20), sealed[:]...)
	if want := sha256.Sum256(append([]byte{0}, leaf...)); e.LeafHash() != want {
		t.Errorf("leaf hash %x, %x by hand", e.LeafHash(), want)
	}
}

// A record can't be moved under another head, and opens for its chip alone.
func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	e := registrytest.Entry(t, 1, 2)
	edit := func(f func(*registry.Entry)) registry.Entry { c := e; f(&c); return c }
	other := registrytest.Chip(t, 2)
	for _, c := range []struct {
		name  string
		chip  identity.ChipID
		entry registry.Entry
	}{
		{"another chip", other, e},
		{"another chip's head", other, edit(func(e *registry.Entry) { e.Record = other.RecordID() })},
		{"another realm", registrytest.Chip(t, 1), edit(func(e *registry.Entry) { e.Realm = identity.Production })},
		{"another type", registrytest.Chip(t, 1), edit(func(e *registry.Entry) { e.Type = registry.Register })},
		{"another generation", registrytest.Chip(t, 1), edit(func(e *registry.Entry) { e.Generation = 3 })},
		{"no chip ID", identity.ChipID{}, e},
	} {
		if _, err := registry.Open(c.chip, c.entry); !errors.Is(err, registry.ErrSealed) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if _, err := registry.Open(registrytest.Chip(t, 1), registrytest.End(t, 1, 2, registry.Scrap, registrytest.ROM(t))); err == nil {
		t.Error("a scrap entry opened")
	}
}

func TestSealRefuses(t *testing.T) {
	t.Parallel()
	good := registry.Entry{Realm: identity.Development, Type: registry.Register, Generation: 1}
	chip, record := registrytest.Chip(t, 1), registrytest.Record(t, 1, 1, 10)
	for _, c := range []struct {
		name   string
		chip   identity.ChipID
		entry  registry.Entry
		record registry.Record
		rand   []byte
	}{
		{"no chip ID", identity.ChipID{}, good, record, make([]byte, 12)},
		{"no realm", chip, registry.Entry{Type: registry.Register, Generation: 1}, record, make([]byte, 12)},
		{"no generation", chip, registry.Entry{Realm: identity.Development, Type: registry.Register}, record, make([]byte, 12)},
		{"scrap", chip, registry.Entry{Realm: identity.Development, Type: registry.Scrap, Generation: 1}, record, make([]byte, 12)},
		{"no certificate", chip, good, registry.Record{Backup: []byte{1}}, make([]byte, 12)},
		{"no backup", chip, good, registry.Record{Certificate: []byte{1}}, make([]byte, 12)},
		{"too long for an entry", chip, good, registrytest.Record(t, 1, 1, 65_400), make([]byte, 12)},
		{"nine X.509 certificates", chip, good, registry.Record{Certificate: []byte{1}, Backup: []byte{1}, X509: make([][]byte, 9)}, make([]byte, 12)},
		{"no randomness", chip, good, record, make([]byte, 11)},
	} {
		if _, err := registry.Seal(bytes.NewReader(c.rand), c.chip, c.entry, c.record); err == nil {
			t.Errorf("%s: sealed", c.name)
		}
	}
	if _, err := registry.Seal(rand.Reader, chip, good, registrytest.Record(t, 1, 1, 64_000)); err != nil {
		t.Errorf("the longest backups in use: %v", err)
	}
}

func TestStatement(t *testing.T) {
	t.Parallel()
	rom := registrytest.ROM(t)
	scrap := registrytest.End(t, 1, 1, registry.Scrap, rom)
	if err := scrap.CheckStatement(rom.Public()); err != nil {
		t.Fatal(err)
	}
	edit := func(f func(*registry.Entry)) registry.Entry { c := scrap; f(&c); return c }
	for _, c := range []struct {
		name  string
		entry registry.Entry
		want  error
	}{
		{"another generation", edit(func(e *registry.Entry) { e.Generation = 2 }), statement.ErrForm},
		{"another record", edit(func(e *registry.Entry) { e.Record[0] ^= 1 }), statement.ErrForm},
		{"another type", edit(func(e *registry.Entry) { e.Type = registry.Erase }), statement.ErrForm},
		{"another realm", edit(func(e *registry.Entry) { e.Realm = identity.Production }), statement.ErrForm},
		{"another key", registrytest.End(t, 1, 1, registry.Scrap, registrytest.NewSigner(t, "other")), statement.ErrForm},
		{"a changed signature", edit(func(e *registry.Entry) {
			e.Statement = bytes.Clone(e.Statement)
			e.Statement[len(e.Statement)-1] ^= 1
		}), statement.ErrSignature},
	} {
		if err := c.entry.CheckStatement(rom.Public()); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	if _, err := registry.SignStatement(t.Context(), rom, registrytest.Entry(t, 1, 1)); err == nil {
		t.Error("a register entry was signed as if it ended the record")
	}
}

func TestSubmissionRefuses(t *testing.T) {
	t.Parallel()
	good := registry.Submission{Realm: identity.Development, Submitter: "spp-1", Entries: [][]byte{{1}}}
	many := make([][]byte, registry.MaxSubmissionEntries+1)
	for i := range many {
		many[i] = []byte{1}
	}
	edit := func(f func(*registry.Submission)) registry.Submission { c := good; f(&c); return c }
	for name, s := range map[string]registry.Submission{
		"no realm":         edit(func(s *registry.Submission) { s.Realm = 0 }),
		"no submitter":     edit(func(s *registry.Submission) { s.Submitter = "" }),
		"slash":            edit(func(s *registry.Submission) { s.Submitter = "a/b" }),
		"no entries":       edit(func(s *registry.Submission) { s.Entries = nil }),
		"too many entries": edit(func(s *registry.Submission) { s.Entries = many }),
		"empty entry":      edit(func(s *registry.Submission) { s.Entries = [][]byte{{}} }),
		"too long entry":   edit(func(s *registry.Submission) { s.Entries = [][]byte{make([]byte, registry.MaxEntry+1)} }),
		"too long": edit(func(s *registry.Submission) {
			s.Entries = nil
			for range 300 {
				s.Entries = append(s.Entries, make([]byte, registry.MaxEntry))
			}
		}),
	} {
		if _, err := s.Encode(); err == nil {
			t.Errorf("%s: encoded", name)
		}
	}
	key := registrytest.NewSigner(t, "submission")
	raw, err := registry.SignSubmission(t.Context(), key, good)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := registry.ParseSubmission(raw, registrytest.ROM(t).Public()); !errors.Is(err, statement.ErrForm) {
		t.Errorf("with another key: %v", err)
	}
	raw[len(raw)-1] ^= 1
	if _, err := registry.ParseSubmission(raw, key.Public()); !errors.Is(err, statement.ErrSignature) {
		t.Errorf("with a changed signature: %v", err)
	}
	if _, id, err := registry.UnverifiedSubmission(raw); err != nil || id != key.Public().ID() {
		t.Errorf("unverified: %v, %v", id, err)
	}
}
