package device_test

import (
	"bytes"
	"crypto/sha256"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/devicekeys/devicekeys/device"
	"github.com/devicekeys/devicekeys/device/chip"
	"github.com/devicekeys/devicekeys/device/chip/chiptest"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/statement"
)

// TestLine takes a device through the steps of the line, and then through a
// loss of its flash in the field.
func TestLine(t *testing.T) {
	onEachChip(t, func(t *testing.T, make maker) {
		ctx := t.Context()
		u := newUnit(t, make, chiptest.NewSPP(t, identity.Development))

		// Step 2.
		driver := device.Module{Name: "io-driver", Content: []byte("driver")}
		driver.SHA256 = sha256.Sum256(driver.Content)
		must(t, u.LoadModules(ctx, []device.Module{driver}))
		u.refused(t, device.ReasonNoFlash, func() error { _, err := u.Boot(ctx); return err })

		// Steps 3 to 5.
		a := u.order(t, chiptest.Order{Items: chiptest.Everything()})
		accepted, err := u.Accept(ctx, a.Package, nil)
		must(t, err)
		if !bytes.Equal(accepted.Confirm, a.Confirm(accepted.Backup)) {
			t.Error("the confirmation is not what the SPP computes")
		}
		if accepted.Record != u.Record() || accepted.Generation != 1 {
			t.Errorf("accepted %s, generation %d", accepted.Record, accepted.Generation)
		}
		backup, err := keypackage.ParseBackup(accepted.Backup)
		must(t, err)
		if !bytes.Equal(backup.Manifest, a.RawManifest) {
			t.Error("the backup's manifest is not the package's, byte by byte")
		}

		// Step 6: nothing ships that wasn't restored once.
		must(t, u.Erase(ctx))
		u.refused(t, device.ReasonNoFlash, func() error { _, err := u.Boot(ctx); return err })
		u.reset(t)
		must(t, u.Restore(ctx, a.Certificate.Bytes(), accepted.Backup))
		booted, err := u.Boot(ctx)
		must(t, err)
		if booted.Identity != a.Manifest.Identity || booted.Generation != 1 || booted.Record != u.Record() {
			t.Errorf("booted as %s", booted)
		}
		for i, item := range a.Items {
			value, ok := booted.Secret(item.Name)
			if want := a.Manifest.Entries[i].Form() == keypackage.FormSecret; ok != want || want && !bytes.Equal(value, item.Value) {
				t.Errorf("secret %q: %t, or another value", item.Name, ok)
			}
		}
		challenge := [32]byte(chiptest.Random(32))
		claims := a.Certificate.ClaimsHash()
		restored, err := u.Restored(ctx, challenge)
		must(t, err)
		if !bytes.Equal(restored, a.Proof(keypackage.RestoredMessage(claims, sha256.Sum256(accepted.Backup), challenge))) {
			t.Error("the restore proof is not what the SPP computes")
		}

		// Step 9. Told twice, it answers twice.
		for range 2 {
			locked, err := u.Published(ctx, a.Published())
			must(t, err)
			if !bytes.Equal(locked, a.Proof(keypackage.LockedMessage(claims))) {
				t.Error("the answer to Published is not what the SPP computes")
			}
		}

		status, err := u.Status(ctx)
		must(t, err)
		want := device.Status{
			Record: u.Record(), Realm: identity.Development, Chip: u.chip.Describe().Manufacturer, Locked: true, Floor: 1,
			ROMKey:  u.spp.ROMKey().ID().String(),
			Modules: []device.ModuleInfo{{Name: "io-driver", SHA256: driver.SHA256, Size: 6}},
			Flash:   device.FlashProvisioned, Identity: a.Manifest.Identity.String(), Generation: 1,
			Keys:    []string{"channel/1.1", "signing", "content", "network-code", "calibration", "pairing-seed", "agreement"},
			Running: true,
		}
		if diff := cmp.Diff(want, status, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("status (-want +got):\n%s", diff)
		}

		// In the field: flash is lost; the device is its old self again.
		must(t, u.Erase(ctx))
		u.refused(t, device.ReasonNotBooted, func() error { _, err := u.Prove(ctx, challenge); return err })
		u.reset(t)
		if status, err = u.Status(ctx); err != nil || !status.Locked || status.Floor != 1 || status.Flash != device.FlashEmpty || len(status.Lacks) != 3 {
			t.Errorf("after a wipe: %+v, %v", status, err)
		}
		must(t, u.Restore(ctx, a.Certificate.Bytes(), accepted.Backup))
		_, err = u.Boot(ctx)
		must(t, err)
		proof, err := u.Prove(ctx, challenge)
		must(t, err)
		if !bytes.Equal(proof, a.Proof(keypackage.AliveMessage(claims, challenge))) {
			t.Error("the restored device proves something else")
		}
	})
}

// TestUnlock gives a locked device another package, as the next generation.
func TestUnlock(t *testing.T) {
	onEachChip(t, func(t *testing.T, make maker) {
		ctx := t.Context()
		u := newUnit(t, make, chiptest.NewSPP(t, identity.Development))
		first, old := u.provision(t, chiptest.Order{}, nil)
		second, _ := u.provision(t, chiptest.Order{Generation: 2, Items: chiptest.Everything()}, u.unlock(t, 2))
		f, err := u.chip.Fuses(ctx)
		must(t, err)
		if f != (chip.Fuses{Locked: true, Floor: 2}) {
			t.Errorf("fuses %+v", f)
		}
		booted, err := u.Boot(ctx)
		must(t, err)
		if booted.Generation != 2 || len(booted.Entries) != len(second.Items) {
			t.Errorf("booted %s with %d entries", booted, len(booted.Entries))
		}
		// What was published of the first generation is history.
		u.refused(t, device.ReasonOlderGeneration, func() error { return u.Restore(ctx, first.Certificate.Bytes(), old.Backup) })
	})
}

