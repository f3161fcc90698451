package hsm_test

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"errors"
	"testing"

	"github.com/devicekeys/devicekeys/hsm"
)

// TestSharedSecret: a device's agreement key, made in the SPP's token and wrapped to the device's, agrees there as
// the same key in software would; and it tells its own public half from another.
func TestSharedSecret(t *testing.T) {
	t.Parallel()
	ctx, spp, chip := t.Context(), token(t), token(t)
	made := generate(t, spp, hsm.Spec{Kind: hsm.DeviceAgreementKey})
	public := made.Public()
	value := known(9)
	blob, err := spp.Wrap(ctx, imported(t, spp, hsm.Spec{Kind: hsm.TransferWrapKey}, value), made)
	if err != nil || len(blob) != 80 {
		t.Fatalf("%d bytes, %v", len(blob), err)
	}
	home, err := chip.Unwrap(ctx, imported(t, chip, hsm.Spec{Kind: hsm.ChipBootUnwrapKey}, value), blob, hsm.Spec{Kind: hsm.ResidentAgreementKey})
	if err != nil {
		t.Fatal(err)
	}
	peer, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := ecdh.P256().NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	want, err := peer.ECDH(point)
	if err != nil {
		t.Fatal(err)
	}
	got, err := home.SharedSecret(ctx, peer.PublicKey().Bytes())
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("another secret, or %v", err)
	}
	for _, k := range []*hsm.Key{made, home} {
		if err := k.Matches(ctx, public); err != nil {
			t.Error(err)
		}
		if err := k.Matches(ctx, peer.PublicKey().Bytes()); !errors.Is(err, hsm.ErrData) {
			t.Errorf("another's public half: %v", err)
		}
	}
	if _, err := made.SharedSecret(ctx, peer.PublicKey().Bytes()); err == nil {
		t.Error("the SPP's token gave the shared secret of a device's key away")
	}
	for _, point := range [][]byte{nil, peer.PublicKey().Bytes()[:64], append([]byte{4}, make([]byte, 64)...)} {
		if _, err := home.SharedSecret(ctx, point); !errors.Is(err, hsm.ErrData) {
			t.Errorf("point of %d bytes: %v", len(point), err)
		}
	}
}

// TestTransportKey: it lasts, works at once, and agrees on keys only.
func TestTransportKey(t *testing.T) {
	t.Parallel()
	ctx, tok := t.Context(), token(t)
	k := generate(t, tok, hsm.Spec{Kind: hsm.TransportKey, Label: "dev-transport", Token: true})
	peer, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tok.Agree(ctx, k, peer.PublicKey().Bytes(), hsm.Spec{Kind: hsm.AgreedKey}); err != nil {
		t.Error(err)
	}
	if _, err := k.SharedSecret(ctx, peer.PublicKey().Bytes()); err == nil {
		t.Error("it gave a shared secret away")
	}
}
