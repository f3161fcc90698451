package chiptest

import (
	"testing"

	"github.com/devicekeys/devicekeys/device/chip"
	"github.com/devicekeys/devicekeys/keypackage"
)

// Keys has one entry for each algorithm that a key can have, named as the algorithm is.
func Keys() []Item {
	var all []Item
	for _, a := range keypackage.Algorithms() {
		switch {
		case a.Symmetric():
			all = append(all, Item{Kind: keypackage.DRM, Name: a.String(), Algorithm: a})
		case a.Pair():
			all = append(all, Item{Kind: keypackage.KeyPair, Name: a.String(), Algorithm: a})
		}
	}
	return all
}

// testAlgorithms takes a key of each algorithm in, uses it as it may be used, wraps it into the backup, and uses what
// comes back after a reset.
func testAlgorithms(t *testing.T, b Bench) {
	for _, item := range Keys() {
		t.Run(item.Name, func(t *testing.T) {
			t.Parallel()
			x := begin(t, b.New(t, 32), []Item{Channel(), item})
			keys := x.unwrap(t)
			x.uses(t, keys)
			wrapped, _ := x.protect(t, keys, nil)
			x.chip = b.Reopen(t, x.chip)
			r, err := x.chip.Recover(t.Context(), x.a.Certificate.ClaimsHash())
			check(t, err)
			resident := map[int]chip.Key{}
			for i, at := range x.a.Manifest.Wrapped() {
				resident[at], err = r.Unwrap(t.Context(), x.a.Manifest, at, wrapped[i])
				check(t, err)
			}
			check(t, r.Close(t.Context()))
			x.uses(t, resident)
			if item.Algorithm.Use() == keypackage.UseAgreement {
				x.agrees(t, resident)
			}
		})
	}
}
