package records

import (
	"bytes"
	"testing"

	"github.com/devicekeys/devicekeys/keypackage"
)

// FuzzSecrets reads the sealed secrets of a row: a database that somebody
// else wrote to is an outside, too.
func FuzzSecrets(f *testing.F) {
	sealed := keypackage.Sealed{Ciphertext: make([]byte, 40)}.Encode()
	for _, s := range [][]SealedSecret{nil, {{Entry: "sim-lock", Sealed: sealed}}, {{Entry: "a", Sealed: sealed}, {Entry: "b", Sealed: sealed}}} {
		b, err := encodeSecrets(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)-1])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseSecrets(b)
		if err != nil {
			if s != nil {
				t.Fatal("secrets beside an error")
			}
			return
		}
		again, err := encodeSecrets(s)
		if err == nil && len(s) > 0 && !bytes.Equal(again, b) {
			t.Fatalf("%x reads, and is written as %x", b, again)
		}
	})
}
