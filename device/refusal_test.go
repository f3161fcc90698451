package device_test

import (
	"bytes"
	"errors"
	"os"
	"testing"

	"github.com/devicekeys/devicekeys/device"
	"github.com/devicekeys/devicekeys/device/chip"
	"github.com/devicekeys/devicekeys/device/chip/chiptest"
	"github.com/devicekeys/devicekeys/device/flash"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/statement"
)

// TestAcceptRefuses has a package with one thing wrong in each row.
func TestAcceptRefuses(t *testing.T) {
	onEachChip(t, func(t *testing.T, make maker) {
		spp := chiptest.NewSPP(t, identity.Development)
		u, neighbour := newUnit(t, make, spp), newUnit(t, make, spp)
		stranger := chiptest.NewSPP(t, identity.Development)
		abroad := chiptest.NewSPP(t, identity.Production)
		production := identity.Production
		change := func(f func(p *keypackage.DataPackage)) chiptest.Order {
			return chiptest.Order{Items: chiptest.Everything(), Package: f}
		}
		for _, c := range []struct {
			name  string
			order chiptest.Order
			spp   *chiptest.SPP       // nil: the right one
			bytes func([]byte) []byte // changes the encoded package
			want  device.Reason
		}{
			{name: "another chip", order: chiptest.Order{ChipID: neighbour.chip.ID()}, want: device.ReasonNotThisChip},
			{name: "another realm", order: chiptest.Order{Realm: production}, want: device.ReasonOtherRealm},
			{name: "another realm's SPP", spp: abroad, want: device.ReasonOtherRealm},
			{name: "another manufacturer", spp: stranger, want: device.ReasonCertificate},
			{name: "flipped bit in the certificate", order: change(func(p *keypackage.DataPackage) { p.Certificate = flip(p.Certificate, 100) }), want: device.ReasonCertificate},
			{name: "flipped bit in the signature", order: change(func(p *keypackage.DataPackage) { p.Certificate = flip(p.Certificate, len(p.Certificate)-1) }), want: device.ReasonCertificate},
			{name: "oversized certificate", order: change(func(p *keypackage.DataPackage) {
				p.Certificate = append(bytes.Clone(p.Certificate), 0)
			}), want: device.ReasonCertificate},
			{name: "no certificate but a hello", order: change(func(p *keypackage.DataPackage) { p.Certificate = []byte{0xd2} }), want: device.ReasonCertificate},
			{name: "flipped bit in the manifest's last check value", order: change(func(p *keypackage.DataPackage) { p.Manifest = flip(p.Manifest, len(p.Manifest)-1) }), want: device.ReasonManifest},
			{name: "manifest that does not read", order: change(func(p *keypackage.DataPackage) { p.Manifest = p.Manifest[1:] }), want: device.ReasonManifest},
			{name: "manifest of another chip", order: chiptest.Order{Manifest: func(m *keypackage.Manifest) { m.ChipID = neighbour.chip.ID() }}, want: device.ReasonNotThisChip},
			{name: "manifest of another realm", order: chiptest.Order{Manifest: func(m *keypackage.Manifest) { m.Realm = production }}, want: device.ReasonOtherRealm},
			{name: "manifest of another generation", order: chiptest.Order{Manifest: func(m *keypackage.Manifest) { m.Generation = 7 }}, want: device.ReasonManifest},
			{name: "changed IMEI", order: chiptest.Order{Identity: chiptest.TestIMEI(t, 5), Subject: chiptest.TestIMEI(t, 6)}, want: device.ReasonIdentity},
			// The row asks for another point, and the loop gives it e_D.
			{name: "point of the device itself", order: chiptest.Order{Point: &statement.PublicKey{}}, want: device.ReasonPoint},
			{name: "point of somebody else", order: change(func(p *keypackage.DataPackage) { p.Point = stranger.ROMKey() }), want: device.ReasonEntry},
			{name: "a key too few", order: change(func(p *keypackage.DataPackage) { p.Wrapped = p.Wrapped[1:] }), want: device.ReasonEntry},
			{name: "a key too many", order: change(func(p *keypackage.DataPackage) { p.Wrapped = append(p.Wrapped, p.Wrapped[0]) }), want: device.ReasonEntry},
			{name: "keys exchanged", order: change(func(p *keypackage.DataPackage) { p.Wrapped[0], p.Wrapped[2] = p.Wrapped[2], p.Wrapped[0] }), want: device.ReasonEntry},
			{name: "flipped bit in a key", order: change(func(p *keypackage.DataPackage) { p.Wrapped[0] = flip(p.Wrapped[0], 9) }), want: device.ReasonEntry},
			{name: "key cut short", order: change(func(p *keypackage.DataPackage) { p.Wrapped[0] = p.Wrapped[0][:32] }), want: device.ReasonEntry},
			{name: "check value of another key", order: chiptest.Order{Manifest: func(m *keypackage.Manifest) { m.Entries[0].Vouch = chiptest.Random(32) }}, want: device.ReasonEntry},
			{name: "commitment to another secret", order: chiptest.Order{Items: chiptest.Everything(), Manifest: func(m *keypackage.Manifest) { m.Entries[3].Vouch = chiptest.Random(32) }}, want: device.ReasonEntry},
			{name: "public key of another pair", order: chiptest.Order{Items: chiptest.Everything(), Manifest: func(m *keypackage.Manifest) { m.Entries[1].Vouch = stranger.ROMKey().Point() }}, want: device.ReasonEntry},
			{name: "no secrets", order: change(func(p *keypackage.DataPackage) { p.Secrets = nil }), want: device.ReasonEntry},
			{name: "secrets nobody named", order: chiptest.Order{Package: func(p *keypackage.DataPackage) { p.Secrets = &keypackage.Sealed{Ciphertext: chiptest.Random(32)} }}, want: device.ReasonEntry},
			{name: "flipped bit in the secrets", order: change(func(p *keypackage.DataPackage) { p.Secrets.Ciphertext = flip(p.Secrets.Ciphertext, 0) }), want: device.ReasonEntry},
			{name: "flipped bit in the secrets' nonce", order: change(func(p *keypackage.DataPackage) { p.Secrets.Nonce[0] ^= 1 }), want: device.ReasonEntry},
			{name: "nothing that proves", order: chiptest.Order{Items: []chiptest.Item{{Kind: keypackage.Opaque, Name: "seed"}}}, want: device.ReasonAlgorithm},
			{name: "another code", bytes: func(b []byte) []byte { return flip(b, 7) }, want: device.ReasonPackage},
			{name: "backup code", bytes: func(b []byte) []byte { return append(keypackage.BackupCode[:], b[8:]...) }, want: device.ReasonPackage},
			{name: "empty", bytes: func([]byte) []byte { return nil }, want: device.ReasonPackage},
			{name: "truncated", bytes: func(b []byte) []byte { return b[:len(b)-1] }, want: device.ReasonPackage},
			{name: "longer than it says", bytes: func(b []byte) []byte { return append(bytes.Clone(b), 0) }, want: device.ReasonPackage},
			{name: "oversized", bytes: func(b []byte) []byte { return append(bytes.Clone(b), make64k()...) }, want: device.ReasonPackage},
			{name: "point off the curve", bytes: func(b []byte) []byte { return flip(b, pointAt+64) }, want: device.ReasonPackage},
			{name: "compressed point", bytes: compressed, want: device.ReasonPackage},
			{name: "point at infinity", bytes: infinity, want: device.ReasonPackage},
			{name: "version in two bytes", bytes: func(b []byte) []byte { // 01 written as 18 01
				return append(append(bytes.Clone(b[:9]), 0x18, 0x01), b[10:]...)
			}, want: device.ReasonPackage},
			{name: "indefinite length", bytes: func(b []byte) []byte {
				out := append(bytes.Clone(b), 0xff)
				out[8] = 0x9f
				return out
			}, want: device.ReasonPackage},
			{name: "nonce header twice", order: chiptest.Order{Items: chiptest.Everything()}, bytes: doubledNonce, want: device.ReasonPackage},
		} {
			t.Run(c.name, func(t *testing.T) {
				raw, err := u.Hello(t.Context(), keypackage.SuiteAttested)
				must(t, err)
				m1 := chiptest.ParseHello(t, raw, u.chip.Attester().Public())
				if c.order.Point != nil {
					h, err := keypackage.ParseHello(m1)
					must(t, err)
					c.order.Point = &h.Point
				}
				maker := u.spp
				if c.spp != nil {
					maker = c.spp
				}
				pkg := maker.Assemble(t, m1, c.order).Package
				if c.bytes != nil {
					changed := c.bytes(pkg)
					if bytes.Equal(changed, pkg) {
						t.Fatal("the row changes nothing")
					}
					pkg = changed
				}
				u.refused(t, c.want, func() error { _, err := u.Accept(t.Context(), pkg, nil); return err })
			})
		}
		// After all that it takes the right one.
		a := u.order(t, chiptest.Order{Items: chiptest.Everything()})
		_, err := u.Accept(t.Context(), a.Package, nil)
		must(t, err)
	})
}

