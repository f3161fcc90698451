package keypackage_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"testing"
)

// What tokens do, done here in software from known bytes, so that the golden
// vectors reach down to every ciphertext.

// kdf1 is CKM_AES_CBC_ENCRYPT_DATA with a zero IV over SHA-256(context).
func kdf1(t testing.TB, key, context []byte) []byte {
	t.Helper()
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	h := sha256.Sum256(context)
	out := make([]byte, 32)
	cipher.NewCBCEncrypter(block, make([]byte, 16)).CryptBlocks(out, h[:])
	return out
}

// cmac is AES-CMAC, RFC 4493 §2.4.
func cmac(t testing.TB, key, msg []byte) []byte {
	t.Helper()
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	double := func(b []byte) []byte {
		hi, lo := binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])
		out := binary.BigEndian.AppendUint64(nil, hi<<1|lo>>63)
		return binary.BigEndian.AppendUint64(out, lo<<1^0x87*(hi>>63))
	}
	sub := make([]byte, 16)
	block.Encrypt(sub, sub)
	sub = double(sub)
	whole := len(msg) > 0 && len(msg)%16 == 0
	padded := append([]byte(nil), msg...)
	if !whole {
		sub = double(sub)
		padded = append(padded, 0x80)
		for len(padded)%16 != 0 {
			padded = append(padded, 0)
		}
	}
	mac := make([]byte, 16)
	for i := 0; i < len(padded); i += 16 {
		for j := range mac {
			mac[j] ^= padded[i+j]
			if i+16 == len(padded) {
				mac[j] ^= sub[j]
			}
		}
		block.Encrypt(mac, mac)
	}
	return mac
}

// kdf2 is KDF 2: SP 800-108 counter mode with CMAC, label "dk-kdf".
func kdf2(t testing.TB, key, context []byte) []byte {
	t.Helper()
	fixed := append(append([]byte("dk-kdf\x00"), context...), 0, 0, 1, 0)
	var out []byte
	for i := byte(1); i <= 2; i++ {
		out = append(out, cmac(t, key, append([]byte{0, 0, 0, i}, fixed...))...)
	}
	return out
}

// wrap is RFC 3394 §2.2.1.
func wrap(t testing.TB, kek, key []byte) []byte {
	t.Helper()
	block, err := aes.NewCipher(kek)
	if err != nil {
		t.Fatal(err)
	}
	n := len(key) / 8
	out := append(bytes.Repeat([]byte{0xa6}, 8), key...)
	var b [16]byte
	for j := range 6 {
		for i := 1; i <= n; i++ {
			copy(b[:8], out[:8])
			copy(b[8:], out[8*i:])
			block.Encrypt(b[:], b[:])
			binary.BigEndian.PutUint64(out, binary.BigEndian.Uint64(b[:8])^uint64(n*j+i))
			copy(out[8*i:], b[8:])
		}
	}
	return out
}

func seal(t testing.TB, key []byte, nonce [12]byte, aad, plaintext []byte) []byte {
	t.Helper()
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	return gcm.Seal(nil, nonce[:], plaintext, aad)
}

func mac(key, msg []byte) []byte {
	m := hmac.New(sha256.New, key)
	m.Write(msg)
	return m.Sum(nil)
}
