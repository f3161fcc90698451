//go:build devicekeys_import

package maker_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"testing"

	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/hsm/maker"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/keypackage/keypackagetest"
	"github.com/devicekeys/devicekeys/softhsm"
)

// TestKnownAnswers: from known master keys the token's device keys are those of the definitions, and those of the
// table, which OpenSSL gave (enc -aes-256-cbc over the hash; kdf KBKDF), so that nothing can drift.
func TestKnownAnswers(t *testing.T) {
	t.Parallel()
	if got := hex.EncodeToString(keypackagetest.CMAC(t, unhex(t, "2b7e151628aed2a6abf7158809cf4f3c"), unhex(t, "6bc1bee22e409f96e93d7e117393172a"))); got != "070a16b46b4d4144f79bdd9dd04a287c" {
		t.Fatalf("the test's own CMAC gives %s (RFC 4493 example 2)", got)
	}
	h := softhsm.New(t)
	tok, err := h.Hsm.Open(t.Context(), h.Token(t, "spp").Credentials(), hsm.Options{KDF2Host: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tok.Close(); err != nil {
			t.Error(err)
		}
	})
	master := make([]byte, 32)
	for i := range master {
		master[i] = byte(i)
	}
	p := maker.Plan{Realm: dev, Masters: []maker.Master{{Version: 1, KDF: hsm.KDF1}, {Version: 2, KDF: hsm.KDF2}}, Purposes: []string{"channel"}}
	for _, s := range p.Born() {
		if s.Kind != hsm.MasterKey {
			continue
		}
		if _, err := tok.Import(t.Context(), s, master); err != nil {
			t.Fatal(err)
		}
	}
	if err := maker.Create(t.Context(), tok, p); err != nil {
		t.Fatal(err)
	}
	k, err := maker.Open(t.Context(), tok, dev)
	if err != nil {
		t.Fatal(err)
	}
	if items, err := k.Inventory(t.Context()); err != nil || len(items) != 15 {
		t.Errorf("the inventory has %d keys, %v", len(items), err)
	}
	id, err := identity.ParseIMEI("49015420323751")
	if err != nil {
		t.Fatal(err)
	}
	chip, err := identity.ParseChipID([]byte("a chip ID of 24 bytes..."))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		kdf     uint8
		version uint32
		derive  func(testing.TB, []byte, []byte) []byte
		want    string // HMAC-SHA-256 of "message" under the device key
	}{
		{1, 1, kdf1, "b873eaa78563ec03868b7b780be82c1647ef760ca522f999c95c0916f1d430ca"},
		{2, 2, keypackagetest.KDF2, "243d122096fe2b4c6ecdcf3311576978284384f717fad367642ee2848494bfef"},
	} {
		key := keypackage.KeyID{Name: "channel", KDF: c.kdf, Version: c.version}
		context := keypackage.DeviceKeyContext(dev, key, id, 1, chip.RecordID())
		inToken, err := k.DeviceKey(t.Context(), key, context)
		if err != nil {
			t.Fatal(err)
		}
		mac, err := inToken.MAC(t.Context(), []byte("message"))
		if err != nil {
			t.Fatal(err)
		}
		purpose := c.derive(t, master, keypackage.PurposeContext(dev, c.kdf, c.version, "channel"))
		want := hmac.New(sha256.New, c.derive(t, purpose, context))
		want.Write([]byte("message"))
		if !hmac.Equal(mac, want.Sum(nil)) {
			t.Errorf("KDF %d: the token's device key is not the one of the definition", c.kdf)
		}
		if got := hex.EncodeToString(mac); got != c.want {
			t.Errorf("KDF %d: MAC is %s, want %s", c.kdf, got, c.want)
		}
		if err := inToken.Destroy(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
