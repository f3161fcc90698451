package keypackage_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/statement"
)

var exported = cmp.AllowUnexported(identity.IMEI{}, identity.ChipID{}, statement.PublicKey{}, keypackage.KeyID{}, keypackage.Entry{}, keypackage.Secret{}, keypackage.Contents{})

func TestRoundTrips(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	manifest, err := f.manifest.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := keypackage.ParseManifest(manifest); err != nil || cmp.Diff(f.manifest, got, exported) != "" {
		t.Errorf("manifest: %v\n%s", err, cmp.Diff(f.manifest, got, exported))
	}
	hello, err := f.hello.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := keypackage.ParseHello(hello); err != nil || got != f.hello {
		t.Errorf("hello: %+v, %v", got, err)
	}
	data, err := f.data.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := keypackage.ParseDataPackage(data); err != nil || cmp.Diff(f.data, got, exported) != "" {
		t.Errorf("data package: %v\n%s", err, cmp.Diff(f.data, got, exported))
	}
	f.data.Secrets = nil
	if data, err = f.data.Encode(); err != nil {
		t.Fatal(err)
	}
	if got, err := keypackage.ParseDataPackage(data); err != nil || cmp.Diff(f.data, got, exported) != "" {
		t.Errorf("data package without secrets: %v\n%s", err, cmp.Diff(f.data, got, exported))
	}
	plain, err := f.contents.Encode(f.manifest)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := keypackage.ParseContents(plain, f.manifest); err != nil || cmp.Diff(f.contents, got, exported) != "" {
		t.Errorf("contents: %v\n%s", err, cmp.Diff(f.contents, got, exported))
	}
	b, err := keypackage.ParseBackup(f.backup)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := b.Encode(); err != nil || !bytes.Equal(again, f.backup) {
		t.Errorf("backup: %v", err)
	}
	if !bytes.HasPrefix(f.backup, keypackage.BackupCode[:]) {
		t.Error("a backup does not begin with the backup code")
	}
	if _, err := keypackage.ParseBackup(data); !errors.Is(err, keypackage.ErrCode) {
		t.Errorf("an ordinary data package passes for a backup: %v", err)
	}
	if _, err := keypackage.ParseDataPackage(f.backup); !errors.Is(err, keypackage.ErrCode) {
		t.Errorf("a backup passes for an ordinary data package: %v", err)
	}
	if _, err := keypackage.ParseBackup(append(bytes.Clone(f.backup), make([]byte, keypackage.MaxPackage)...)); !errors.Is(err, detcbor.ErrTooLarge) {
		t.Errorf("oversized: %v", err)
	}
}

