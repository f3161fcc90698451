package provisioning_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"github.com/devicekeys/devicekeys/hsm/transport"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning"
	"github.com/devicekeys/devicekeys/provisioning/pool"
	"github.com/devicekeys/devicekeys/provisioning/profile"
)

// secretsProfile has secrets that wait, of a source.
func secretsProfile(source string) string {
	return strings.TrimRight(string(profile.Phone), "\n") + fmt.Sprintf(`
  - {name: code, kind: sim-lock, source: %[1]s, digits: true, size: 8}
  - {name: licence, kind: drm, source: %[1]s, size: 24}
  - {name: seed, kind: opaque, source: %[1]s, size: 4096}
`, source)
}

// importSecrets brings secrets from outside for an identity that waits, as spp pool import-keys does.
func (l *line) importSecrets(t testing.TB, id identity.Identity, values map[string][]byte) {
	t.Helper()
	a := provisioning.Advance{Realm: dev, Profile: l.profiles[0], Keys: l.keys, Pool: l.pool.Store}
	to, err := l.keys.TransportKey()
	must(t, err)
	waiting, err := l.pool.Store.Look(t.Context(), []identity.Identity{id})
	must(t, err)
	var keys []pool.Key
	for _, e := range l.profiles[0].Entries {
		value, ok := values[e.Name]
		if !ok {
			continue
		}
		label := keypackage.DeviceSecretLabel(id, e.Name)
		blob, err := transport.SealSoftware(dev, to, label, value)
		must(t, err)
		opened, err := l.keys.ImportSecret(t.Context(), label, blob)
		must(t, err)
		k, err := a.SealSecret(t.Context(), waiting[id.Value()].Batch, id, e, opened)
		must(t, err)
		if !bytes.Equal(opened, make([]byte, len(opened))) {
			t.Errorf("entry %q: its value was not cleared", e.Name)
		}
		keys = append(keys, k)
	}
	if n, err := l.pool.Store.AddKeys(t.Context(), keys); err != nil || n != int64(len(values)) {
		t.Fatalf("%d secrets, %v", n, err)
	}
}

// licensorsValues are values which a test knows again wherever they lie.
func licensorsValues() map[string][]byte {
	return map[string][]byte{"code": []byte("73318500"), "licence": bytes.Repeat([]byte("LICENCE!"), 3), "seed": bytes.Repeat([]byte("a seed, sixteen!"), 256)}
}

