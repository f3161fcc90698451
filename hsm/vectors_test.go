package hsm_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"testing"

	"pgregory.net/rapid"

	"github.com/devicekeys/devicekeys/hsm"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// sequence is 000102...1f, the key of our own vectors.
func sequence() []byte {
	b := make([]byte, 32)
	for i := range b {
		b[i] = byte(i)
	}
	return b
}

// RFC 4231's keys aren't 32 bytes long; HMAC pads a short key with zeros, so the padded
// key has the same MACs.
func TestHMACKnownAnswers(t *testing.T) {
	t.Parallel()
	tok := token(t)
	for _, v := range []struct{ name, key, msg, mac string }{
		{"RFC 4231 case 1", "0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b", "4869205468657265",
			"b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"},
		{"RFC 4231 case 2", "4a656665", "7768617420646f2079612077616e7420666f72206e6f7468696e673f",
			"5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"},
	} {
		key := append(unhex(t, v.key), make([]byte, 32-len(v.key)/2)...)
		k := imported(t, tok, hsm.Spec{Kind: hsm.ResidentKey}, key)
		got, err := k.MAC(t.Context(), unhex(t, v.msg))
		if err != nil || hex.EncodeToString(got) != v.mac {
			t.Errorf("%s: %x, %v", v.name, got, err)
		}
		if err := k.Verify(t.Context(), unhex(t, v.msg), unhex(t, v.mac)); err != nil {
			t.Errorf("%s: %v", v.name, err)
		}
	}
}

// RFC 3394 section 4.6: 256 bits of key data with a 256-bit KEK.
func TestKeyWrapKnownAnswer(t *testing.T) {
	t.Parallel()
	tok := token(t)
	data := unhex(t, "00112233445566778899aabbccddeeff000102030405060708090a0b0c0d0e0f")
	const wrapped = "28c9f404c4b810f4cbccb35cfb87f8263f5786e2d80ed326cbc7f0e71a99f43bfb988b9b7a02dd21"
	kek := imported(t, tok, hsm.Spec{Kind: hsm.TransferWrapKey}, sequence())
	blob := wrap(t, tok, kek, imported(t, tok, hsm.Spec{Kind: hsm.DeviceKey}, data))
	if hex.EncodeToString(blob) != wrapped {
		t.Errorf("wrapped to %x", blob)
	}
	un := imported(t, tok, hsm.Spec{Kind: hsm.TransferUnwrapKey}, sequence())
	k := unwrap(t, tok, un, unhex(t, wrapped), hsm.InboundKey)
	if !bytes.Equal(mac(t, k, "m"), softHMAC(data, "m")) {
		t.Error("unwrapped to another key")
	}
}

func softHMAC(key []byte, msg string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(msg))
	return h.Sum(nil)
}

func softKDF1(t testing.TB, key, context []byte) []byte {
	t.Helper()
	b, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(context)
	out := make([]byte, 32)
	cipher.NewCBCEncrypter(b, make([]byte, 16)).CryptBlocks(out, sum[:])
	return out
}

// The vector agreed by two implementations; the token's key is seen through its HMAC.
func TestKDF1KnownAnswer(t *testing.T) {
	t.Parallel()
	const context = "ctx device 49015420323751"
	want := unhex(t, "2fae368160690af37175d196c4decc28e8e2b66c8fd1ba1f969828bee7b30d39")
	if got := softKDF1(t, sequence(), []byte(context)); !bytes.Equal(got, want) {
		t.Fatalf("software gives %x", got)
	}
	tok := token(t)
	master := imported(t, tok, hsm.Spec{Kind: hsm.MasterKey, Label: "master", Token: true}, sequence())
	k, err := tok.Derive(t.Context(), mustPurpose(t, tok, master), hsm.KDF1, []byte("x"), hsm.Spec{Kind: hsm.DeviceKey})
	if err != nil {
		t.Fatal(err)
	}
	// Two levels, as in the product.
	purpose := softKDF1(t, sequence(), []byte("purpose"))
	if got := mac(t, k, "m"); !bytes.Equal(got, softHMAC(softKDF1(t, purpose, []byte("x")), "m")) {
		t.Error("two levels differ from software")
	}
	// The published vector, one level.
	d := derive(t, tok, imported(t, tok, hsm.Spec{Kind: hsm.PurposeKey}, sequence()), context, hsm.DeviceKey)
	if !bytes.Equal(mac(t, d, "m"), softHMAC(want, "m")) {
		t.Error("the token's key isn't the vector's")
	}
}