// pointAt is where e_S begins in an encoded data package: after the code, the
// array's head, the version and the point's head of two bytes.
const pointAt = 8 + 1 + 1 + 2

func make64k() []byte { return make([]byte, keypackage.MaxPackage) }

// compressed puts the point's compressed form in its place.
func compressed(b []byte) []byte {
	point := b[pointAt : pointAt+65]
	short := append([]byte{2 + point[64]&1}, point[1:33]...)
	return bytes.Join([][]byte{b[:pointAt-2], {0x58, 33}, short, b[pointAt+65:]}, nil)
}

func infinity(b []byte) []byte {
	return bytes.Join([][]byte{b[:pointAt-2], {0x41, 0x00}, b[pointAt+65:]}, nil)
}

// doubledNonce writes the secrets' unprotected header {5: nonce} with its
// only key twice.
func doubledNonce(b []byte) []byte {
	at := bytes.Index(b, []byte{0x43, 0xa1, 0x01, 0x03, 0xa1, 0x05, 0x4c})
	if at < 0 {
		return b
	}
	pair := b[at+5 : at+7+12]
	return bytes.Join([][]byte{b[:at+4], {0xa2}, pair, pair, b[at+7+12:]}, nil)
}

// TestRestoreRefuses has a record with one thing wrong in each row, given to a
// shipped device of generation 2, wiped before.
func TestRestoreRefuses(t *testing.T) {
	onEachChip(t, func(t *testing.T, make maker) {
		spp := chiptest.NewSPP(t, identity.Development)
		u, neighbour := newUnit(t, make, spp), newUnit(t, make, spp)
		first, old := u.provision(t, chiptest.Order{Items: chiptest.Everything()}, nil)
		second, now := u.provision(t, chiptest.Order{Items: chiptest.Everything(), Generation: 2}, u.unlock(t, 2))
		theirs, backupOfTheirs := neighbour.provision(t, chiptest.Order{Items: chiptest.Everything(), Generation: 2}, nil)
		certificate, backup := second.Certificate.Bytes(), now.Backup
		manifestAt := bytes.Index(backup, second.RawManifest)
		imei := bytes.Index(backup, []byte(second.Manifest.Identity.Value()))
		if manifestAt < 0 || imei < 0 {
			t.Fatal("no manifest in the backup")
		}
		resealed := func(change func(*keypackage.Backup)) []byte {
			p, err := keypackage.ParseBackup(backup)
			must(t, err)
			change(&p)
			b, err := p.Encode()
			must(t, err)
			return b
		}
		foreign := chiptest.NewSPP(t, identity.Development)
		forged, err := identity.SignCertificate(t.Context(), foreign, second.Certificate.ClaimsBytes())
		must(t, err)
		theirBackup, err := keypackage.ParseBackup(backupOfTheirs.Backup)
		must(t, err)
		oldBackup, err := keypackage.ParseBackup(old.Backup)
		must(t, err)
		rows := []struct {
			name                string
			certificate, backup []byte
			want                device.Reason
		}{
			{"another device's record", theirs.Certificate.Bytes(), backupOfTheirs.Backup, device.ReasonNotThisChip},
			{"another device's backup", certificate, backupOfTheirs.Backup, device.ReasonNotThisChip},
			{"another device's certificate", theirs.Certificate.Bytes(), backup, device.ReasonNotThisChip},
			{"another device's ciphertext", certificate, resealed(func(p *keypackage.Backup) { p.Sealed = theirBackup.Sealed }), device.ReasonBackup},
			{"an older generation", first.Certificate.Bytes(), old.Backup, device.ReasonOlderGeneration},
			{"an older generation's backup", certificate, old.Backup, device.ReasonManifest},
			{"an older generation's ciphertext", certificate, resealed(func(p *keypackage.Backup) { p.Sealed = oldBackup.Sealed }), device.ReasonBackup},
			{"another manufacturer", forged.Bytes(), backup, device.ReasonCertificate},
			{"changed IMEI", certificate, bytes.Replace(backup, []byte(second.Manifest.Identity.Value()), []byte("00440200000009"), 1), device.ReasonIdentity},
			{"flipped bit in the certificate", flip(certificate, 90), backup, device.ReasonCertificate},
			{"flipped bit in the signature", flip(certificate, len(certificate)-64), backup, device.ReasonCertificate},
			{"flipped bit in the manifest's end", certificate, flip(backup, manifestAt+len(second.RawManifest)-1), device.ReasonManifest},
			{"flipped bit in the manifest's realm", certificate, flip(backup, manifestAt+2), device.ReasonManifest},
			{"flipped bit in the nonce", certificate, resealed(func(p *keypackage.Backup) { p.Sealed.Nonce[3] ^= 1 }), device.ReasonBackup},
			{"flipped bit in the ciphertext", certificate, resealed(func(p *keypackage.Backup) { p.Sealed.Ciphertext = flip(p.Sealed.Ciphertext, 7) }), device.ReasonBackup},
			{"flipped bit in the tag", certificate, flip(backup, len(backup)-1), device.ReasonBackup},
			{"data package", certificate, second.Package, device.ReasonBackupCode},
			{"no backup", certificate, nil, device.ReasonBackupCode},
			{"no certificate", nil, backup, device.ReasonCertificate},
			{"truncated", certificate, backup[:len(backup)-1], device.ReasonBackup},
			{"longer than it says", certificate, append(bytes.Clone(backup), 0), device.ReasonBackup},
			{"oversized", certificate, append(bytes.Clone(backup), make64k()...), device.ReasonBackup},
			{"oversized certificate", append(bytes.Clone(certificate), make64k()...), backup, device.ReasonCertificate},
		}
		for i := range keypackage.BackupCode {
			rows = append(rows, struct {
				name                string
				certificate, backup []byte
				want                device.Reason
			}{"flipped bit in the backup code", certificate, flip(backup, i), device.ReasonBackupCode})
		}
		for _, c := range rows {
			t.Run(c.name, func(t *testing.T) {
				u.refused(t, c.want, func() error { return u.Restore(t.Context(), c.certificate, c.backup) })
			})
		}
		must(t, u.Erase(t.Context()))
		for _, c := range rows {
			u.refused(t, c.want, func() error { return u.Restore(t.Context(), c.certificate, c.backup) })
		}
		must(t, u.Restore(t.Context(), certificate, backup))
	})
}

