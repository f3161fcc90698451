package hsm_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/hex"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"github.com/devicekeys/devicekeys/hsm"
)

// The published vectors of every mechanism that the product asks a token for, computed by the token. Where a kind of
// ours has such a key, they go through this package; vectors_test.go has more of those.

// hexBytes reads hexadecimal digits with spaces and line ends among them, as standards print them.
func hexBytes(t testing.TB, s string) []byte {
	t.Helper()
	return unhex(t, strings.Join(strings.Fields(s), ""))
}

// RFC 4231, whole: with its keys as they are (SoftHSM takes none shorter than the hash; padding with zeros is what
// HMAC does itself). Case 5 is cut to 128 bits there.
func TestHMACRFC4231(t *testing.T) {
	t.Parallel()
	r := newRaw(t)
	aa, dd, cd := bytes.Repeat([]byte{0xaa}, 131), bytes.Repeat([]byte{0xdd}, 50), bytes.Repeat([]byte{0xcd}, 50)
	for name, v := range map[string]struct {
		key, msg []byte
		mac      string
	}{
		"1": {bytes.Repeat([]byte{0x0b}, 20), []byte("Hi There"), "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"},
		"2": {[]byte("Jefe"), []byte("what do ya want for nothing?"), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"},
		"3": {aa[:20], dd, "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"},
		"4": {unhex(t, "0102030405060708090a0b0c0d0e0f10111213141516171819"), cd, "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b"},
		"5": {bytes.Repeat([]byte{0x0c}, 20), []byte("Test With Truncation"), "a3b6167473100ee06e0c796c2955552b"},
		"6": {aa, []byte("Test Using Larger Than Block-Size Key - Hash Key First"), "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"},
		"7": {aa, []byte("This is a test using a larger than block-size key and a larger than block-size data. The key needs to be hashed before being used by the HMAC algorithm."),
			"9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2"},
	} {
		key := append(bytes.Clone(v.key), make([]byte, max(0, 32-len(v.key)))...)
		h, err := r.key(pkcs11.CKK_GENERIC_SECRET, key)
		r.must(err)
		mac, err := r.mac(pkcs11.CKM_SHA256_HMAC, h, v.msg)
		if err != nil || len(mac) != 32 || hex.EncodeToString(mac[:len(v.mac)/2]) != v.mac {
			t.Errorf("case %s: %x, %v", name, mac, err)
		}
		r.destroy(h)
	}
}

// RFC 4493 §4: AES-128; and SP 800-38B D.2, D.3: AES-192 and AES-256 over the same messages.
func TestCMACRFC4493(t *testing.T) {
	t.Parallel()
	r := newRaw(t)
	msg := hexBytes(t, `6bc1bee22e409f96e93d7e117393172a ae2d8a571e03ac9c9eb76fac45af8e51
		30c81c46a35ce411e5fbc1191a0a52ef f69f2445df4f9b17ad2b417be66c3710`)
	for key, macs := range map[string]map[int]string{
		"2b7e151628aed2a6abf7158809cf4f3c": {0: "bb1d6929e95937287fa37d129b756746", 16: "070a16b46b4d4144f79bdd9dd04a287c",
			40: "dfa66747de9ae63030ca32611497c827", 64: "51f0bebf7e3b9d92fc49741779363cfe"},
		"8e73b0f7da0e6452c810f32b809079e562f8ead2522c6b7b": {0: "d17ddf46adaacde531cac483de7a9367", 16: "9e99a7bf31e710900662f65e617c5184",
			40: "8a1de5be2eb31aad089a82e6ee908b0e", 64: "a1d5df0eed790f794d77589659f39a11"},
		"603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4": {0: "028962f61b7bf89efc6b551f4667d983", 16: "28a7023f452e8f82bd4bf28d8c37c35c",
			40: "aaf3d8f1de5640c232f5b169b9c911e6", 64: "e1992190549f6ed5696a2c056c315410"},
	} {
		h, err := r.key(pkcs11.CKK_AES, unhex(t, key))
		r.must(err)
		for n, want := range macs {
			if mac, err := r.mac(pkcs11.CKM_AES_CMAC, h, msg[:n]); err != nil || hex.EncodeToString(mac) != want {
				t.Errorf("AES-%d, %d bytes: %x, %v", 4*len(key), n, mac, err)
			}
		}
	}
}

// NIST's CAVS vector of SP 800-108 counter mode (CMAC-AES128, 32-bit counter before the fixed input), its PRF in the token.
func TestKDF2BlocksInToken(t *testing.T) {
	t.Parallel()
	r := newRaw(t)
	h, err := r.key(pkcs11.CKK_AES, unhex(t, "695f1b1a16c949cea51cdf2554ec9d42"))
	r.must(err)
	fixed := unhex(t, "4fce5942832a390aa1cbe8a0bf9d202cb799e986c9d6b51f45e4d597a6b57f06a4ebfec6467335d116b7f5f9c5b954062f661820f5db2a5bbb3e0625")
	got, err := hsm.KDF2Blocks(func(b []byte) ([]byte, error) { return r.mac(pkcs11.CKM_AES_CMAC, h, b) }, fixed)
	if err != nil || hex.EncodeToString(got) != "d34b601ec18c34dfa0f9e0b7523e218bdddb9befe8d08b6c0202d75ace0dba89" {
		t.Errorf("%x, %v", got, err)
	}
}

// SP 800-38A F.2.1, F.2.3 and F.2.5, by CKM_AES_CBC_ENCRYPT_DATA, the mechanism of KDF 1.
func TestCBCEncryptDataSP80038A(t *testing.T) {
	t.Parallel()
	r := newRaw(t)
	iv := unhex(t, "000102030405060708090a0b0c0d0e0f")
	plain := hexBytes(t, `6bc1bee22e409f96e93d7e117393172a ae2d8a571e03ac9c9eb76fac45af8e51
		30c81c46a35ce411e5fbc1191a0a52ef f69f2445df4f9b17ad2b417be66c3710`)
	for key, want := range map[string]string{
		"2b7e151628aed2a6abf7158809cf4f3c": `7649abac8119b246cee98e9b12e9197d 5086cb9b507219ee95db113a917678b2
			73bed6b8e3c1743b7116e69e22229516 3ff1caa1681fac09120eca307586e1a7`,
		"8e73b0f7da0e6452c810f32b809079e562f8ead2522c6b7b": `4f021db243bc633d7178183a9fa071e8 b4d9ada9ad7dedf4e5e738763f69145a
			571b242012fb7ae07fa9baac3df102e0 08b0e27988598881d920a9e64f5615cd`,
		"603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4": `f58c4c04d6e5f1ba779eabfb5f7bfbd6 9cfc4e967edb808d679f777bc6702c7d
			39f23369a9d9bacfa530e26304231461 b2eb05e2c39be9fcda6c19078c6a9d1b`,
	} {
		h, err := r.key(pkcs11.CKK_AES, unhex(t, key))
		r.must(err)
		if got, err := r.encryptData(h, iv, plain); err != nil || !bytes.Equal(got, hexBytes(t, want)) {
			t.Errorf("AES-%d: %x, %v", 4*len(key), got, err)
		}
	}
}

// FIPS 180-4's examples, as KDF 1 hashes its context (this one step is done outside the token), and KDF 1 of the
// first in the token against the block cipher applied by hand.
func TestKDF1OfSHA256Vectors(t *testing.T) {
	t.Parallel()
	abc := "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
	for msg, want := range map[string]string{
		"abc": abc,
		"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq": "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
	} {
		if got := hex.EncodeToString(hsm.KDF1Input([]byte(msg))); got != want {
			t.Errorf("%q: %s", msg, got)
		}
	}
	tok := token(t)
	k := derive(t, tok, imported(t, tok, hsm.Spec{Kind: hsm.PurposeKey}, sequence()), "abc", hsm.DeviceKey)
	block, err := aes.NewCipher(sequence())
	if err != nil {
		t.Fatal(err)
	}
	want := unhex(t, abc)
	block.Encrypt(want[:16], want[:16])
	for i := range 16 {
		want[16+i] ^= want[i]
	}
	block.Encrypt(want[16:], want[16:])
	if !bytes.Equal(mac(t, k, "m"), softHMAC(want, "m")) {
		t.Error("the token derives another key")
	}
}

// RFC 3394 §4, all six.
func TestKeyWrapRFC3394(t *testing.T) {
	t.Parallel()
	r := newRaw(t)
	kek := sequence()
	data := unhex(t, "00112233445566778899aabbccddeeff000102030405060708090a0b0c0d0e0f")
	for _, v := range []struct {
		section   string
		kek, data int
		wrapped   string
	}{
		{"4.1", 16, 16, "1fa68b0a8112b447aef34bd8fb5a7b829d3e862371d2cfe5"},
		{"4.2", 24, 16, "96778b25ae6ca435f92b5b97c050aed2468ab8a17ad84e5d"},
		{"4.3", 32, 16, "64e8c3f9ce0f5ba263e9777905818a2a93c8191e7d6e8ae7"},
		{"4.4", 24, 24, "031d33264e15d33268f24ec260743edce1c6c7ddee725a936ba814915c6762d2"},
		{"4.5", 32, 24, "a8f9bc1612c68b3ff6e6f4fbe30e71e4769c8b80a32cb8958cd5d17d6b254da1"},
		{"4.6", 32, 32, "28c9f404c4b810f4cbccb35cfb87f8263f5786e2d80ed326cbc7f0e71a99f43bfb988b9b7a02dd21"},
	} {
		k, err := r.key(pkcs11.CKK_AES, kek[:v.kek])
		r.must(err)
		// The RFC's own key data, with those of §4.4 on as its first bytes.
		d, err := r.key(pkcs11.CKK_GENERIC_SECRET, data[:v.data])
		r.must(err)
		if blob, err := r.wrap(k, d); err != nil || hex.EncodeToString(blob) != v.wrapped {
			t.Errorf("§%s wraps to %x, %v", v.section, blob, err)
		}
		if got, err := r.unwrap(k, unhex(t, v.wrapped)); err != nil || !bytes.Equal(got, data[:v.data]) {
			t.Errorf("§%s unwraps to %x, %v", v.section, got, err)
		}
		bad := unhex(t, v.wrapped)
		bad[len(bad)-1] ^= 1
		if got, err := r.unwrap(k, bad); err == nil {
			t.Errorf("§%s, changed, unwraps to %x", v.section, got)
		}
	}
}

// McGrew and Viega, The Galois/Counter Mode of Operation, appendix B, cases 4, 10 and 16: those with 96-bit nonces
// and additional data. Opening goes through this package too.
func TestGCMVectors(t *testing.T) {
	t.Parallel()
	r := newRaw(t)
	nonce := unhex(t, "cafebabefacedbaddecaf888")
	aad := unhex(t, "feedfacedeadbeeffeedfacedeadbeefabaddad2")
	plain := hexBytes(t, `d9313225f88406e5a55909c5aff5269a 86a7a9531534f7da2e4c303d8a318a72
		1c3c0c95956809532fcf0e2449a6b525 b16aedf5aa0de657ba637b39`)
	key := unhex(t, "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308")
	for size, want := range map[int]string{
		16: `42831ec2217774244b7221b784d0d49c e3aa212f2c02a4e035c17e2329aca12e 21d514b25466931c7d8f6a5aac84aa05 1ba30b396a0aac973d58e091
			5bc94fbc3221a5db94fae95ae7121a47`,
		24: `3980ca0b3c00e841eb06fac4872a2757 859e1ceaa6efd984628593b40ca1e19c 7d773d00c144c525ac619d18c84a3f47 18e2448b2fe324d9ccda2710
			2519498e80f1478f37ba55bd6d27618c`,
		32: `522dc1f099567d07f47f37a32a84427d 643a8cdcbfe5c0c97598a2bd2555d1aa 8cb08e48590dbb3da7b08b1056828838 c5f61e6393ba7a0abcc9f662
			76fc6ece0f4e1768cddf8853bb2d551b`,
	} {
		h, err := r.key(pkcs11.CKK_AES, key[:size])
		r.must(err)
		if got, err := r.encryptGCM(h, nonce, aad, plain); err != nil || !bytes.Equal(got, hexBytes(t, want)) {
			t.Errorf("AES-%d: %x, %v", 8*size, got, err)
		}
		if got, err := r.decryptGCM(h, nonce, aad, hexBytes(t, want)); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("AES-%d opens to %x, %v", 8*size, got, err)
		}
		if size != 32 {
			continue
		}
		ours := imported(t, token(t), hsm.Spec{Kind: hsm.ResidentCipherKey}, key)
		if got, err := ours.Open(t.Context(), nonce, aad, hexBytes(t, want)); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("through Open: %x, %v", got, err)
		}
	}
}

