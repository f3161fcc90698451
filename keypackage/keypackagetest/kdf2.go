// Package keypackagetest has KDF 2 in software, from its definition, for tests that hold
// tokens and vectors against it. Nothing of the product needs it.
package keypackagetest

import (
	"crypto/aes"
	"encoding/binary"
	"testing"
)

// CMAC is AES-CMAC, RFC 4493 §2.4.
func CMAC(t testing.TB, key, msg []byte) []byte {
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

// KDF2 is KDF 2: SP 800-108 counter mode with CMAC, label "dk-kdf".
func KDF2(t testing.TB, key, context []byte) []byte {
	t.Helper()
	fixed := append(append([]byte("dk-kdf\x00"), context...), 0, 0, 1, 0)
	var out []byte
	for i := byte(1); i <= 2; i++ {
		out = append(out, CMAC(t, key, append([]byte{0, 0, 0, i}, fixed...))...)
	}
	return out
}
