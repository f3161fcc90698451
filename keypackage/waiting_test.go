package keypackage

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/devicekeys/devicekeys/detcbor/detcbortest"
)

func waitingPair(t testing.TB) WaitingKey {
	t.Helper()
	k, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return WaitingKey{Algorithm: ES256, Wrapped: make([]byte, 80), Public: k.PublicKey().Bytes(), X509: []byte{0x30, 0}}
}

func TestWaitingKey(t *testing.T) {
	t.Parallel()
	pair := waitingPair(t)
	bare := pair
	bare.X509, bare.Algorithm = nil, ECDH
	for _, w := range []WaitingKey{pair, bare, {Algorithm: HMACSHA256, Wrapped: make([]byte, 40)}, {Algorithm: AES256GCM, Wrapped: make([]byte, 40)}} {
		b, err := w.Encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseWaitingKey(b)
		if d := cmp.Diff(w, got); d != "" || err != nil {
			t.Errorf("%v %s", err, d)
		}
	}
	for name, spoil := range map[string]func(*WaitingKey){
		"no key":                       func(w *WaitingKey) { w.Algorithm = None },
		"another length":               func(w *WaitingKey) { w.Wrapped = w.Wrapped[:40] },
		"no public half":               func(w *WaitingKey) { w.Public = nil },
		"a point off the curve":        func(w *WaitingKey) { w.Public = bytes.Repeat([]byte{4}, 65) },
		"a long certificate":           func(w *WaitingKey) { w.X509 = make([]byte, MaxX509+1) },
		"a symmetric key with a point": func(w *WaitingKey) { w.Algorithm, w.Wrapped = HMACSHA256, w.Wrapped[:40] },
	} {
		w := pair
		spoil(&w)
		if _, err := w.Encode(); err == nil {
			t.Errorf("%s was encoded", name)
		}
	}
}

// FuzzWaitingKey: what reads encodes to the same bytes.
func FuzzWaitingKey(f *testing.F) {
	b, err := waitingPair(f).Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{0x85, 1, 5, 0x40, 0x40, 0x40})
	f.Fuzz(func(t *testing.T, b []byte) {
		w, err := ParseWaitingKey(b)
		if err != nil {
			return
		}
		if again, err := w.Encode(); err != nil || !bytes.Equal(again, b) {
			t.Errorf("%v: %x and %x", err, b, again)
		}
	})
}

// TestWaitingKeyOneEncoding: whatever waits has one encoding.
func TestWaitingKeyOneEncoding(t *testing.T) {
	t.Parallel()
	pair := waitingPair(t)
	rapid.Check(t, func(t *rapid.T) {
		w := WaitingKey{Algorithm: rapid.SampledFrom([]Algorithm{HMACSHA256, AES256GCM, ES256, ECDH}).Draw(t, "algorithm")}
		size := 40
		if w.Algorithm.Pair() {
			size, w.Public = 80, pair.Public
			w.X509 = rapid.SliceOfN(rapid.Byte(), 0, 600).Draw(t, "certificate")
		}
		w.Wrapped = rapid.SliceOfN(rapid.Byte(), size, size).Draw(t, "wrapped")
		b, err := w.Encode()
		if err != nil {
			t.Fatal(err)
		}
		detcbortest.OneEncoding(t, "waiting key", b, func(b []byte) ([]byte, error) {
			w, err := ParseWaitingKey(b)
			if err != nil {
				return nil, err
			}
			again, err := w.Encode()
			if err != nil {
				t.Fatalf("it reads, and can't be written: %v", err)
			}
			return again, nil
		})
	})
}