func TestManifestRefuses(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	type entries = []keypackage.Entry
	for _, row := range []struct {
		name, why string
		spoil     func(m *keypackage.Manifest)
	}{
		{"no entry", "0 entries", func(m *keypackage.Manifest) { m.Entries = nil }},
		{"33 entries", "33 entries", func(m *keypackage.Manifest) {
			m.Entries = nil
			for i := range 33 {
				e := f.manifest.Entries[4]
				e.Key.Name = fmt.Sprintf("value-%d", i)
				m.Entries = append(m.Entries, e)
			}
		}},
		{"one name twice", "stands twice", func(m *keypackage.Manifest) { m.Entries = append(m.Entries, m.Entries[0]) }},
		{"generation 0", "generation 0", func(m *keypackage.Manifest) { m.Generation = 0 }},
		{"no realm", "not a realm", func(m *keypackage.Manifest) { m.Realm = 0 }},
		{"no identity", "no identity", func(m *keypackage.Manifest) { m.Identity = nil }},
		{"clear key", "never clear", func(m *keypackage.Manifest) { m.Entries[0].Clear = true }},
		{"clear private key", "never clear", func(m *keypackage.Manifest) { m.Entries[1].Clear = true }},
		{"communication key that is no key", "is symmetric", func(m *keypackage.Manifest) { m.Entries[0].Algorithm = keypackage.None }},
		{"sim lock as key", "is no key", func(m *keypackage.Manifest) { m.Entries[3].Algorithm = keypackage.HMACSHA256 }},
		{"pair that is symmetric", "a key pair has", func(m *keypackage.Manifest) { m.Entries[1].Algorithm = keypackage.HMACSHA256 }},
		{"unknown kind", "not known", func(m *keypackage.Manifest) { m.Entries[0].Kind = 9 }},
		{"unknown algorithm", "not known", func(m *keypackage.Manifest) { m.Entries[0].Algorithm = -8 }},
		{"short check value", "check value of 31", func(m *keypackage.Manifest) { m.Entries[0].Vouch = m.Entries[0].Vouch[:31] }},
		{"compressed public key", "no uncompressed", func(m *keypackage.Manifest) { m.Entries[1].Vouch = append([]byte{2}, m.Entries[1].Vouch[1:33]...) }},
		{"KDF without version", "both are 0", func(m *keypackage.Manifest) { m.Entries[0].Key.Version = 0 }},
		{"unknown KDF", "KDF 3", func(m *keypackage.Manifest) { m.Entries[0].Key.KDF = 3 }},
		{"capital in name", "not a lower-case", func(m *keypackage.Manifest) { m.Entries[0].Key.Name = "Channel" }},
		{"long name", "33 characters", func(m *keypackage.Manifest) { m.Entries[0].Key.Name = strings.Repeat("x", 33) }},
		{"empty clear value", "clear value of 0", func(m *keypackage.Manifest) { m.Entries[4].Vouch = nil }},
		{"derived secret", "derived key is symmetric", func(m *keypackage.Manifest) { m.Entries[3].Key = keypackage.KeyID{Name: "x", KDF: 1, Version: 1} }},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			m := f.manifest
			m.Entries = append(entries(nil), m.Entries...)
			row.spoil(&m)
			if _, err := m.Encode(); err == nil || !strings.Contains(err.Error(), row.why) {
				t.Errorf("%v, want an error with %q", err, row.why)
			}
		})
	}
}

func TestContentsMatchOneToOne(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	other := keypackage.Secret{Random: sequence(1, 32), Value: []byte("12345678")}
	for _, row := range []struct {
		name  string
		spoil func(c *keypackage.Contents)
	}{
		{"a key missing", func(c *keypackage.Contents) { c.Wrapped = c.Wrapped[:2] }},
		{"a key too many", func(c *keypackage.Contents) { c.Wrapped = append(c.Wrapped, c.Wrapped[0]) }},
		{"a key of another length", func(c *keypackage.Contents) { c.Wrapped[0] = c.Wrapped[1] }},
		{"a secret missing", func(c *keypackage.Contents) { c.Secrets = nil }},
		{"another secret", func(c *keypackage.Contents) { c.Secrets = []keypackage.Secret{other} }},
		{"other random bytes", func(c *keypackage.Contents) {
			c.Secrets = []keypackage.Secret{{Random: other.Random, Value: c.Secrets[0].Value}}
		}},
		{"a secret twice", func(c *keypackage.Contents) { c.Secrets = append(c.Secrets, c.Secrets[0]) }},
	} {
		c := keypackage.Contents{Wrapped: append([][]byte(nil), f.contents.Wrapped...), Secrets: append([]keypackage.Secret(nil), f.contents.Secrets...)}
		row.spoil(&c)
		if _, err := keypackage.ParseContents(detcbor.Must(c), f.manifest); err == nil {
			t.Errorf("%s: accepted", row.name)
		}
	}
}

// Every context and message is a different byte string, whatever goes in:
// what one purpose signs or derives under never serves another.
func TestMessagesNeverCoincide(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	rapid.Check(t, func(t *rapid.T) {
		h := [32]byte(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "hash"))
		g := identity.Generation(rapid.Uint32().Draw(t, "generation"))
		name := rapid.StringMatching(`[a-z]{1,8}`).Draw(t, "name")
		k := keypackage.KeyID{Name: name, KDF: 1, Version: 1}
		m := f.manifest
		m.Generation = g
		all := [][]byte{
			keypackage.PurposeContext(m.Realm, 1, 1, name), keypackage.DeviceKeyContext(m.Realm, k, m.Identity, g, h),
			keypackage.CheckMessage(m, k), keypackage.ChipContext(m.Realm, keypackage.ChipWrap, h), keypackage.ChipContext(m.Realm, keypackage.ChipSeal, h),
			keypackage.TransferContext(1, keypackage.TransferKEK, h), keypackage.TransferContext(1, keypackage.TransferPackage, h),
			keypackage.PackageAAD(h), keypackage.BackupAAD(h), keypackage.PoolAAD(m.Realm, 1, m.Identity, name),
			keypackage.ConfirmMessage(h, h), keypackage.RestoredMessage(h, h, h), keypackage.PublishedMessage(h), keypackage.LockedMessage(h), keypackage.AliveMessage(h, h),
		}
		for i := range all {
			for j := range i {
				if bytes.Equal(all[i], all[j]) {
					t.Fatalf("messages %d and %d are equal", i, j)
				}
			}
		}
	})
}

