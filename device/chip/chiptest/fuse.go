package chiptest

import (
	"errors"
	"testing"

	"github.com/devicekeys/devicekeys/device/chip"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/statement"
)

func testROMKey(t *testing.T, b Bench) {
	c := b.New(t, 32)
	key, err := c.ROMKey(t.Context())
	check(t, err)
	if !key.IsZero() {
		t.Fatal("a new chip has a ROM key")
	}
	if err := c.WriteROMKey(t.Context(), statement.PublicKey{}); err == nil {
		t.Error("no key was written as ROM key")
	}
	first, second := NewSPP(t, c.Realm()).ROMKey(), NewSPP(t, c.Realm()).ROMKey()
	check(t, c.WriteROMKey(t.Context(), first))
	check(t, c.WriteROMKey(t.Context(), first))
	if err := c.WriteROMKey(t.Context(), second); !errors.Is(err, chip.ErrWritten) {
		t.Errorf("writing another ROM key gives %v, want ErrWritten", err)
	}
	c = b.Reopen(t, c)
	if err := c.WriteROMKey(t.Context(), second); !errors.Is(err, chip.ErrWritten) {
		t.Errorf("writing another ROM key after a reset gives %v, want ErrWritten", err)
	}
	if key, err = c.ROMKey(t.Context()); err != nil || key != first {
		t.Errorf("ROM key after a reset: %v, %v", key, err)
	}
}

func testFuses(t *testing.T, b Bench) {
	c := b.New(t, 32)
	want := chip.Fuses{}
	same := func(act string) {
		t.Helper()
		got, err := c.Fuses(t.Context())
		check(t, err)
		if got != want {
			t.Errorf("after %s: %+v, want %+v", act, got, want)
		}
	}
	same("making it")
	for _, floor := range []identity.Generation{1, 3, 2, 3, 0} {
		check(t, c.RaiseFloor(t.Context(), floor))
		want.Floor = max(want.Floor, floor)
		same("raising the floor")
	}
	c = b.Reopen(t, c)
	same("a reset")
	check(t, c.Lock(t.Context()))
	want.Locked = true
	same("locking")
	check(t, c.Lock(t.Context()))
	check(t, c.RaiseFloor(t.Context(), identity.MaxGeneration))
	want.Floor = identity.MaxGeneration
	c = b.Reopen(t, c)
	same("another reset")
}