// sharedIs tells whether the agreed key has these bytes, by what follows from them: KDF 1 and AES-GCM.
func sharedIs(t testing.TB, tok *hsm.Token, agreed *hsm.Key, shared []byte) bool {
	t.Helper()
	k := derive(t, tok, agreed, "pkg", hsm.TransferSealKey)
	nonce, sealed, err := k.Seal(t.Context(), []byte("aad"), []byte("plaintext"))
	if err != nil {
		t.Fatal(err)
	}
	block, err := aes.NewCipher(softKDF1(t, shared, []byte("pkg")))
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Destroy(t.Context()); err != nil {
		t.Fatal(err)
	}
	got, err := gcm.Open(nil, nonce, sealed, []byte("aad"))
	return err == nil && string(got) == "plaintext"
}

// RFC 5903 §8.1, both sides, and NIST's CAVS ECC CDH vectors 0 and 1 for P-256, through Agree and with the secret read.
func TestECDHVectors(t *testing.T) {
	t.Parallel()
	tok, r := token(t), newRaw(t)
	for _, v := range []struct{ name, d, x, y, shared string }{
		{"RFC 5903, initiator", "c88f01f510d9ac3f70a292daa2316de544e9aab8afe84049c62a9c57862d1433",
			"d12dfb5289c8d4f81208b70270398c342296970a0bccb74c736fc7554494bf63", "56fbf3ca366cc23e8157854c13c58d6aac23f046ada30f8353e74f33039872ab",
			"d6840f6b42f6edafd13116e0e12565202fef8e9ece7dce03812464d04b9442de"},
		{"RFC 5903, responder", "c6ef9c5d78ae012a011164acb397ce2088685d8f06bf9be0b283ab46476bee53",
			"dad0b65394221cf9b051e1feca5787d098dfe637fc90b9ef945d0c3772581180", "5271a0461cdb8252d61f1c456fa3e59ab1f45b33accf5f58389e0577b8990bb3",
			"d6840f6b42f6edafd13116e0e12565202fef8e9ece7dce03812464d04b9442de"},
		{"CAVS 0", "7d7dc5f71eb29ddaf80d6214632eeae03d9058af1fb6d22ed80badb62bc1a534",
			"700c48f77f56584c5cc632ca65640db91b6bacce3a4df6b42ce7cc838833d287", "db71e509e3fd9b060ddb20ba5c51dcc5948d46fbf640dfe0441782cab85fa4ac",
			"46fc62106420ff012e54a434fbdd2d25ccc5852060561e68040dd7778997bd7b"},
		{"CAVS 1", "38f65d6dce47676044d58ce5139582d568f64bb16098d179dbab07741dd5caf5",
			"809f04289c64348c01515eb03d5ce7ac1a8cb9498f5caa50197e58d43a86a7ae", "b29d84e811197f25eba8f5194092cb6ff440e26d4421011372461f579271cda3",
			"057d636096cb80b67a8c038c890e887d1adfa4195e9b3ce241c8a778c59cda67"},
	} {
		point := slices.Concat([]byte{4}, unhex(t, v.x), unhex(t, v.y))
		agreed, err := tok.Agree(t.Context(), imported(t, tok, hsm.Spec{Kind: hsm.EphemeralKey}, unhex(t, v.d)), point, hsm.Spec{Kind: hsm.AgreedKey})
		if err != nil || !sharedIs(t, tok, agreed, unhex(t, v.shared)) {
			t.Errorf("%s: another secret, %v", v.name, err)
		}
		private, err := r.private(unhex(t, v.d))
		r.must(err)
		if got, err := r.agree(private, point); err != nil || hex.EncodeToString(got) != v.shared {
			t.Errorf("%s: %x, %v", v.name, got, err)
		}
	}
}