// TestEveryFlippedByteIsRefused flips a bit in each byte of a record: none
// restores anything.
func TestEveryFlippedByteIsRefused(t *testing.T) {
	t.Parallel()
	u := newUnit(t, softwareChips, chiptest.NewSPP(t, identity.Development))
	a, accepted := u.provision(t, chiptest.Order{Items: chiptest.Everything()}, nil)
	before := u.remains(t)
	certificate := a.Certificate.Bytes()
	for i := range accepted.Backup {
		isRefused(t, u.Restore(t.Context(), certificate, flip(accepted.Backup, i)))
	}
	for i := range certificate {
		isRefused(t, u.Restore(t.Context(), flip(certificate, i), accepted.Backup))
	}
	for n := range accepted.Backup {
		isRefused(t, u.Restore(t.Context(), certificate, accepted.Backup[:n]))
	}
	if after := u.remains(t); !bytes.Equal(before.Flash, after.Flash) || before.Fuses != after.Fuses {
		t.Error("something changed")
	}
}

// TestEveryFlippedByteOfAPackageIsRefused does the same with a data package.
func TestEveryFlippedByteOfAPackageIsRefused(t *testing.T) {
	t.Parallel()
	u := newUnit(t, softwareChips, chiptest.NewSPP(t, identity.Development))
	before := u.remains(t)
	length := len(u.order(t, chiptest.Order{Items: chiptest.Everything()}).Package)
	for i := range length {
		a := u.order(t, chiptest.Order{Items: chiptest.Everything()})
		_, err := u.Accept(t.Context(), flip(a.Package, i), nil)
		isRefused(t, err)
	}
	if after := u.remains(t); !bytes.Equal(before.Flash, after.Flash) || after.Protected != 0 {
		t.Error("something changed, or was encrypted")
	}
}

