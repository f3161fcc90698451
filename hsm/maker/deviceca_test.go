package maker_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/hsm/maker"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/statement"
)

// TestDeviceCA: versions of the device CA follow each other, each with its own key, none made twice, and are told
// apart by their public halves.
func TestDeviceCA(t *testing.T) {
	t.Parallel()
	_, tok, old := opened(t)
	ctx := t.Context()
	public := func(version uint32) statement.PublicKey {
		t.Helper()
		k, err := tok.Find(ctx, maker.DeviceCASpec(dev, version))
		if err != nil {
			t.Fatal(err)
		}
		p, err := statement.ParsePoint(k.Public())
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	var acts []maker.Act
	before := func(_ context.Context, a maker.Act) error { acts = append(acts, a); return nil }
	first := public(1)
	for range 2 { // twice is once
		if err := maker.CreateDeviceCA(ctx, tok, dev, 2, before); err != nil {
			t.Fatal(err)
		}
	}
	if len(acts) != 1 || acts[0] != (maker.Act{Key: "dev-device-ca-2", What: "generate"}) {
		t.Errorf("acts: %v", acts)
	}
	second := public(2)
	if public(1) != first || second == first {
		t.Error("version 1 changed, or version 2 has its key")
	}
	if _, err := old.DeviceCA(second); err == nil {
		t.Error("a key ring opened before knows the new version")
	}
	k, err := maker.Open(ctx, tok, dev)
	if err != nil {
		t.Fatal(err)
	}
	for want, p := range map[uint32]statement.PublicKey{1: first, 2: second} {
		if v, err := k.DeviceCA(p); err != nil || v != want {
			t.Errorf("version %d: %d, %v", want, v, err)
		}
	}
	if _, err := k.DeviceCA(k.ROMKey()); err == nil {
		t.Error("the ROM key passes for a device CA's")
	}
	if labels(t, k)["dev-device-ca-2"] != "CA key" {
		t.Error("the inventory lacks version 2")
	}

	refused := errors.New("no entry")
	for _, c := range []struct {
		what    string
		realm   identity.Realm
		version uint32
		before  func(context.Context, maker.Act) error
		says    string
	}{
		{"a gap", dev, 4, before, "no version 3"},
		{"version 1", dev, 1, before, "custodian setup makes version 1"},
		{"too many", dev, maker.MaxDeviceCA + 1, before, "versions from 2 to 64"},
		{"production", identity.Production, 3, before, "ceremony"},
		{"no entry", dev, 3, func(context.Context, maker.Act) error { return refused }, "no entry"},
	} {
		if err := maker.CreateDeviceCA(ctx, tok, c.realm, c.version, c.before); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.what, err)
		}
		if _, err := tok.Find(ctx, maker.DeviceCASpec(dev, 3)); !errors.Is(err, hsm.ErrNoKey) {
			t.Errorf("%s made a key: %v", c.what, err)
		}
	}
	if len(acts) != 1 {
		t.Errorf("acts: %v", acts)
	}
}