// RFC 6979 A.2.5: the token has the RFC's key, its signatures verify under the RFC's public key, and it accepts the
// RFC's signatures. (Its own differ: its nonces are random.)
func TestECDSARFC6979(t *testing.T) {
	t.Parallel()
	tok, r := token(t), newRaw(t)
	d := unhex(t, "c9afa9d845ba75166b5c215767b1d6934e50c3db36e89b127b8a622b120f6721")
	point := unhex(t, "0460fed4ba255a9d31c961eb74c6356d68c049b8923b61fa6ce669622e60f29fb67903fe1008b8bc99a41ae9e95628bc64f2f1b20c2d7e9f5177a3c294d4462299")
	pub, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	if err != nil {
		t.Fatal(err)
	}
	ours := imported(t, tok, hsm.Spec{Kind: hsm.IdentitySigningKey, Label: "rfc6979", Token: true}, d)
	theirs, err := r.public(point)
	r.must(err)
	for msg, rs := range map[string]string{
		"sample": "efd48b2aacb6a8fd1140dd9cd45e81d69d2c877b56aaf991c34d0ea84eaf3716" + "f7cb1c942d657c41d436c7a1b6e29f65f3e900dbb9aff4064dc4ab2f843acda8",
		"test":   "f1abb023518351cd71d881567b1ea663ed3efcf6c5132b354f28d3b0b7d38367" + "019f4113742a2b14bd25926b49c649155f267e60d3814b4c0cc84250e46f0083",
	} {
		digest := sha256.Sum256([]byte(msg))
		if err := r.verify(pkcs11.CKM_ECDSA, theirs, digest[:], unhex(t, rs)); err != nil {
			t.Errorf("%q: the token refuses the RFC's signature: %v", msg, err)
		}
		bad := unhex(t, rs)
		bad[63] ^= 1
		if err := r.verify(pkcs11.CKM_ECDSA, theirs, digest[:], bad); err == nil {
			t.Errorf("%q: the token accepts another signature", msg)
		}
		sig, err := ours.Sign(t.Context(), digest[:])
		if err != nil || !ecdsa.Verify(pub, digest[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])) {
			t.Errorf("%q: signed %x, %v", msg, sig, err)
		}
		if err := r.verify(pkcs11.CKM_ECDSA, theirs, digest[:], sig); err != nil {
			t.Errorf("%q: the token refuses its own signature under the RFC's key: %v", msg, err)
		}
	}
	if !bytes.Equal(ours.Public(), point) {
		t.Error("the key's public half is another")
	}
}
