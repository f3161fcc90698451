package maker_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/hsm/maker"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/statement"
)

// TestDeviceKey: one key for one context, another for every other, refused for what is no context of ours.
func TestDeviceKey(t *testing.T) {
	t.Parallel()
	_, _, k := opened(t)
	ctx := t.Context()
	s, o := device(t, 1), device(t, 2)
	drm := keypackage.KeyID{Name: "drm", KDF: 1, Version: 1}
	msg := []byte("message")
	mac, err := deviceKey(t, k, s, channel).MAC(ctx, msg)
	if err != nil {
		t.Fatal(err)
	}
	same := deviceKey(t, k, s, channel)
	if err := same.Verify(ctx, msg, mac); err != nil {
		t.Errorf("the same key derived again is another: %v", err)
	}
	if err := same.Verify(ctx, []byte("other"), mac); !errors.Is(err, statement.ErrSignature) {
		t.Errorf("a wrong MAC gives %v, want statement.ErrSignature", err)
	}
	if err := same.Verify(ctx, msg, mac[:31]); !errors.Is(err, statement.ErrSignature) {
		t.Errorf("a short MAC gives %v, want statement.ErrSignature", err)
	}
	for name, key := range map[string]keypackage.MACKey{"another device's": deviceKey(t, k, o, channel), "another purpose's": deviceKey(t, k, s, drm)} {
		if err := key.Verify(ctx, msg, mac); !errors.Is(err, statement.ErrSignature) {
			t.Errorf("%s key verifies: %v", name, err)
		}
	}
	key := deviceKey(t, k, s, channel)
	if err := errors.Join(key.Destroy(ctx), key.Destroy(ctx)); err != nil {
		t.Errorf("destroying twice: %v", err)
	}
	if _, err := key.MAC(ctx, msg); !errors.Is(err, hsm.ErrKeyGone) {
		t.Errorf("a destroyed key gives %v", err)
	}
	id := func(name string, kdf uint8, version uint32) keypackage.KeyID {
		return keypackage.KeyID{Name: name, KDF: kdf, Version: version}
	}
	for _, c := range []struct {
		name    string
		key     keypackage.KeyID
		context []byte
		reason  string
	}{
		{"unknown purpose", id("simlock", 1, 1), s.context(id("simlock", 1, 1)), "ceremony"},
		{"unknown version", id("channel", 1, 2), s.context(id("channel", 1, 2)), "ceremony"},
		{"other KDF", id("channel", 2, 1), s.context(id("channel", 2, 1)), "KDF 1"},
		{"not derived", id("channel", 0, 0), s.context(channel), "none that is derived"},
		{"another purpose's context", channel, s.context(drm), "context"},
		{"production context", channel, keypackage.DeviceKeyContext(2, channel, s.id, 1, s.record), "development realm"},
		{"generation 0", channel, keypackage.DeviceKeyContext(dev, channel, s.id, 0, s.record), "generation"},
		{"purpose context", channel, keypackage.PurposeContext(dev, 1, 1, "channel"), "CBOR"},
		{"longer", channel, append(s.context(channel), 0), "CBOR"},
		{"empty", channel, nil, "CBOR"},
	} {
		if _, err := k.DeviceKey(ctx, c.key, c.context); err == nil || !strings.Contains(err.Error(), c.reason) {
			t.Errorf("%s: DeviceKey gives %v, want a reason with %q", c.name, err, c.reason)
		}
	}
	if err := k.Derivable(channel); err != nil {
		t.Errorf("channel is not derivable: %v", err)
	}
}

// FuzzDeviceKeyContext: a purpose key derives under the one encoding of a device's context and nothing else.
func FuzzDeviceKeyContext(f *testing.F) {
	s := device(f, 1)
	f.Add(s.context(channel))
	f.Add(keypackage.PurposeContext(dev, 1, 1, "channel"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, context []byte) {
		if maker.CheckContext(dev, channel, context) != nil {
			return
		}
		if !bytes.HasPrefix(context, s.context(channel)[:20]) {
			t.Errorf("accepted %x", context)
		}
		if len(context) > 256 {
			t.Errorf("accepted %d bytes", len(context))
		}
	})
}