func isRefused(t *testing.T, err error) {
	t.Helper()
	var r *device.Refusal
	if !errors.As(err, &r) {
		t.Errorf("want a refusal, got %v", err)
	}
}

// TestLockedRefuses gives a shipped device packages that are right in
// everything but the permission.
func TestLockedRefuses(t *testing.T) {
	onEachChip(t, func(t *testing.T, make maker) {
		spp := chiptest.NewSPP(t, identity.Development)
		u, neighbour := newUnit(t, make, spp), newUnit(t, make, spp)
		u.provision(t, chiptest.Order{}, nil)
		stranger := chiptest.NewSPP(t, identity.Development)
		sign := func(s *chiptest.SPP, statement identity.Unlock) []byte {
			raw, err := identity.SignUnlock(t.Context(), s, statement)
			must(t, err)
			return raw
		}
		right := identity.Unlock{Realm: identity.Development, Record: u.Record(), Next: 2}
		for _, c := range []struct {
			name       string
			generation identity.Generation
			unlock     []byte
			want       device.Reason
		}{
			{"ordinary package", 1, nil, device.ReasonLocked},
			{"next generation", 2, nil, device.ReasonLocked},
			{"statement for another generation", 3, sign(spp, right), device.ReasonUnlock},
			{"statement for another record", 2, sign(spp, identity.Unlock{Realm: right.Realm, Record: neighbour.Record(), Next: 2}), device.ReasonUnlock},
			{"statement of another realm", 2, sign(spp, identity.Unlock{Realm: identity.Production, Record: right.Record, Next: 2}), device.ReasonUnlock},
			{"statement by another manufacturer", 2, sign(stranger, right), device.ReasonUnlock},
			{"changed statement", 2, flip(sign(spp, right), 80), device.ReasonUnlock},
			{"no statement", 2, []byte{0}, device.ReasonUnlock},
		} {
			t.Run(c.name, func(t *testing.T) {
				// A wiped device stays locked.
				must(t, u.Erase(t.Context()))
				u.reset(t)
				a := u.order(t, chiptest.Order{Generation: c.generation})
				u.refused(t, c.want, func() error { _, err := u.Accept(t.Context(), a.Package, c.unlock); return err })
			})
		}
		// Generation 3 was published meanwhile: a statement for 2 has lapsed.
		must(t, u.chip.RaiseFloor(t.Context(), 3))
		a := u.order(t, chiptest.Order{Generation: 2})
		u.refused(t, device.ReasonOlderGeneration, func() error { _, err := u.Accept(t.Context(), a.Package, sign(spp, right)); return err })
	})
}