// TestWaitingSecrets: secrets that are no keys wait in the pool, sealed, reach their device, whichever SPP it comes to, and
// leave the pool with it. The next generation draws its own; what came from outside is there once.
func TestWaitingSecrets(t *testing.T) {
	t.Parallel()
	for _, source := range []string{"pool", "imported"} {
		t.Run(source, func(t *testing.T) {
			t.Parallel()
			l := newLine(t, secretsProfile(source))
			ids := l.stock(t, 0, 2)
			early := on(l.station(t), l.device(t, true))
			refused(t, early.begin(t.Context()), connect.CodeResourceExhausted, provisioning.CodePoolEmpty)
			want := licensorsValues()
			if source == "pool" {
				if n, keys := l.advance(t, 1); n != 1 || keys != 3 {
					t.Fatalf("%d identities, %d secrets", n, keys)
				}
			} else {
				l.importSecrets(t, ids[0], want)
			}
			waiting, err := l.pool.Store.WaitingKeys(t.Context(), ids[0])
			if err != nil || len(waiting) != 3 {
				t.Fatalf("%d wait, %v", len(waiting), err)
			}
			other := l.start(t)
			f := on(l.station(t), early.device)
			must(t, f.begin(t.Context()))
			reserved, err := l.records.Store.Newest(t.Context(), f.record())
			must(t, err)
			rows := map[string][]byte{}
			for _, s := range reserved.Secrets {
				rows[s.Entry] = s.Sealed
			}
			for name, sealed := range waiting {
				if !bytes.Equal(rows[name], sealed) {
					t.Errorf("%q is sealed otherwise in the row than in the pool", name)
				}
			}
			f.station = l.stationOf(t, other)
			must(t, f.run(t.Context(), 0))
			booted, err := f.device.Boot(t.Context())
			must(t, err)
			got := map[string][]byte{}
			for _, e := range l.profiles[0].Entries {
				if !e.WaitingSecret() {
					continue
				}
				value, ok := booted.Secret(e.Name)
				got[e.Name] = bytes.Clone(value)
				if err := e.CheckSecret(value); !ok || err != nil {
					t.Errorf("%q: %v", e.Name, err)
				}
				if source == "imported" && !bytes.Equal(value, want[e.Name]) {
					t.Errorf("%q arrived changed", e.Name)
				}
			}
			// In clear they are in the device alone.
			d, err := l.records.Store.Newest(t.Context(), f.record())
			must(t, err)
			if len(d.Secrets) != 0 {
				t.Errorf("the row keeps %d secrets of a published device", len(d.Secrets))
			}
			places := map[string][]byte{"log": []byte(l.log.String()), "package": f.begun.Package, "backup": d.Backup, "entry": d.Entry, "manifest": d.Manifest}
			for name, sealed := range waiting {
				places["pool "+name] = sealed
			}
			for place, content := range places {
				for name, value := range got {
					if bytes.Contains(content, value) || bytes.Contains(content, []byte(hex.EncodeToString(value))) {
						t.Errorf("%q stands in clear in the %s", name, place)
					}
				}
			}
			eventually(t, "the pool's copies are gone", func() bool {
				stock, err := l.pool.Store.KeyStock(t.Context())
				must(t, err)
				return len(stock) == 0
			})

			l.unlock(t, f.record(), 2)
			next := on(f.station, f.device)
			defer l.drained(t)
			if source == "imported" {
				refused(t, next.begin(t.Context()), connect.CodeFailedPrecondition, provisioning.CodeProfile)
				return
			}
			must(t, next.run(t.Context(), 0))
			booted, err = next.device.Boot(t.Context())
			must(t, err)
			for name, before := range got {
				if value, ok := booted.Secret(name); !ok || len(value) != len(before) || bytes.Equal(value, before) && name != "code" {
					t.Errorf("generation 2: %q has %d bytes, or is generation 1's", name, len(value))
				}
			}
		})
	}
}

// TestForeignSecret: a secret that waits with another identity or for another entry is none of this device's.
func TestForeignSecret(t *testing.T) {
	t.Parallel()
	l := newLine(t, secretsProfile("pool"))
	id := l.stock(t, 0, 2)[0]
	l.advance(t, 0)
	// What the profile would not have isn't sealed at all, and no error repeats it.
	a := provisioning.Advance{Realm: dev, Profile: l.profiles[0], Keys: l.keys, Pool: l.pool.Store}
	for _, e := range l.profiles[0].Entries {
		value := []byte("NOTHING OF THIS LENGTH")
		_, err := a.SealSecret(t.Context(), 1, id, e, value)
		if err == nil || strings.Contains(err.Error(), "NOTHING") || errors.Is(err, provisioning.ErrSecret) != e.WaitingSecret() {
			t.Errorf("entry %q: %v", e.Name, err)
		}
		if !bytes.Equal(value, make([]byte, len(value))) {
			t.Errorf("entry %q: the value was not cleared", e.Name)
		}
	}
	owner := l.pool.AsOwner()
	f := on(l.station(t), l.device(t, true))
	for n, swap := range []string{
		`update waiting_key k set sealed = (select sealed from waiting_key o where o.value <> k.value and o.entry = k.entry)`,
		`update waiting_key k set sealed = (select sealed from waiting_key o where o.value <> k.value and o.entry = case k.entry when 'code' then 'seed' when 'seed' then 'licence' else 'code' end)`,
	} {
		if _, err := owner.ExecContext(t.Context(), swap); err != nil {
			t.Fatal(err)
		}
		refused(t, f.begin(t.Context()), connect.CodeFailedPrecondition, provisioning.CodePoolKey)
		if got := l.incidents(t); got != n+1 {
			t.Errorf("%d incidents after %d foreign secrets", got, n+1)
		}
	}
}

