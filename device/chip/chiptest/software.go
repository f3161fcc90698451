package chiptest

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"testing"

	"github.com/devicekeys/devicekeys/keypackage"
)

// Random gives n random bytes.
func Random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// MAC is HMAC-SHA-256.
func MAC(key, message []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write(message)
	return h.Sum(nil)
}

// KDF1 is AES-256-CBC, zero IV, over SHA-256(context).
func KDF1(t testing.TB, key, context []byte) []byte {
	t.Helper()
	block, err := aes.NewCipher(key)
	check(t, err)
	in := sha256.Sum256(context)
	out := make([]byte, 32)
	// CBC by hand: C1 = E(P1), C2 = E(P2 xor C1).
	block.Encrypt(out[:16], in[:16])
	for i := range 16 {
		in[16+i] ^= out[i]
	}
	block.Encrypt(out[16:], in[16:])
	return out
}

// Wrap is RFC 3394 in its index form (§2.2.1, second description, by registers
// that shift).
func Wrap(t testing.TB, kek, key []byte) []byte {
	t.Helper()
	block, err := aes.NewCipher(kek)
	check(t, err)
	a := [8]byte{0xa6, 0xa6, 0xa6, 0xa6, 0xa6, 0xa6, 0xa6, 0xa6}
	var registers [][]byte
	for i := 0; i < len(key); i += 8 {
		registers = append(registers, append([]byte(nil), key[i:i+8]...))
	}
	for step := 1; step <= 6*len(registers); step++ {
		b := append(a[:], registers[0]...)
		block.Encrypt(b, b)
		binary.BigEndian.PutUint64(a[:], binary.BigEndian.Uint64(b[:8])^uint64(step))
		registers = append(registers[1:], b[8:])
	}
	out := append([]byte(nil), a[:]...)
	for _, r := range registers {
		out = append(out, r...)
	}
	return out
}

// Seal is A256GCM in COSE_Encrypt0.
func Seal(t testing.TB, key, external, plaintext []byte) *keypackage.Sealed {
	t.Helper()
	block, err := aes.NewCipher(key)
	check(t, err)
	aead, err := cipher.NewGCM(block)
	check(t, err)
	s := keypackage.Sealed{Nonce: [keypackage.NonceSize]byte(Random(keypackage.NonceSize))}
	s.Ciphertext = aead.Seal(nil, s.Nonce[:], plaintext, keypackage.SealedAAD(external))
	return &s
}

// PrivateKeyInfo gives the 72 bytes as which a token wraps a P-256 private
// key: PKCS #8 without public key, padded with zeros.
func PrivateKeyInfo(t testing.TB, k *ecdsa.PrivateKey) []byte {
	t.Helper()
	scalar, err := k.Bytes()
	check(t, err)
	inner, err := asn1.Marshal(struct {
		Version int
		Key     []byte
	}{1, scalar})
	check(t, err)
	// The standard library's own PKCS #8 gives the algorithm's bytes.
	full, err := x509.MarshalPKCS8PrivateKey(k)
	check(t, err)
	var info struct {
		Version   int
		Algorithm asn1.RawValue
		Key       []byte
	}
	_, err = asn1.Unmarshal(full, &info)
	check(t, err)
	info.Key = inner
	out, err := asn1.Marshal(info)
	check(t, err)
	return append(out, make([]byte, (8-len(out)%8)%8)...)
}