// TestPublishedRefuses shows that nobody but the SPP locks a device.
func TestPublishedRefuses(t *testing.T) {
	onEachChip(t, func(t *testing.T, make maker) {
		u := newUnit(t, make, chiptest.NewSPP(t, identity.Development))
		a := u.order(t, chiptest.Order{})
		_, err := u.Accept(t.Context(), a.Package, nil)
		must(t, err)
		u.refused(t, device.ReasonNotBooted, func() error { _, err := u.Published(t.Context(), a.Published()); return err })
		u.refused(t, device.ReasonNotBooted, func() error { _, err := u.Restored(t.Context(), [32]byte{}); return err })
		_, err = u.Boot(t.Context())
		must(t, err)
		u.refused(t, device.ReasonPublished, func() error { _, err := u.Published(t.Context(), flip(a.Published(), 0)); return err })
		u.refused(t, device.ReasonPublished, func() error { _, err := u.Published(t.Context(), a.Published()[:16]); return err })
		u.refused(t, device.ReasonPublished, func() error { _, err := u.Published(t.Context(), nil); return err })
		// The device's own answer is no word of the SPP.
		own := a.Proof(keypackage.LockedMessage(a.Certificate.ClaimsHash()))
		u.refused(t, device.ReasonPublished, func() error { _, err := u.Published(t.Context(), own); return err })
	})
}

