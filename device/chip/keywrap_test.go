package chip_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"

	"pgregory.net/rapid"

	"github.com/devicekeys/devicekeys/device/chip"
	"github.com/devicekeys/devicekeys/device/chip/chiptest"
)

// The vector of RFC 3394 §4.6, computed twice: by the software chip and by
// chiptest, which is written another way.
func TestKeyWrapVector(t *testing.T) {
	t.Parallel()
	kek := unhex(t, "000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F")
	key := unhex(t, "00112233445566778899AABBCCDDEEFF000102030405060708090A0B0C0D0E0F")
	want := unhex(t, "28C9F404C4B810F4CBCCB35CFB87F8263F5786E2D80ED326CBC7F0E71A99F43BFB988B9B7A02DD21")
	got, err := chip.WrapKey(kek, key)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("wrapped: %x, %v", got, err)
	}
	if got := chiptest.Wrap(t, kek, key); !bytes.Equal(got, want) {
		t.Errorf("chiptest wrapped: %x", got)
	}
	if got, err := chip.UnwrapKey(kek, want); err != nil || !bytes.Equal(got, key) {
		t.Errorf("unwrapped: %x, %v", got, err)
	}
}

func TestKeyWrap(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		kek := rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(r, "kek")
		key := rapid.SliceOfN(rapid.Byte(), 32, 72).Draw(r, "key")
		key = key[:len(key)/8*8]
		wrapped, err := chip.WrapKey(kek, key)
		if err != nil || !bytes.Equal(wrapped, chiptest.Wrap(t, kek, key)) {
			r.Fatalf("wrapped %x, %v", wrapped, err)
		}
		if got, err := chip.UnwrapKey(kek, wrapped); err != nil || !bytes.Equal(got, key) {
			r.Fatalf("unwrapped %x, %v", got, err)
		}
		bit := rapid.IntRange(0, 8*len(wrapped)-1).Draw(r, "bit")
		wrapped[bit/8] ^= 1 << (bit % 8)
		if _, err := chip.UnwrapKey(kek, wrapped); !errors.Is(err, chip.ErrData) {
			r.Fatalf("a flipped bit gives %v", err)
		}
		context := rapid.SliceOf(rapid.Byte()).Draw(r, "context")
		if got, err := chip.Derive(kek, context); err != nil || !bytes.Equal(got, chiptest.KDF1(t, kek, context)) {
			r.Fatalf("derived %x, %v", got, err)
		}
	})
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
