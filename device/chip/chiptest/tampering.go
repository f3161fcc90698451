package chiptest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"testing"

	"github.com/devicekeys/devicekeys/device/chip"
	"github.com/devicekeys/devicekeys/keypackage"
)

func testTampering(t *testing.T, b Bench) {
	x := begin(t, b.New(t, 16), Everything())
	m := x.a.Manifest
	at := m.Wrapped()
	for _, c := range []struct {
		name string
		at   int
		blob []byte
		m    keypackage.Manifest
		want error
	}{
		{"flipped bit in a MAC key", at[0], flip(x.a.Wrapped[0], 3), m, chip.ErrData},
		{"flipped bit in a private key", at[1], flip(x.a.Wrapped[1], 30), m, chip.ErrData},
		{"flipped bit in an AES key", at[2], flip(x.a.Wrapped[2], 39), m, chip.ErrData},
		{"cut short", at[0], x.a.Wrapped[0][:32], m, chip.ErrData},
		{"empty", at[0], nil, m, chip.ErrData},
		{"private key for a MAC key", at[0], x.a.Wrapped[1], m, chip.ErrData},
		{"MAC key for a private key", at[1], x.a.Wrapped[0], m, chip.ErrData},
		{"AES key for a MAC key", at[0], x.a.Wrapped[2], m, chip.ErrVouch},
		{"MAC key for an AES key", at[2], x.a.Wrapped[0], m, chip.ErrVouch},
		{"check value of another key", at[0], x.a.Wrapped[0], vouching(m, at[0], Random(32)), chip.ErrVouch},
		{"check value of another AES key", at[2], x.a.Wrapped[2], vouching(m, at[2], Random(32)), chip.ErrVouch},
		{"public key of another pair", at[1], x.a.Wrapped[1], vouching(m, at[1], otherPoint(t)), chip.ErrVouch},
		{"entry that is no key", 3, x.a.Wrapped[0], m, chip.ErrData},
	} {
		if _, err := x.in.Unwrap(t.Context(), c.m, c.at, c.blob); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	if _, err := x.in.Unwrap(t.Context(), m, len(m.Entries), x.a.Wrapped[0]); err == nil {
		t.Error("an entry beyond the manifest was taken")
	}
	bad := *x.a.Secrets
	bad.Ciphertext = flip(bad.Ciphertext, 5)
	if _, err := x.in.Open(t.Context(), x.a.Transcript, bad); !errors.Is(err, chip.ErrData) {
		t.Errorf("flipped bit in the secrets: %v, want ErrData", err)
	}
	if _, err := x.in.Open(t.Context(), [32]byte{1}, *x.a.Secrets); !errors.Is(err, chip.ErrData) {
		t.Errorf("secrets of another transcript: %v, want ErrData", err)
	}
	// The chip still works after all that.
	x.uses(t, x.unwrap(t))
}

func flip(b []byte, at int) []byte {
	out := bytes.Clone(b)
	out[at] ^= 0x10
	return out
}

func vouching(m keypackage.Manifest, at int, vouch []byte) keypackage.Manifest {
	m.Entries = append([]keypackage.Entry(nil), m.Entries...)
	m.Entries[at].Vouch = vouch
	return m
}

func otherPoint(t *testing.T) []byte {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	b, err := k.PublicKey.Bytes()
	check(t, err)
	return b
}