// TestNewestHelloOnly shows that Accept takes an answer to the newest hello,
// once.
func TestNewestHelloOnly(t *testing.T) {
	onEachChip(t, func(t *testing.T, make maker) {
		ctx := t.Context()
		u := newUnit(t, make, chiptest.NewSPP(t, identity.Development))
		old := u.order(t, chiptest.Order{})
		answer := u.order(t, chiptest.Order{})
		// The package is the right one in everything but its secret.
		u.refused(t, device.ReasonEntry, func() error { _, err := u.Accept(ctx, old.Package, nil); return err })
		// That used the newest hello up.
		u.refused(t, device.ReasonNoHello, func() error { _, err := u.Accept(ctx, answer.Package, nil); return err })
		answer = u.order(t, chiptest.Order{})
		_, err := u.Accept(ctx, answer.Package, nil)
		must(t, err)
		u.refused(t, device.ReasonNoHello, func() error { _, err := u.Accept(ctx, answer.Package, nil); return err })
		// The same generation again, with a new hello: a station that lost the
		// confirmation.
		again := u.order(t, chiptest.Order{})
		_, err = u.Accept(ctx, again.Package, nil)
		must(t, err)
	})
}

// TestUnattested says hello without a signature.
func TestUnattested(t *testing.T) {
	onEachChip(t, func(t *testing.T, make maker) {
		u := newUnit(t, make, chiptest.NewSPP(t, identity.Development))
		raw, err := u.Hello(t.Context(), keypackage.SuiteUnattested)
		must(t, err)
		h, err := keypackage.ParseHello(raw)
		must(t, err)
		if h.Suite != keypackage.SuiteUnattested || h.ROMKey != u.spp.ROMKey().Hash() || h.ChipID != u.chip.ID() {
			t.Errorf("hello of suite %s", h.Suite)
		}
		a := u.spp.Assemble(t, raw, chiptest.Order{Items: chiptest.Everything()})
		accepted, err := u.Accept(t.Context(), a.Package, nil)
		must(t, err)
		if !bytes.Equal(accepted.Confirm, a.Confirm(accepted.Backup)) {
			t.Error("the confirmation is not what the SPP computes")
		}
		if _, err := u.Hello(t.Context(), 3); err == nil {
			t.Error("a suite nobody knows was greeted")
		}
	})
}

// TestPairsOnly takes a device without symmetric keys through the line, which
// signs what others authenticate.
func TestPairsOnly(t *testing.T) {
	onEachChip(t, func(t *testing.T, make maker) {
		ctx := t.Context()
		u := newUnit(t, make, chiptest.NewSPP(t, identity.Development))
		a := u.order(t, chiptest.Order{Items: []chiptest.Item{{Kind: keypackage.KeyPair, Name: "signing", Algorithm: keypackage.ES256}}})
		accepted, err := u.Accept(ctx, a.Package, nil)
		must(t, err)
		public, err := statement.ParsePoint(a.Manifest.Entries[0].Vouch)
		must(t, err)
		signed := func(message, signature []byte) {
			t.Helper()
			digest := sha256.Sum256(message)
			must(t, public.Verify(digest[:], signature))
		}
		signed(keypackage.ConfirmMessage(a.Transcript, sha256.Sum256(accepted.Backup)), accepted.Confirm)
		_, err = u.Boot(ctx)
		must(t, err)
		challenge := [32]byte{1}
		restored, err := u.Restored(ctx, challenge)
		must(t, err)
		signed(keypackage.RestoredMessage(a.Certificate.ClaimsHash(), sha256.Sum256(accepted.Backup), challenge), restored)
		u.refused(t, device.ReasonAlgorithm, func() error { _, err := u.Published(ctx, make32()); return err })
	})
}

func make32() []byte { return make([]byte, 32) }

// TestChipIDLengths shows that all three lengths work, certificate layout
// included.
func TestChipIDLengths(t *testing.T) {
	t.Parallel()
	for _, size := range []int{16, 24, 32} {
		u := newUnit(t, func(testing.TB) func() (chip.Chip, error) {
			c, err := chip.NewSoftware(identity.Development, size, "")
			must(t, err)
			return func() (chip.Chip, error) { return c, nil }
		}, chiptest.NewSPP(t, identity.Development))
		for i, id := range []identity.Identity{chiptest.TestIMEI(t, size), mustID(identity.ParseEUI64("0000-5EEF-1000-0000")), mustID(identity.ParseSerial("32473-A1"))} {
			if id == nil {
				continue
			}
			a := u.order(t, chiptest.Order{Identity: id, Generation: identity.Generation(i + 1)})
			_, err := u.Accept(t.Context(), a.Package, nil)
			must(t, err)
			booted, err := u.Boot(t.Context())
			must(t, err)
			if booted.Identity != id {
				t.Errorf("booted as %s", booted)
			}
		}
	}
}

func mustID[I identity.Identity](id I, err error) identity.Identity {
	if err != nil {
		return nil
	}
	return id
}
