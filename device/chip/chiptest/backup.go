package chiptest

import (
	"bytes"
	"errors"
	"testing"

	"github.com/devicekeys/devicekeys/device/chip"
	"github.com/devicekeys/devicekeys/keypackage"
)

func (x transfer) protect(t *testing.T, keys map[int]chip.Key, contents []byte) ([][]byte, keypackage.Sealed) {
	t.Helper()
	p, err := x.chip.Protect(t.Context(), x.a.Certificate.ClaimsHash())
	check(t, err)
	var wrapped [][]byte
	for i, at := range x.a.Manifest.Wrapped() {
		w, err := p.Wrap(t.Context(), keys[at])
		check(t, err)
		if len(w) != x.a.Manifest.Entries[at].WrappedSize() || bytes.Equal(w, x.a.Wrapped[i]) {
			t.Errorf("entry %d is wrapped in %d bytes, or as it came", at, len(w))
		}
		wrapped = append(wrapped, w)
	}
	sealed, err := p.Seal(t.Context(), contents)
	check(t, err)
	if _, err := p.Seal(t.Context(), contents); !errors.Is(err, chip.ErrUsed) {
		t.Errorf("sealing twice gives %v, want ErrUsed", err)
	}
	check(t, p.Close(t.Context()))
	return wrapped, sealed
}

func testOtherClaims(t *testing.T, b Bench) {
	x := begin(t, b.New(t, 24), Everything())
	keys := x.unwrap(t)
	wrapped, sealed := x.protect(t, keys, []byte("contents"))

	other, err := x.chip.Recover(t.Context(), [32]byte{1})
	check(t, err)
	if _, err := other.Open(t.Context(), sealed); !errors.Is(err, chip.ErrData) {
		t.Errorf("contents of other claims: %v, want ErrData", err)
	}
	if _, err := other.Unwrap(t.Context(), x.a.Manifest, x.a.Manifest.Wrapped()[0], wrapped[0]); !errors.Is(err, chip.ErrData) {
		t.Errorf("key of other claims: %v, want ErrData", err)
	}
	check(t, other.Close(t.Context()))

	// Another chip has another chip key.
	stranger := b.New(t, 24)
	r, err := stranger.Recover(t.Context(), x.a.Certificate.ClaimsHash())
	check(t, err)
	if _, err := r.Open(t.Context(), sealed); !errors.Is(err, chip.ErrData) {
		t.Errorf("contents of another chip: %v, want ErrData", err)
	}
	check(t, r.Close(t.Context()))
	if _, err := r.Unwrap(t.Context(), x.a.Manifest, x.a.Manifest.Wrapped()[0], wrapped[0]); !errors.Is(err, chip.ErrUsed) {
		t.Errorf("unwrapping after Close gives %v, want ErrUsed", err)
	}
}

func testResidentStays(t *testing.T, b Bench) {
	x := begin(t, b.New(t, 32), Everything())
	wrapped, _ := x.protect(t, x.unwrap(t), []byte("contents"))
	r, err := x.chip.Recover(t.Context(), x.a.Certificate.ClaimsHash())
	check(t, err)
	p, err := x.chip.Protect(t.Context(), x.a.Certificate.ClaimsHash())
	check(t, err)
	for i, at := range x.a.Manifest.Wrapped() {
		k, err := r.Unwrap(t.Context(), x.a.Manifest, at, wrapped[i])
		check(t, err)
		if _, err := p.Wrap(t.Context(), k); err == nil {
			t.Errorf("resident key of entry %d was wrapped", at)
		}
	}
	check(t, r.Close(t.Context()))
	check(t, p.Close(t.Context()))
}
