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
		for _, one := range s {
			if _, wrong := keypackage.ParseSealed(one.Sealed, maxSecrets); wrong != nil {
				if err == nil {
					t.Fatalf("written, though %q is not sealed: %v", one.Entry, wrong)
				}
				return // what reads is opened entry by entry, and refused there
			}
		}
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%x reads, and is written as %x: %v", b, again, err)
		}
	})
}

// FuzzX509: a device's certificates read as what is written as the same bytes.
func FuzzX509(f *testing.F) {
	for _, c := range [][][]byte{nil, {{0x30, 0}}, {{0x30, 0}, make([]byte, 600)}, {{}}} {
		b, err := encodeX509(c)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)-1])
	}
	f.Add([]byte{0xf6})       // null
	f.Add([]byte{0x81, 0xf6}) // null for a certificate
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := parseX509(b)
		if err != nil {
			if c != nil {
				t.Fatal("certificates beside an error")
			}
			return
		}
		if again, err := encodeX509(c); err != nil || !bytes.Equal(again, b) || len(b) > maxX509 {
			t.Fatalf("%x reads, and is written as %x: %v", b, again, err)
		}
	})
}
