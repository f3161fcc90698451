package hsm_test

import (
	"bytes"
	"crypto/ecdh"
	"errors"
	"testing"

	"github.com/devicekeys/devicekeys/hsm"
)

// base is the generator of P-256: private key 1.
func base(t testing.TB) []byte {
	t.Helper()
	one := make([]byte, 32)
	one[31] = 1
	k, err := ecdh.P256().NewPrivateKey(one)
	if err != nil {
		t.Fatal(err)
	}
	return k.PublicKey().Bytes()
}

func TestDecodePoint(t *testing.T) {
	t.Parallel()
	g, ed := base(t), known(0x11)
	off := bytes.Clone(g)
	off[40] ^= 1
	for name, c := range map[string]struct {
		keyType uint
		in      []byte
		want    []byte // nil: refused
	}{
		"P-256 in DER":             {hsm.KeyTypeEC, append([]byte{4, 65}, g...), g},
		"P-256 raw":                {hsm.KeyTypeEC, g, g},
		"Ed25519 in DER":           {hsm.KeyTypeEdwards, append([]byte{4, 32}, ed...), ed},
		"Ed25519 raw":              {hsm.KeyTypeEdwards, ed, ed},
		"P-256 as BIT STRING":      {hsm.KeyTypeEC, append([]byte{3, 66, 0}, g...), nil},
		"off the curve":            {hsm.KeyTypeEC, append([]byte{4, 65}, off...), nil},
		"DER length wrong":         {hsm.KeyTypeEC, append([]byte{4, 64}, g...), nil},
		"trailing byte":            {hsm.KeyTypeEC, append(append([]byte{4, 65}, g...), 0), nil},
		"compressed":               {hsm.KeyTypeEC, append([]byte{4, 33, 2}, g[1:33]...), nil},
		"empty, as a half-written": {hsm.KeyTypeEC, nil, nil},
		"empty Ed25519":            {hsm.KeyTypeEdwards, nil, nil},
	} {
		got, err := hsm.DecodePoint(c.keyType, c.in)
		if (c.want == nil) != (err != nil) || !bytes.Equal(got, c.want) {
			t.Errorf("%s: %x, %v", name, got, err)
		}
	}
}

func FuzzDecodePoint(f *testing.F) {
	g := base(f)
	f.Add(false, append([]byte{4, 65}, g...))
	f.Add(false, g)
	f.Add(true, append([]byte{4, 32}, known(1)...))
	f.Add(false, []byte{4})
	f.Fuzz(func(t *testing.T, edwards bool, b []byte) {
		keyType, size := uint(hsm.KeyTypeEC), 65
		if edwards {
			keyType, size = hsm.KeyTypeEdwards, 32
		}
		p, err := hsm.DecodePoint(keyType, b)
		if err != nil {
			return
		}
		if len(p) != size || !bytes.HasSuffix(b, p) {
			t.Fatalf("%x decoded to %x", b, p)
		}
		if again, err := hsm.DecodePoint(keyType, p); err != nil || !bytes.Equal(again, p) {
			t.Fatalf("the decoded form isn't canonical: %v", err)
		}
	})
}

// A peer's point passes only in the form Go encodes it in.
func FuzzCheckPoint(f *testing.F) {
	g := base(f)
	f.Add(g)
	f.Add(append([]byte{2}, g[1:33]...))
	f.Add([]byte{0})
	f.Fuzz(func(t *testing.T, b []byte) {
		err := hsm.CheckPoint(b)
		if err != nil {
			if !errors.Is(err, hsm.ErrData) {
				t.Fatal(err)
			}
			return
		}
		k, e := ecdh.P256().NewPublicKey(b)
		if e != nil || !bytes.Equal(k.Bytes(), b) {
			t.Fatalf("%x passed", b)
		}
	})
}

// What a token answers for an attribute never panics, and only the right bytes match.
func FuzzAttributes(f *testing.F) {
	f.Add([]byte{1})
	f.Add([]byte{})
	f.Add(hsm.EncodeMechs([]uint{0x1105, 0x251}))
	f.Add(bytes.Repeat([]byte{0xff}, 48))
	f.Fuzz(func(t *testing.T, b []byte) {
		if hsm.MatchBool(true, b) && (len(b) != 1 || b[0] == 0) {
			t.Fatalf("%x read as true", b)
		}
		if hsm.MatchBool(false, b) && !bytes.Equal(b, []byte{0}) {
			t.Fatalf("%x read as false", b)
		}
		two := []uint{0x1105, 0x251}
		if hsm.SameMechanisms(two, b) && !bytes.Equal(b, hsm.EncodeMechs(two)) && !bytes.Equal(b, hsm.EncodeMechs([]uint{0x251, 0x1105})) {
			t.Fatalf("%x read as the two mechanisms", b)
		}
		if hsm.MatchNested(b) && len(b) != 48 {
			t.Fatalf("%x read as a template", b)
		}
	})
}
