package message_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/sha256"
	"crypto/sha3"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"slices"
	"testing"

	"github.com/devicekeys/devicekeys/message"
)

// sender is base mode's other end, written from RFC 9180 for P-256, HKDF-SHA256 and AES-GCM: with an ephemeral key of the
// test's, which crypto/hpke does not take.
type sender struct {
	enc   []byte
	aead  cipher.AEAD
	nonce []byte
	seq   uint64
}

// newSender is SetupBaseS (section 5.1.1) with Encap's skE given (section 4.1).
func newSender(t testing.TB, skE *ecdh.PrivateKey, pkR []byte, aeadID uint16, info []byte) *sender {
	t.Helper()
	public, err := ecdh.P256().NewPublicKey(pkR)
	must(t, err)
	dh, err := skE.ECDH(public)
	must(t, err)
	enc := skE.PublicKey().Bytes()
	kem := []byte("KEM\x00\x10")
	extract := func(suite, salt []byte, label string, ikm []byte) []byte {
		prk, err := hkdf.Extract(sha256.New, slices.Concat([]byte("HPKE-v1"), suite, []byte(label), ikm), salt)
		must(t, err)
		return prk
	}
	expand := func(suite, prk []byte, label string, info []byte, n int) []byte {
		labelled := slices.Concat(binary.BigEndian.AppendUint16(nil, uint16(n)), []byte("HPKE-v1"), suite, []byte(label), info)
		out, err := hkdf.Expand(sha256.New, prk, string(labelled), n)
		must(t, err)
		return out
	}
	shared := expand(kem, extract(kem, nil, "eae_prk", dh), "shared_secret", slices.Concat(enc, pkR), 32)
	suite := binary.BigEndian.AppendUint16([]byte("HPKE\x00\x10\x00\x01"), aeadID)
	schedule := slices.Concat([]byte{0}, extract(suite, nil, "psk_id_hash", nil), extract(suite, nil, "info_hash", info))
	secret := extract(suite, shared, "secret", nil)
	block, err := aes.NewCipher(expand(suite, secret, "key", schedule, 16*int(aeadID)))
	must(t, err)
	gcm, err := cipher.NewGCM(block)
	must(t, err)
	return &sender{enc: enc, aead: gcm, nonce: expand(suite, secret, "base_nonce", schedule, 12)}
}

func (s *sender) seal(aad, plaintext []byte) []byte {
	nonce := slices.Clone(s.nonce)
	for i, b := range binary.BigEndian.AppendUint64(nil, s.seq) {
		nonce[4+i] ^= b
	}
	s.seq++
	return s.aead.Seal(nil, nonce, plaintext, aad)
}

// TestRFC9180: the official vectors of the KEM. The file is Go's shortened form of them: encryptions and exports are
// accumulated in a hash. The sender above makes the ciphertexts, whose hash must be the vectors'; crypto/hpke opens each
// with the private key behind an Agreer, as Open does.
func TestRFC9180(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("testdata/rfc9180.json")
	must(t, err)
	var vectors []struct {
		KEM         uint16   `json:"kem_id"`
		KDF         uint16   `json:"kdf_id"`
		AEAD        uint16   `json:"aead_id"`
		Info        hexBytes `json:"info"`
		IkmE        hexBytes `json:"ikmE"`
		SkR         hexBytes `json:"skRm"`
		PkR         hexBytes `json:"pkRm"`
		Enc         hexBytes `json:"enc"`
		Encryptions hexBytes `json:"encryptions_accumulated"`
		Exports     hexBytes `json:"exports_accumulated"`
	}
	must(t, json.Unmarshal(text, &vectors))
	if len(vectors) != 2 {
		t.Fatalf("%d vectors", len(vectors))
	}
	draw := func(r io.Reader) []byte {
		n := make([]byte, 1)
		_, err := io.ReadFull(r, n)
		must(t, err)
		b := make([]byte, n[0])
		_, err = io.ReadFull(r, b)
		must(t, err)
		return b
	}
	for _, v := range vectors {
		pair, err := hpke.DHKEM(ecdh.P256()).DeriveKeyPair(v.IkmE)
		must(t, err)
		raw, err := pair.Bytes()
		must(t, err)
		skE, err := ecdh.P256().NewPrivateKey(raw)
		must(t, err)
		s := newSender(t, skE, v.PkR, v.AEAD, v.Info)
		if !bytes.Equal(s.enc, v.Enc) {
			t.Fatalf("AEAD %d: enc %x", v.AEAD, s.enc)
		}
		private, err := message.PrivateKey(t.Context(), raw2key(t, v.SkR), v.PkR)
		must(t, err)
		aead, err := hpke.NewAEAD(v.AEAD)
		must(t, err)
		r, err := hpke.NewRecipient(v.Enc, private, hpke.HKDFSHA256(), aead, v.Info)
		must(t, err)

		source, sink := sha3.NewSHAKE128(), sha3.NewSHAKE128()
		for range 1000 {
			aad, plaintext := draw(source), draw(source)
			ciphertext := s.seal(aad, plaintext)
			sink.Write(ciphertext)
			if got, err := r.Open(aad, ciphertext); err != nil || !bytes.Equal(got, plaintext) {
				t.Fatalf("AEAD %d: %x opens to %x, %v", v.AEAD, ciphertext, got, err)
			}
		}
		if got := sum(sink); !bytes.Equal(got, v.Encryptions) {
			t.Errorf("AEAD %d: encryptions %x", v.AEAD, got)
		}
		source, sink = sha3.NewSHAKE128(), sha3.NewSHAKE128()
		for n := range 1000 {
			value, err := r.Export(string(draw(source)), n)
			must(t, err)
			sink.Write(value)
		}
		if got := sum(sink); !bytes.Equal(got, v.Exports) {
			t.Errorf("AEAD %d: exports %x", v.AEAD, got)
		}
	}
}

func sum(h *sha3.SHAKE) []byte {
	b := make([]byte, 16)
	h.Read(b)
	return b
}

// hexBytes are bytes that a file spells in hexadecimal.
type hexBytes []byte

func (h hexBytes) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(h)), nil }

func (h *hexBytes) UnmarshalText(b []byte) error {
	v, err := hex.DecodeString(string(b))
	*h = v
	return err
}
