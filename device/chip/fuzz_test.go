package chip

import (
	"bytes"
	"errors"
	"testing"
)

// FuzzPrivate reads what a wrapped private key unwraps to: one form, and the
// error never repeats the bytes.
func FuzzPrivate(f *testing.F) {
	whole := append(append(bytes.Clone(privateHead), bytes.Repeat([]byte{0x11}, 32)...), make([]byte, privatePaddedSize-privateSize)...)
	f.Add(whole)
	f.Add(whole[:privateSize])
	f.Add(append(bytes.Clone(privateHead), make([]byte, privatePaddedSize-len(privateHead))...)) // scalar 0
	f.Add(append(append(bytes.Clone(privateHead), bytes.Repeat([]byte{0xff}, 32)...), make([]byte, 5)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := parsePrivate(b)
		if err != nil {
			if k != nil || !errors.Is(err, ErrData) || err.Error() != "read private key: "+ErrData.Error() {
				t.Fatalf("%v", err)
			}
			return
		}
		scalar, err := k.Bytes()
		again := append(append(bytes.Clone(privateHead), scalar...), make([]byte, privatePaddedSize-privateSize)...)
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("a key that reads is written in another form: %v", err)
		}
	})
}