func TestDeliveryList(t *testing.T) {
	t.Parallel()
	s, err := statement.GenerateSoftwareKey()
	if err != nil {
		t.Fatal(err)
	}
	l := keypackage.DeliveryList{Realm: identity.Development, Maker: "Chipworks", Lot: "2026-47"}
	for i := range 3 {
		_, p := point(t, sequence(byte(0x10*i+1), 32))
		l.Chips = append(l.Chips, keypackage.DeliveredChip{Record: identity.RecordID{byte(i)}, Attestation: p})
	}
	raw, err := keypackage.SignDeliveryList(t.Context(), s, l)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := keypackage.ParseDeliveryList(raw, s.Public()); err != nil || cmp.Diff(l, got, exported) != "" {
		t.Fatalf("%v\n%s", err, cmp.Diff(l, got, exported))
	}
	twice, stolen := l, l
	twice.Chips = append(append([]keypackage.DeliveredChip(nil), l.Chips...), l.Chips[0])
	stolen.Chips = append(append([]keypackage.DeliveredChip(nil), l.Chips...), keypackage.DeliveredChip{Record: identity.RecordID{9}, Attestation: l.Chips[0].Attestation})
	for name, bad := range map[string]keypackage.DeliveryList{"a chip twice": twice, "an attestation key twice": stolen, "no lot": {Realm: 1, Maker: "m"}} {
		if _, err := keypackage.SignDeliveryList(t.Context(), s, bad); err == nil {
			t.Errorf("%s: signed", name)
		}
	}
}

// TestKeyFile: a sender's word is about one file, one product line and one realm, and nobody else's.
func TestKeyFile(t *testing.T) {
	t.Parallel()
	s, err := statement.GenerateSoftwareKey()
	if err != nil {
		t.Fatal(err)
	}
	other := newFixedSigner(t)
	k := keypackage.KeyFile{Realm: identity.Development, Line: "meter", Hash: [32]byte{7}}
	raw, err := keypackage.SignKeyFile(t.Context(), s, k)
	if err != nil {
		t.Fatal(err)
	}
	got, err := keypackage.ParseKeyFile(raw, s.Public())
	if err != nil || got != k {
		t.Fatalf("%+v, %v", got, err)
	}
	if err := got.Match(k); err != nil {
		t.Error(err)
	}
	for name, want := range map[string]keypackage.KeyFile{
		"another realm": {Realm: identity.Production, Line: "meter", Hash: k.Hash},
		"another line":  {Realm: k.Realm, Line: "phone", Hash: k.Hash},
		"another file":  {Realm: k.Realm, Line: "meter", Hash: [32]byte{8}},
	} {
		if err := got.Match(want); !errors.Is(err, keypackage.ErrKeyFile) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := keypackage.ParseKeyFile(raw, other.Public()); !errors.Is(err, statement.ErrForm) {
		t.Errorf("another sender's key: %v", err)
	}
	for name, bad := range map[string]keypackage.KeyFile{"no line": {Realm: 1}, "no realm": {Line: "meter"}, "a long name": {Realm: 1, Line: strings.Repeat("x", 65)}} {
		if _, err := keypackage.SignKeyFile(t.Context(), s, bad); err == nil {
			t.Errorf("%s: signed", name)
		}
	}
	payload, err := k.Encode()
	if err != nil {
		t.Fatal(err)
	}
	// The same words, signed as something else.
	if raw, err = statement.Sign(t.Context(), s, statement.DeliveryList, payload); err != nil {
		t.Fatal(err)
	}
	if _, err := keypackage.ParseKeyFile(raw, s.Public()); !errors.Is(err, statement.ErrForm) {
		t.Errorf("a statement of another type: %v", err)
	}
}