// TestBootTellsFlashApart boots what a broken, swapped or foreign flash holds.
func TestBootTellsFlashApart(t *testing.T) {
	onEachChip(t, func(t *testing.T, make maker) {
		spp := chiptest.NewSPP(t, identity.Development)
		u, neighbour := newUnit(t, make, spp), newUnit(t, make, spp)
		u.provision(t, chiptest.Order{}, nil)
		neighbour.provision(t, chiptest.Order{}, nil)
		image, err := os.ReadFile(u.image)
		must(t, err)
		theirs, err := os.ReadFile(neighbour.image)
		must(t, err)
		boot := func() error { _, err := u.Boot(t.Context()); return err }
		with := func(b []byte) {
			t.Helper()
			must(t, u.Close(t.Context()))
			must(t, os.WriteFile(u.image, b, 0o600))
			u.start(t)
		}
		state := func(want device.FlashState) {
			t.Helper()
			s, err := u.Status(t.Context())
			must(t, err)
			if s.Flash != want {
				t.Errorf("flash is %q, want %q (%s)", s.Flash, want, s.Problem)
			}
		}
		with(theirs)
		u.refused(t, device.ReasonNotThisChip, boot)
		state(device.FlashForeign)
		torn := bytes.Clone(image)
		torn[4096+200] ^= 1 // inside slot A, the only one written
		with(torn)
		u.refused(t, device.ReasonTornFlash, boot)
		state(device.FlashTorn)
		must(t, u.Erase(t.Context()))
		u.refused(t, device.ReasonNoFlash, boot)
		state(device.FlashEmpty)
		with(image)
		must(t, boot())
		state(device.FlashProvisioned)
		// Something whole that no device wrote.
		must(t, u.Close(t.Context()))
		f, err := flash.Open(u.image)
		must(t, err)
		must(t, f.WriteIdentity([]byte("hello")))
		must(t, f.Close())
		u.start(t)
		u.refused(t, device.ReasonTornFlash, boot)
		state(device.FlashForeign)
	})
}

