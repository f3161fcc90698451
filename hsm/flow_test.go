package hsm_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"errors"
	"math/big"
	"testing"

	"github.com/devicekeys/devicekeys/hsm"
)

// side is one end of a transfer.
type side struct {
	tok       *hsm.Token
	ephemeral *hsm.Key
	agreed    *hsm.Key
}

func newSide(t testing.TB, tok *hsm.Token) *side {
	t.Helper()
	return &side{tok: tok, ephemeral: generate(t, tok, hsm.Spec{Kind: hsm.EphemeralKey})}
}

func agree(t testing.TB, a, b *side) {
	t.Helper()
	var err error
	if a.agreed, err = a.tok.Agree(t.Context(), a.ephemeral, b.ephemeral.Public(), hsm.Spec{Kind: hsm.AgreedKey}); err != nil {
		t.Fatal(err)
	}
	if b.agreed, err = b.tok.Agree(t.Context(), b.ephemeral, a.ephemeral.Public(), hsm.Spec{Kind: hsm.AgreedKey}); err != nil {
		t.Fatal(err)
	}
}

// TestTransfer carries a device key from the SPP's token to a device's, wraps it there
// under the chip key and boots from that, as the line does; then a key pair and a key of
// AES type.
func TestTransfer(t *testing.T) {
	t.Parallel()
	spp, dev := newSide(t, token(t)), newSide(t, token(t))
	master := generate(t, spp.tok, hsm.Spec{Kind: hsm.MasterKey, Label: "master-1", Token: true})
	purpose := mustPurpose(t, spp.tok, master)
	deviceKey := derive(t, spp.tok, purpose, "device", hsm.DeviceKey)
	chip := generate(t, dev.tok, hsm.Spec{Kind: hsm.ChipKey, Label: "chip", Token: true})
	agree(t, spp, dev)

	blob := wrap(t, spp.tok, derive(t, spp.tok, spp.agreed, "kek", hsm.TransferWrapKey), deviceKey)
	if len(blob) != 40 {
		t.Fatalf("%d bytes wrapped", len(blob))
	}
	unkek := derive(t, dev.tok, dev.agreed, "kek", hsm.TransferUnwrapKey)
	inbound := unwrap(t, dev.tok, unkek, blob, hsm.InboundKey)
	if err := deviceKey.Verify(t.Context(), []byte("confirm"), mac(t, inbound, "confirm")); err != nil {
		t.Fatal(err)
	}

	chipBlob := wrap(t, dev.tok, derive(t, dev.tok, chip, "wrap", hsm.ChipWrapKey), inbound)
	boot := derive(t, dev.tok, chip, "wrap", hsm.ChipBootUnwrapKey)
	resident := unwrap(t, dev.tok, boot, chipBlob, hsm.ResidentKey)
	if err := deviceKey.Verify(t.Context(), []byte("boot"), mac(t, resident, "boot")); err != nil {
		t.Fatal(err)
	}
	if _, err := dev.tok.Unwrap(t.Context(), boot, chipBlob, hsm.Spec{Kind: hsm.InboundKey}); err == nil || hsm.Classify(err) != hsm.Stop {
		t.Errorf("the boot handle gave an extractable key: %v", err)
	}
	again := unwrap(t, dev.tok, derive(t, dev.tok, chip, "wrap", hsm.ChipUnwrapKey), chipBlob, hsm.InboundKey)
	if !bytes.Equal(mac(t, again, "x"), mac(t, resident, "x")) {
		t.Error("the chip's two unwrap handles differ")
	}

	// A key of AES type: checked through a second, short-lived unwrapping.
	cipherKey := unwrap(t, dev.tok, unkek, blob, hsm.InboundCipherKey)
	check := unwrap(t, dev.tok, unkek, blob, hsm.CheckKey)
	if !bytes.Equal(mac(t, check, "x"), mac(t, inbound, "x")) {
		t.Error("the check key is another")
	}
	if err := check.Destroy(t.Context()); err != nil {
		t.Error(err)
	}
	residentCipher := unwrap(t, dev.tok, boot, wrap(t, dev.tok, derive(t, dev.tok, chip, "wrap", hsm.ChipWrapKey), cipherKey), hsm.ResidentCipherKey)
	nonce, sealed, err := residentCipher.Seal(t.Context(), []byte("aad"), []byte("film"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := residentCipher.Open(t.Context(), nonce, []byte("aad"), sealed); err != nil || string(got) != "film" {
		t.Errorf("%q, %v", got, err)
	}

	// The other secrets go by K_pkg.
	nonce, sealed, err = derive(t, spp.tok, spp.agreed, "pkg", hsm.TransferSealKey).Seal(t.Context(), []byte("aad"), []byte("codes"))
	if err != nil {
		t.Fatal(err)
	}
	opener := derive(t, dev.tok, dev.agreed, "pkg", hsm.TransferOpenKey)
	if got, err := opener.Open(t.Context(), nonce, []byte("aad"), sealed); err != nil || string(got) != "codes" {
		t.Errorf("%q, %v", got, err)
	}
	if _, _, err := opener.Seal(t.Context(), []byte("aad"), nil); err == nil {
		t.Error("the opening side sealed")
	}
}

// A pair: generated for the device, through the pool, to the device, to its boot.
func TestPairTravels(t *testing.T) {
	t.Parallel()
	spp, dev := newSide(t, token(t)), newSide(t, token(t))
	agree(t, spp, dev)
	pair := generate(t, spp.tok, hsm.Spec{Kind: hsm.DeviceSigningKey})
	poolWrap := generate(t, spp.tok, hsm.Spec{Kind: hsm.PoolPairWrapKey, Label: "pool-pair", Token: true})
	poolUnwrap, err := spp.tok.Copy(t.Context(), poolWrap, hsm.Spec{Kind: hsm.PoolPairUnwrapKey})
	if err != nil {
		t.Fatal(err)
	}
	waiting := wrap(t, spp.tok, poolWrap, pair)
	if len(waiting) != 80 {
		t.Errorf("a wrapped pair has %d bytes", len(waiting))
	}
	back := unwrap(t, spp.tok, poolUnwrap, waiting, hsm.DeviceSigningKey)
	blob := wrap(t, spp.tok, derive(t, spp.tok, spp.agreed, "kek", hsm.TransferWrapKey), back)
	unkek := derive(t, dev.tok, dev.agreed, "kek", hsm.TransferUnwrapKey)
	inbound := unwrap(t, dev.tok, unkek, blob, hsm.InboundSigningKey)
	if inbound.Public() != nil {
		t.Error("an unwrapped key claims to know its public half")
	}
	if err := inbound.Matches(t.Context(), pair.Public()); err != nil {
		t.Error(err)
	}
	other := generate(t, spp.tok, hsm.Spec{Kind: hsm.DeviceSigningKey})
	if err := inbound.Matches(t.Context(), other.Public()); !errors.Is(err, hsm.ErrData) {
		t.Errorf("matches another's public key: %v", err)
	}
	chip := generate(t, dev.tok, hsm.Spec{Kind: hsm.ChipKey, Label: "chip", Token: true})
	kept := wrap(t, dev.tok, derive(t, dev.tok, chip, "wrap", hsm.ChipWrapKey), inbound)
	resident := unwrap(t, dev.tok, derive(t, dev.tok, chip, "wrap", hsm.ChipBootUnwrapKey), kept, hsm.ResidentSigningKey)
	if err := resident.Matches(t.Context(), pair.Public()); err != nil {
		t.Error(err)
	}
	// Classes don't mix: neither key accepts the other's blob.
	if _, err := dev.tok.Unwrap(t.Context(), unkek, blob, hsm.Spec{Kind: hsm.InboundKey}); !errors.Is(err, hsm.ErrData) {
		t.Errorf("a private key's blob became a secret key: %v", err)
	}
	if _, err := spp.tok.Wrap(t.Context(), generate(t, spp.tok, hsm.Spec{Kind: hsm.PoolWrapKey, Label: "pool", Token: true}), pair); err == nil {
		t.Error("the pool's wrap key for secret keys took a private key")
	}
}

func TestTampering(t *testing.T) {
	t.Parallel()
	tok := token(t)
	kek := imported(t, tok, hsm.Spec{Kind: hsm.TransferUnwrapKey}, known(3))
	blob := wrap(t, tok, imported(t, tok, hsm.Spec{Kind: hsm.TransferWrapKey}, known(3)), imported(t, tok, hsm.Spec{Kind: hsm.DeviceKey}, known(4)))
	isData := func(name string, err error) {
		t.Helper()
		if !errors.Is(err, hsm.ErrData) || hsm.Classify(err) != hsm.DataFault {
			t.Errorf("%s: %v, class %v", name, err, hsm.Classify(err))
		}
	}
	for i := range blob {
		bad := bytes.Clone(blob)
		bad[i] ^= 0x10
		_, err := tok.Unwrap(t.Context(), kek, bad, hsm.Spec{Kind: hsm.InboundKey})
		isData("flipped bit in a wrapped key", err)
	}
	for _, n := range []int{0, 1, 32, 39, 41, 48, 80, 1 << 20} {
		_, err := tok.Unwrap(t.Context(), kek, make([]byte, n), hsm.Spec{Kind: hsm.InboundKey})
		isData("wrong size", err)
	}
	for _, n := range []int{0, 40, 57, 80, 264} {
		_, err := tok.Unwrap(t.Context(), kek, make([]byte, n), hsm.Spec{Kind: hsm.InboundSigningKey})
		isData("no private key", err)
	}
	seal, unseal := imported(t, tok, hsm.Spec{Kind: hsm.ChipSealKey}, known(5)), imported(t, tok, hsm.Spec{Kind: hsm.ChipOpenKey}, known(5))
	nonce, sealed, err := seal.Seal(t.Context(), []byte("aad"), []byte("plaintext"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range sealed {
		bad := bytes.Clone(sealed)
		bad[i] ^= 1
		_, err := unseal.Open(t.Context(), nonce, []byte("aad"), bad)
		isData("flipped bit in a ciphertext", err)
	}
	_, err = unseal.Open(t.Context(), nonce, []byte("other"), sealed)
	isData("another aad", err)
	_, err = unseal.Open(t.Context(), make([]byte, 12), []byte("aad"), sealed)
	isData("another nonce", err)
	_, err = unseal.Open(t.Context(), nonce[:11], []byte("aad"), sealed)
	isData("short nonce", err)
	_, err = unseal.Open(t.Context(), nonce, []byte("aad"), sealed[:15])
	isData("shorter than a tag", err)
	_, err = unseal.Open(t.Context(), nonce, []byte("aad"), make([]byte, 2<<20))
	isData("oversized", err)
	// SoftHSM 2.6.1 would crash here.
	if _, err := unseal.Open(t.Context(), nonce, nil, sealed); err == nil {
		t.Error("opened without additional data")
	}
	if _, _, err := seal.Seal(t.Context(), nil, []byte("x")); err == nil {
		t.Error("sealed without additional data")
	}
	if got, err := unseal.Open(t.Context(), nonce, []byte("aad"), sealed); err != nil || string(got) != "plaintext" {
		t.Errorf("after all that: %q, %v", got, err)
	}
	nonce, sealed, err = seal.Seal(t.Context(), []byte("aad"), nil)
	if err != nil || len(sealed) != 16 {
		t.Errorf("nothing sealed to %d bytes, %v", len(sealed), err)
	}
	if got, err := unseal.Open(t.Context(), nonce, []byte("aad"), sealed); err != nil || len(got) != 0 {
		t.Errorf("nothing opened to %q, %v", got, err)
	}
}

func TestPoints(t *testing.T) {
	t.Parallel()
	tok := token(t)
	own, peer := generate(t, tok, hsm.Spec{Kind: hsm.EphemeralKey}), generate(t, tok, hsm.Spec{Kind: hsm.EphemeralKey})
	p := peer.Public()
	off := bytes.Clone(p)
	off[64] ^= 1
	compressed := append([]byte{2 + p[64]&1}, p[1:33]...)
	for name, bad := range map[string][]byte{
		"off the curve": off, "compressed": compressed, "in DER": append([]byte{4, 65}, p...),
		"infinity": {0}, "empty": nil, "hybrid": append([]byte{6 + p[64]&1}, p[1:]...),
		"all zero": make([]byte, 65), "long": append(bytes.Clone(p), 0), "our own": own.Public(),
	} {
		_, err := tok.Agree(t.Context(), own, bad, hsm.Spec{Kind: hsm.AgreedKey})
		if !errors.Is(err, hsm.ErrData) {
			t.Errorf("point %s: %v", name, err)
		}
	}
	if _, err := tok.Agree(t.Context(), own, p, hsm.Spec{Kind: hsm.AgreedKey}); err != nil {
		t.Error(err)
	}
	signer := generate(t, tok, hsm.Spec{Kind: hsm.DeviceSigningKey})
	if _, err := tok.Agree(t.Context(), signer, p, hsm.Spec{Kind: hsm.AgreedKey}); err == nil {
		t.Error("a signing key agreed")
	}
	if _, err := tok.Agree(t.Context(), own, p, hsm.Spec{Kind: hsm.TransferWrapKey}); err == nil {
		t.Error("the raw result became a wrapping key")
	}
}

func TestMACVerify(t *testing.T) {
	t.Parallel()
	tok := token(t)
	k := imported(t, tok, hsm.Spec{Kind: hsm.DeviceKey}, known(9))
	good := mac(t, k, "message")
	if err := k.Verify(t.Context(), []byte("message"), good); err != nil {
		t.Error(err)
	}
	flipped := bytes.Clone(good)
	flipped[31] ^= 1
	for name, bad := range map[string][]byte{"flipped": flipped, "short": good[:31], "long": append(bytes.Clone(good), 0), "empty": nil, "cut to half": good[:16]} {
		if err := k.Verify(t.Context(), []byte("message"), bad); !errors.Is(err, hsm.ErrMAC) || hsm.Classify(err) != hsm.DataFault {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := k.Verify(t.Context(), []byte("massage"), good); !errors.Is(err, hsm.ErrMAC) {
		t.Errorf("another message: %v", err)
	}
	if got := mac(t, k, ""); !bytes.Equal(got, softHMAC(known(9), "")) {
		t.Error("the MAC of nothing is wrong")
	}
}

func TestSignatures(t *testing.T) {
	t.Parallel()
	tok := token(t)
	k := generate(t, tok, hsm.Spec{Kind: hsm.IdentitySigningKey, Label: "identity", Token: true})
	digest := sha256.Sum256([]byte("claims"))
	sig, err := k.Sign(t.Context(), digest[:])
	if err != nil {
		t.Fatal(err)
	}
	pub, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), k.Public())
	if err != nil {
		t.Fatal(err)
	}
	if len(sig) != 64 || !ecdsa.Verify(pub, digest[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])) {
		t.Error("the signature doesn't verify")
	}
	if _, err := k.Sign(t.Context(), digest[:31]); err == nil {
		t.Error("signed 31 bytes")
	}
	cp := generate(t, tok, hsm.Spec{Kind: hsm.CheckpointKey, Label: "checkpoint", Token: true})
	note, err := cp.SignMessage(t.Context(), []byte("note"))
	if err != nil || len(cp.Public()) != 32 || !ed25519.Verify(cp.Public(), []byte("note"), note) {
		t.Errorf("Ed25519: %v", err)
	}
	for _, s := range []hsm.Spec{{Kind: hsm.IdentitySigningKey, Label: "identity"}, {Kind: hsm.CheckpointKey, Label: "checkpoint"}} {
		found, err := tok.Find(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		want := map[string][]byte{"identity": k.Public(), "checkpoint": cp.Public()}[s.Label]
		if !bytes.Equal(found.Public(), want) {
			t.Errorf("%s: found with another public key", s.Label)
		}
	}
}