func mustPurpose(t testing.TB, tok *hsm.Token, master *hsm.Key) *hsm.Key {
	t.Helper()
	k, err := tok.Derive(t.Context(), master, hsm.KDF1, []byte("purpose"), hsm.Spec{Kind: hsm.PurposeKey, Label: "purpose", Token: true})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// SP 800-38A F.2.5 (CBC-AES256.Encrypt), with its zero-IV equivalent: KDF 1 is CBC of a
// hash, so the block cipher itself is checked through software that passes the vector.
func TestSoftwareCBCVector(t *testing.T) {
	t.Parallel()
	key := unhex(t, "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
	iv := unhex(t, "000102030405060708090a0b0c0d0e0f")
	plain := unhex(t, "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51")
	b, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	out := make([]byte, 32)
	cipher.NewCBCEncrypter(b, iv).CryptBlocks(out, plain)
	if hex.EncodeToString(out) != "f58c4c04d6e5f1ba779eabfb5f7bfbd69cfc4e967edb808d679f777bc6702c7d" {
		t.Fatalf("software CBC gives %x", out)
	}
	// The same software against the token, over many keys and contexts.
	tok := token(t)
	rapid.Check(t, func(r *rapid.T) {
		value := rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(r, "key")
		context := rapid.SliceOfN(rapid.Byte(), 1, 300).Draw(r, "context")
		base, err := tok.Import(t.Context(), hsm.Spec{Kind: hsm.ChipKey}, value)
		if err != nil {
			r.Fatal(err)
		}
		k, err := tok.Derive(t.Context(), base, hsm.KDF1, context, hsm.Spec{Kind: hsm.ResidentKey})
		if err != nil {
			r.Fatal(err)
		}
		got, err := k.MAC(t.Context(), []byte("m"))
		if err != nil || !bytes.Equal(got, softHMAC(softKDF1(t, value, context), "m")) {
			r.Fatalf("the token derives another key than software (%v)", err)
		}
		for _, k := range []*hsm.Key{base, k} {
			if err := k.Destroy(t.Context()); err != nil {
				r.Fatal(err)
			}
		}
	})
}

// KDF 2 through the host: the lab's vector (label pdk-device-key) over our block
// function, then the token's against it. RFC 4493's keys are AES-128, so its CMAC is
// checked with SP 800-38B D.3 (AES-256).
func TestKDF2KnownAnswers(t *testing.T) {
	t.Parallel()
	tok := open(t, fresh(t), hsm.Options{KDF2Host: true})
	master := func(label string, value []byte) *hsm.Key {
		return imported(t, tok, hsm.Spec{Kind: hsm.MasterKey, Label: label, Token: true, KDF: hsm.KDF2}, value)
	}
	nist := master("nist", unhex(t, "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4"))
	for _, v := range []struct{ msg, mac string }{
		{"", "028962f61b7bf89efc6b551f4667d983"},
		{"6bc1bee22e409f96e93d7e117393172a", "28a7023f452e8f82bd4bf28d8c37c35c"},
		{"6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e5130c81c46a35ce411", "aaf3d8f1de5640c232f5b169b9c911e6"},
	} {
		got, err := nist.CMAC(t.Context(), unhex(t, v.msg))
		if err != nil || hex.EncodeToString(got) != v.mac {
			t.Errorf("CMAC of %q: %x, %v", v.msg, got, err)
		}
	}
	m := master("master", sequence())
	prf := func(b []byte) ([]byte, error) { return m.CMAC(t.Context(), b) }
	got, err := hsm.KDF2Blocks(prf, hsm.KDF2Input("pdk-device-key", unhex(t, "0102030405")))
	if err != nil || hex.EncodeToString(got) != "4fb43ea480bc61b0e55e601c2a2e71b6cf97a865ab94c75a463e2b91414797c3" {
		t.Errorf("KDF 2 gives %x, %v", got, err)
	}
	want, err := hsm.KDF2Blocks(prf, hsm.KDF2Input("dk-kdf", []byte("context")))
	if err != nil {
		t.Fatal(err)
	}
	purpose, err := tok.Derive(t.Context(), m, hsm.KDF2, []byte("context"), hsm.Spec{Kind: hsm.PurposeKey, Label: "purpose", Token: true, KDF: hsm.KDF2})
	if err != nil {
		t.Fatal(err)
	}
	k, err := tok.Derive(t.Context(), purpose, hsm.KDF2, []byte("device"), hsm.Spec{Kind: hsm.DeviceKey})
	if err != nil {
		t.Fatal(err)
	}
	again := imported(t, tok, hsm.Spec{Kind: hsm.PurposeKey, KDF: hsm.KDF2}, want)
	k2, err := tok.Derive(t.Context(), again, hsm.KDF2, []byte("device"), hsm.Spec{Kind: hsm.DeviceKey})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(mac(t, k, "m"), mac(t, k2, "m")) {
		t.Error("Derive and the block function disagree")
	}
	if _, err := tok.Derive(t.Context(), m, hsm.KDF1, []byte("context"), hsm.Spec{Kind: hsm.PurposeKey}); err == nil {
		t.Error("a master key of KDF 2 served KDF 1")
	}
	if _, err := tok.Derive(t.Context(), m, hsm.KDF2, []byte("context"), hsm.Spec{Kind: hsm.PurposeKey}); err == nil {
		t.Error("a purpose key for KDF 1 came from a master key of KDF 2")
	}
}

// RFC 4493's examples are AES-128, which no kind of ours is; the CAVP vector of
// SP 800-108 counter mode (CMAC-AES128, r = 32, before the fixed input) is run through
// the block function over a CMAC in software that RFC 4493 example 2 vouches for.
func TestKDF2Blocks(t *testing.T) {
	t.Parallel()
	rfc := unhex(t, "2b7e151628aed2a6abf7158809cf4f3c")
	if got := softCMAC(t, rfc, unhex(t, "6bc1bee22e409f96e93d7e117393172a")); hex.EncodeToString(got) != "070a16b46b4d4144f79bdd9dd04a287c" {
		t.Fatalf("RFC 4493 example 2: %x", got)
	}
	key := unhex(t, "695f1b1a16c949cea51cdf2554ec9d42")
	fixed := unhex(t, "4fce5942832a390aa1cbe8a0bf9d202cb799e986c9d6b51f45e4d597a6b57f06a4ebfec6467335d116b7f5f9c5b954062f661820f5db2a5bbb3e0625")
	got, err := hsm.KDF2Blocks(func(b []byte) ([]byte, error) { return softCMAC(t, key, b), nil }, fixed)
	if err != nil || hex.EncodeToString(got) != "d34b601ec18c34dfa0f9e0b7523e218bdddb9befe8d08b6c0202d75ace0dba89" {
		t.Errorf("CAVP: %x, %v", got, err)
	}
}

// softCMAC is RFC 4493 written plainly.
func softCMAC(t testing.TB, key, msg []byte) []byte {
	t.Helper()
	b, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	double := func(x []byte) []byte {
		out := make([]byte, 16)
		for i := range out {
			out[i] = x[i] << 1
			if i < 15 {
				out[i] |= x[i+1] >> 7
			}
		}
		if x[0]&0x80 != 0 {
			out[15] ^= 0x87
		}
		return out
	}
	l := make([]byte, 16)
	b.Encrypt(l, l)
	sub := double(l)
	n := (len(msg) + 15) / 16
	last := make([]byte, 16)
	if n > 0 && len(msg)%16 == 0 {
		copy(last, msg[16*(n-1):])
	} else {
		n = max(n, 1)
		copy(last, append(bytes.Clone(msg[16*(n-1):]), 0x80))
		sub = double(sub)
	}
	x := make([]byte, 16)
	for i := range n {
		block := last
		if i < n-1 {
			block = msg[16*i : 16*i+16]
		}
		for j := range x {
			x[j] ^= block[j]
			if i == n-1 {
				x[j] ^= sub[j]
			}
		}
		b.Encrypt(x, x)
	}
	return x
}

func TestKDF2NeedsATokenOrANamedChoice(t *testing.T) {
	t.Parallel()
	tok := token(t)
	_, err := tok.Generate(t.Context(), hsm.Spec{Kind: hsm.MasterKey, Label: "m", Token: true, KDF: hsm.KDF2})
	if err == nil {
		t.Fatal("a token without the mechanism made a KDF 2 master key")
	}
	t.Log(err)
}
