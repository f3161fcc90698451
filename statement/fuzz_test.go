package statement_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/asn1"
	"errors"
	"math/big"
	"testing"

	"github.com/devicekeys/devicekeys/statement"
)

// fixedSigner has one key and signs as RFC 6979 says: the fuzzer's processes
// each make their own, and what one signs the other must take.
type fixedSigner struct{ softwareSigner }

func newFixedSigner(t testing.TB) fixedSigner {
	t.Helper()
	k, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), bytes.Repeat([]byte{0x11}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return fixedSigner{softwareSigner{k}}
}

func (s fixedSigner) SignDigest(_ context.Context, digest []byte) ([]byte, error) {
	der, err := s.key.Sign(nil, digest, crypto.SHA256)
	if err != nil {
		return nil, err
	}
	var sig struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &sig); err != nil {
		return nil, err
	}
	return append(sig.R.FillBytes(make([]byte, 32)), sig.S.FillBytes(make([]byte, 32))...), nil
}

// FuzzOpen: only who has the key makes a statement that opens; what opens is
// what was signed; and the reader without key sees the same payload.
func FuzzOpen(f *testing.F) {
	s := newFixedSigner(f)
	payload := []byte("payload")
	raw, err := statement.Sign(f.Context(), s, statement.Unlock, payload)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add(raw[:len(raw)-1])
	f.Add(append(bytes.Clone(raw), 0))
	f.Add([]byte{0xd2, 0x84})
	f.Fuzz(func(t *testing.T, b []byte) {
		const limit = 1 << 10
		got, err := statement.Open(b, statement.Unlock, s.Public(), limit)
		switch {
		case err == nil && (!bytes.Equal(b, raw) || !bytes.Equal(got, payload)):
			t.Fatalf("opened a statement nobody signed: %x", b)
		case err != nil && !errors.Is(err, statement.ErrForm) && !errors.Is(err, statement.ErrSignature):
			t.Fatalf("refused with another error: %v", err)
		case err != nil && got != nil:
			t.Fatal("a payload beside an error")
		}
		seen, id, unverified := statement.Unverified(b, statement.Unlock, limit)
		if unverified != nil {
			if !errors.Is(unverified, statement.ErrForm) || err == nil {
				t.Fatalf("unverified: %v, with the key: %v", unverified, err)
			}
			return
		}
		if err == nil && (!bytes.Equal(seen, payload) || id != s.Public().ID()) || len(b) > limit {
			t.Fatalf("%d bytes, payload %x, key %s", len(b), seen, id)
		}
		// Signed by the right key, the same payload opens.
		signed, err := statement.Sign(t.Context(), s, statement.Unlock, seen)
		if err != nil {
			return
		}
		if got, err := statement.Open(signed, statement.Unlock, s.Public(), len(signed)); err != nil || !bytes.Equal(got, seen) {
			t.Fatalf("a payload of %d bytes that was signed does not open: %v", len(seen), err)
		}
	})
}

// FuzzPublicKey reads points and PEM files: what a ceremony hands on, and what
// stands in configurations.
func FuzzPublicKey(f *testing.F) {
	k := newFixedSigner(f).Public()
	p := k.Point()
	for _, b := range [][]byte{p, p[:64], append([]byte{2 + p[64]&1}, p[1:33]...), append([]byte{6}, p[1:]...), k.SPKI(), k.PEM(), append(k.PEM(), '\n'), k.PEM()[:90], {0}} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if k, err := statement.ParsePoint(b); err == nil && (!bytes.Equal(k.Point(), b) || k.IsZero()) {
			t.Fatalf("%x reads as %x", b, k.Point())
		} else if err != nil && !k.IsZero() {
			t.Fatal("a key beside an error")
		}
		k, err := statement.ParsePEM(b)
		if err != nil {
			return
		}
		again, err := statement.ParsePEM(k.PEM())
		if err != nil || again != k || k.IsZero() {
			t.Fatalf("%q reads as %s, which reads as %s, %v", b, k, again, err)
		}
	})
}