// TestROM writes the ROM key once.
func TestROM(t *testing.T) {
	onEachChip(t, func(t *testing.T, make maker) {
		spp, other := chiptest.NewSPP(t, identity.Development), chiptest.NewSPP(t, identity.Development)
		u := newUnit(t, make, spp)
		must(t, u.WriteROM(t.Context(), spp.ROMKey()))
		u.refused(t, device.ReasonROMKey, func() error { return u.WriteROM(t.Context(), other.ROMKey()) })
		if k, err := u.ROMKey(t.Context()); err != nil || k != spp.ROMKey() {
			t.Errorf("ROM key %v, %v", k, err)
		}
	})
}

// TestWithoutROM shows what a device straight from the chip maker says.
func TestWithoutROM(t *testing.T) {
	t.Parallel()
	c, err := chip.NewSoftware(identity.Development, 32, "")
	must(t, err)
	d, err := device.Open(t.Context(), device.Config{Chip: c, Flash: flash.NewMemory()})
	must(t, err)
	for name, act := range map[string]func() error{
		"hello":   func() error { _, err := d.Hello(t.Context(), keypackage.SuiteAttested); return err },
		"accept":  func() error { _, err := d.Accept(t.Context(), nil, nil); return err },
		"restore": func() error { return d.Restore(t.Context(), nil, nil) },
	} {
		var r *device.Refusal
		if err := act(); !errors.As(err, &r) || r.Reason != device.ReasonROMKey {
			t.Errorf("%s without ROM key: %v", name, err)
		}
	}
	s, err := d.Status(t.Context())
	must(t, err)
	if len(s.Lacks) != 5 || s.ROMKey != "" {
		t.Errorf("lacks %q", s.Lacks)
	}
	must(t, d.Close(t.Context()))
	must(t, d.Close(t.Context()))
	if _, err := d.Boot(t.Context()); err == nil {
		t.Error("a closed device boots")
	}
}

// TestModules refuses a module that is not what its hash says.
func TestModules(t *testing.T) {
	t.Parallel()
	u := newUnit(t, softwareChips, chiptest.NewSPP(t, identity.Development))
	u.refused(t, device.ReasonModule, func() error {
		return u.LoadModules(t.Context(), []device.Module{{Name: "driver", Content: []byte("changed")}})
	})
	if err := u.LoadModules(t.Context(), []device.Module{{Content: nil}}); err == nil {
		t.Error("a module without a name was loaded")
	}
	if err := u.LoadModules(t.Context(), make([]device.Module, 65)); err == nil {
		t.Error("65 modules were loaded")
	}
}

// TestProductionRefusesDevelopment opens chips for development in production.
func TestProductionRefusesDevelopment(t *testing.T) {
	onEachChip(t, func(t *testing.T, make maker) {
		c, err := make(t)()
		must(t, err)
		defer func() { must(t, c.Close(t.Context())) }()
		var r *device.Refusal
		if _, err := device.Open(t.Context(), device.Config{Chip: c, Flash: flash.NewMemory(), Production: true}); !errors.As(err, &r) || r.Reason != device.ReasonProduction {
			t.Errorf("%v, want reason production", err)
		}
		if _, err := device.Open(t.Context(), device.Config{Chip: c}); err == nil {
			t.Error("a device without flash was opened")
		}
	})
}

// TestReasons shows that each reason has a next step and a code of its own.
func TestReasons(t *testing.T) {
	t.Parallel()
	seen := map[device.Reason]bool{}
	for _, r := range device.Reasons() {
		if seen[r] || (&device.Refusal{Reason: r}).Next() == "" {
			t.Errorf("reason %q stands twice or has no next step", r)
		}
		seen[r] = true
	}
	if device.Next() != len(seen) {
		t.Errorf("%d reasons are listed, %d have a next step", len(seen), device.Next())
	}
}
