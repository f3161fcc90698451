package provisioning_test

import (
	"bytes"
	"testing"

	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning"
)

// FuzzParseKept: what was kept sealed reads as one secret, in one encoding, of the lengths that secrets have.
func FuzzParseKept(f *testing.F) {
	for _, s := range []keypackage.Secret{
		{Random: make([]byte, 32), Value: []byte("0123456789012345")}, {Random: make([]byte, 32), Value: make([]byte, keypackage.MaxSecret)},
		{Random: make([]byte, 31), Value: []byte{1}}, {Random: make([]byte, 32), Value: []byte{}}, {Random: make([]byte, 32), Value: make([]byte, keypackage.MaxSecret+1)},
	} {
		b := detcbor.Must(s)
		f.Add(b)
		f.Add(b[:len(b)-1])
	}
	f.Add([]byte{0x82, 0xf6, 0xf6})
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := provisioning.ParseKept(b)
		if err != nil {
			if s.Random != nil || s.Value != nil {
				t.Fatal("a secret beside an error")
			}
			return
		}
		if len(s.Random) != 32 || len(s.Value) == 0 || len(s.Value) > keypackage.MaxSecret || !bytes.Equal(detcbor.Must(s), b) {
			t.Fatalf("%x reads as %d and %d bytes, and is written as %x", b, len(s.Random), len(s.Value), detcbor.Must(s))
		}
	})
}
