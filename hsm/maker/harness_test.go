package maker_test

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"testing"

	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/hsm/maker"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/softhsm"
	"github.com/devicekeys/devicekeys/statement"
)

const dev = identity.Development

func plan() maker.Plan {
	return maker.Plan{Realm: dev, Masters: []maker.Master{{Version: 1, KDF: hsm.KDF1}}, Purposes: []string{"channel", "drm"}}
}

// token gives a fresh, empty token of real SoftHSM.
func token(t testing.TB) (*softhsm.HSM, *hsm.Token) {
	t.Helper()
	h := softhsm.New(t)
	return h, h.Open(t, h.Token(t, "spp"))
}

// opened gives the maker's keys in a fresh token.
func opened(t testing.TB) (*softhsm.HSM, *hsm.Token, *maker.Keys) {
	t.Helper()
	h, tok := token(t)
	if err := maker.Create(t.Context(), tok, plan()); err != nil {
		t.Fatal(err)
	}
	k, err := maker.Open(t.Context(), tok, dev)
	if err != nil {
		t.Fatal(err)
	}
	return h, tok, k
}

// sample is a device to make keys for.
type sample struct {
	id     identity.IMEI
	chip   identity.ChipID
	record identity.RecordID
}

func device(t testing.TB, serial int) sample {
	t.Helper()
	id, err := identity.TAC("00440200").IMEI(serial)
	if err != nil {
		t.Fatal(err)
	}
	raw := make([]byte, 24)
	rand.Read(raw)
	chip, err := identity.ParseChipID(raw)
	if err != nil {
		t.Fatal(err)
	}
	return sample{id, chip, chip.RecordID()}
}

var channel = keypackage.KeyID{Name: "channel", KDF: 1, Version: 1}

func (s sample) context(key keypackage.KeyID) []byte {
	return keypackage.DeviceKeyContext(dev, key, s.id, 1, s.record)
}

// claims are valid claims of the device.
func (s sample) claims(t testing.TB, realm identity.Realm) []byte {
	t.Helper()
	b, err := identity.Claims{Subject: s.id, IssuedAt: 1_800_000_000, ChipID: s.chip, Realm: realm, Generation: 1}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// peer is a device's side of a transfer in software.
func peer(t testing.TB) (*ecdh.PrivateKey, statement.PublicKey) {
	t.Helper()
	private, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := statement.ParsePoint(private.PublicKey().Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return private, public
}

func deviceKey(t testing.TB, k *maker.Keys, s sample, id keypackage.KeyID) keypackage.MACKey {
	t.Helper()
	key, err := k.DeviceKey(t.Context(), id, s.context(id))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := key.Destroy(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	return key
}