// TestWaitingSecretAfterProfileChange: what was put into the pool under another profile is not given to a device, and
// binds no identity.
func TestWaitingSecretAfterProfileChange(t *testing.T) {
	t.Parallel()
	const code, key = "{name: x, kind: drm, source: pool, size: 8, digits: true}", "{name: x, kind: drm, algorithm: aes-256-gcm, source: pool}"
	with := func(entry string) profile.Profile {
		p, err := profile.Parse([]byte(strings.TrimRight(string(profile.Phone), "\n")+"\n  - "+entry+"\n"), "")
		must(t, err)
		return p
	}
	l := newLine(t)
	for i, c := range []struct{ name, made, now, says string }{
		{"another length", code, "{name: x, kind: drm, source: pool, size: 9, digits: true}", "it has 8 bytes, the profile says 9"},
		{"no longer bytes", "{name: x, kind: drm, source: pool, size: 8}", code, "decimal digits"},
		{"now a key", code, key, "read waiting key"},
		{"now a secret", key, "{name: x, kind: drm, source: imported}", "a key that waits"},
		{"another key", key, "{name: x, kind: drm, algorithm: hmac-sha-256, source: pool}", "it is for aes-256-gcm"},
		{"as it was made", code, "{name: x, kind: sim-lock, source: imported}", ""},
	} {
		ids := l.stock(t, i, 1) // those before are reserved for the devices before
		l.profiles = []profile.Profile{with(c.made)}
		if _, n := l.advance(t, 0); n != 1 {
			t.Fatalf("%s: %d keys", c.name, n)
		}
		changed := l.start(t, func(cfg *provisioning.Config) { cfg.Profiles = []profile.Profile{with(c.now)} })
		f := on(l.stationOf(t, changed), l.device(t, true))
		if c.says == "" {
			must(t, f.run(t.Context(), 0))
			continue
		}
		err := f.begin(t.Context())
		refused(t, err, connect.CodeFailedPrecondition, provisioning.CodeProfile)
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v: %q is expected", c.name, err, c.says)
		}
		if used, err := l.records.Store.Known(t.Context(), ids); err != nil || len(used) != 0 {
			t.Errorf("%s: the records bound the identity: %v, %v", c.name, used, err)
		}
	}
}

// TestKeyTurnedSecret: a device that was reserved with a made key goes on under no profile that has a secret in its place.
func TestKeyTurnedSecret(t *testing.T) {
	t.Parallel()
	with := func(entry string) string {
		return strings.TrimRight(string(profile.Phone), "\n") + "\n  - " + entry + "\n"
	}
	const key = "{name: content, kind: drm, algorithm: aes-256-gcm, source: made}"
	l := newLine(t, with(key))
	l.stock(t, 0, 1)
	keys := l.failing(t)
	f := on(l.station(t), l.device(t, true))
	calls := 0 // the code is drawn, the device reserved, and then no key is derived
	keys.set(func(context.Context) error {
		if calls++; calls == 1 {
			return nil
		}
		return errHSM
	})
	refused(t, f.begin(t.Context()), connect.CodeUnavailable, provisioning.CodeHSM)
	keys.set(nil)
	for _, now := range []string{"{name: content, kind: drm, source: drawn, size: 32}", "{name: content, kind: opaque, clear: true, source: drawn, size: 32}"} {
		p, err := profile.Parse([]byte(with(now)), "")
		must(t, err)
		changed := l.start(t, func(c *provisioning.Config) { c.Profiles = []profile.Profile{p} })
		f.station = l.stationOf(t, changed)
		refused(t, f.begin(t.Context()), connect.CodeFailedPrecondition, provisioning.CodeProfile)
	}
	f.station = l.station(t)
	must(t, f.run(t.Context(), 0))
}
