package chiptest

import (
	"errors"
	"testing"

	"github.com/devicekeys/devicekeys/device/chip"
	"github.com/devicekeys/devicekeys/keypackage"
)

// transfer is a chip in the middle of taking a package.
type transfer struct {
	chip chip.Chip
	in   chip.Transfer
	a    Assembly
}

func begin(t *testing.T, c chip.Chip, items []Item) transfer {
	t.Helper()
	spp := NewSPP(t, c.Realm())
	x, err := c.Exchange(t.Context())
	check(t, err)
	m1, err := keypackage.Hello{Realm: c.Realm(), Suite: keypackage.SuiteAttested, ChipID: c.ID(), ROMKey: spp.ROMKey().Hash(), Point: x.Point()}.Encode()
	check(t, err)
	a := spp.Assemble(t, m1, Order{Items: items})
	in, err := x.Agree(t.Context(), a.Point, keypackage.SuiteAttested, a.Transcript, a.Secrets != nil)
	check(t, err)
	t.Cleanup(func() { _ = in.Close(t.Context()) })
	return transfer{chip: c, in: in, a: a}
}

// unwrap takes all keys in, by entry.
func (x transfer) unwrap(t *testing.T) map[int]chip.Key {
	t.Helper()
	keys := map[int]chip.Key{}
	for i, at := range x.a.Manifest.Wrapped() {
		k, err := x.in.Unwrap(t.Context(), x.a.Manifest, at, x.a.Wrapped[i])
		check(t, err)
		keys[at] = k
	}
	return keys
}

func testTransfer(t *testing.T, b Bench) {
	x := begin(t, b.New(t, 32), Everything())
	keys := x.unwrap(t)
	x.uses(t, keys)
	plain, err := x.in.Open(t.Context(), x.a.Transcript, *x.a.Secrets)
	check(t, err)
	if _, err := keypackage.ParseSecrets(plain, x.a.Manifest); err != nil {
		t.Errorf("secrets: %v", err)
	}

	wrapped, sealed := x.protect(t, keys, []byte("contents"))
	for _, k := range keys {
		check(t, k.Destroy(t.Context()))
		check(t, k.Destroy(t.Context())) // repeating does no harm
		if _, err := k.MAC(t.Context(), []byte("m")); err == nil {
			t.Error("a destroyed key still works")
		}
	}

	// A reset: nothing of the transfer lives, the chip opens what it sealed.
	x.chip = b.Reopen(t, x.chip)
	r, err := x.chip.Recover(t.Context(), x.a.Certificate.ClaimsHash())
	check(t, err)
	got, err := r.Open(t.Context(), sealed)
	check(t, err)
	if string(got) != "contents" {
		t.Errorf("sealed contents came back as %q", got)
	}
	resident := map[int]chip.Key{}
	for i, at := range x.a.Manifest.Wrapped() {
		k, err := r.Unwrap(t.Context(), x.a.Manifest, at, wrapped[i])
		check(t, err)
		resident[at] = k
	}
	check(t, r.Close(t.Context()))
	x.uses(t, resident)
	x.agrees(t, resident)
}

func testSingleUse(t *testing.T, b Bench) {
	c := b.New(t, 32)
	x, err := c.Exchange(t.Context())
	check(t, err)
	y, err := c.Exchange(t.Context())
	check(t, err)
	if x.Point() == y.Point() {
		t.Fatal("two exchanges have one point")
	}
	in, err := x.Agree(t.Context(), y.Point(), keypackage.SuiteAttested, [32]byte{}, false)
	check(t, err)
	check(t, in.Close(t.Context()))
	check(t, in.Close(t.Context()))
	if _, err := in.Open(t.Context(), [32]byte{}, keypackage.Sealed{Ciphertext: make([]byte, 32)}); !errors.Is(err, chip.ErrUsed) {
		t.Errorf("opening after Close gives %v, want ErrUsed", err)
	}
	if _, err := x.Agree(t.Context(), y.Point(), keypackage.SuiteAttested, [32]byte{}, false); !errors.Is(err, chip.ErrUsed) {
		t.Errorf("agreeing twice gives %v, want ErrUsed", err)
	}
	if _, err := y.Agree(t.Context(), y.Point(), keypackage.SuiteAttested, [32]byte{}, false); !errors.Is(err, chip.ErrPoint) {
		t.Errorf("agreeing with the own point gives %v, want ErrPoint", err)
	}
	if _, err := y.Agree(t.Context(), x.Point(), keypackage.SuiteAttested, [32]byte{}, false); !errors.Is(err, chip.ErrUsed) {
		t.Errorf("agreeing after a failure gives %v, want ErrUsed", err)
	}
	check(t, y.Close(t.Context()))
}
