package provisioning_test

import (
	"bytes"
	"context"
	"math/big"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"

	"github.com/devicekeys/devicekeys/audit"
	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/devicecert"
	"github.com/devicekeys/devicekeys/hsm/servicekeys"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning"
	"github.com/devicekeys/devicekeys/provisioning/profile"
	"github.com/devicekeys/devicekeys/provisioning/records"
	"github.com/devicekeys/devicekeys/registry"
)

// pairsProfile is the example with key pairs, for the tests' identities.
func pairsProfile(change ...string) string {
	r := strings.NewReplacer(append([]string{"name: meter", "name: phone", "identity: eui48", "identity: imei"}, change...)...)
	return r.Replace(string(profile.Pairs))
}

// advance makes keys for identities that wait, as spp pool generate does.
func (l *line) advance(t testing.TB, limit int) (identities int, keys int64) {
	t.Helper()
	store := records.New(l.records.As("spp"))
	identities, keys, err := provisioning.Advance{
		Realm: dev, Profile: l.profiles[0], Keys: l.keys, DeviceCA: l.deviceCA, Pool: l.pool.Store, Workers: 4,
		License: func(ctx context.Context, serials []*big.Int, _, _ identity.Identity) error {
			for _, e := range audit.Certifications(provisioning.DeviceCALabel(dev), serials, "made in advance", "operator test") {
				if err := store.License(ctx, e); err != nil {
					return err
				}
			}
			return nil
		},
	}.Run(t.Context(), limit)
	must(t, err)
	return identities, keys
}

// drained waits until nothing waits for the registry any more, so that the checker finds a line at rest.
func (l *line) drained(t testing.TB) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		waiting, aside, _, err := l.records.Store.Waiting(t.Context())
		must(t, err)
		if waiting == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d entries still wait, %d were set aside", waiting, aside)
		}
	}
}

// TestPairs: keys made in advance and on the spot reach their device, which
// keeps them through a restoration, and the registry has their certificates.
func TestPairs(t *testing.T) {
	t.Parallel()
	l := newLine(t, pairsProfile())
	ids := l.stock(t, 0, 3)
	station := l.station(t)
	early := on(station, l.device(t, true))
	refused(t, early.begin(t.Context()), connect.CodeResourceExhausted, provisioning.CodePoolEmpty)
	if n, keys := l.advance(t, 2); n != 2 || keys != 4 {
		t.Fatalf("%d identities, %d keys", n, keys)
	}
	must(t, early.run(t.Context(), 0))

	d, err := l.records.Store.Newest(t.Context(), early.record())
	must(t, err)
	if d.Identity != ids[0] || len(d.Secrets) != 0 || len(d.X509) != 2 {
		t.Errorf("%s, %d secrets, %d certificates", d.Identity, len(d.Secrets), len(d.X509))
	}
	r, _ := l.lookup(t, early.device)
	if diff := cmp.Diff(d.X509, r.X509); diff != "" {
		t.Errorf("the registry's certificates: %s", diff)
	}
	m, err := keypackage.ParseManifest(d.Manifest)
	must(t, err)
	for i, alg := range []keypackage.Algorithm{keypackage.ES256, keypackage.ECDH} {
		c, err := devicecert.Check(d.X509[i], l.roots, devicecert.Want{Algorithm: alg, Identity: ids[0]})
		if err != nil || c.Record != nil {
			t.Errorf("certificate %d: %v, %+v", i, err, c)
		}
		if !bytes.Equal(c.Public.Point(), m.Entries[i+1].Vouch) {
			t.Errorf("certificate %d is of another key than the manifest's", i)
		}
	}

	// Everyone finds them, by identity too.
	reader := l.registry.Reader()
	published := func(g identity.Generation, want [][]byte) {
		t.Helper()
		var found registry.Stored
		for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			var err error
			found, err = reader.Directory(t.Context(), ids[0].URN())
			if err == nil && found.Entry.Generation == g {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("the certificates of generation %d are not published: %v", g, err)
			}
		}
		p, err := registry.ParsePublicCertificates(found.Entry.Sealed)
		must(t, err)
		if diff := cmp.Diff(want, p.X509); diff != "" || found.Entry.Record != early.record() {
			t.Errorf("what everyone finds: %s", diff)
		}
	}
	published(1, d.X509)

	// The pool's row is gone with its keys. The next generation makes its own on
	// the spot, and their certificates name the record.
	stock, err := l.pool.Store.KeyStock(t.Context())
	if err != nil || len(stock) != 2 || stock[0].Ready != 1 {
		t.Errorf("%+v, %v", stock, err)
	}
	l.unlock(t, early.record(), 2)
	next := on(station, early.device)
	must(t, next.run(t.Context(), 0))
	r, _ = l.lookup(t, early.device)
	record := early.record()
	for i, der := range r.X509 {
		if _, err := devicecert.Check(der, l.roots, devicecert.Want{Record: &record, Identity: ids[0]}); err != nil {
			t.Errorf("generation 2, certificate %d: %v", i, err)
		}
		if bytes.Equal(der, d.X509[i]) {
			t.Errorf("generation 2 has certificate %d of generation 1", i)
		}
	}
	published(2, r.X509)
}

// TestPairsAgain: a device that comes again, at another SPP or with another hello,
// is given the same keys.
func TestPairsAgain(t *testing.T) {
	t.Parallel()
	for name, profile := range map[string]string{
		"in advance":  pairsProfile(),
		"on the spot": pairsProfile("source: pool", "source: made"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLine(t, profile)
			l.stock(t, 0, 1)
			if strings.Contains(profile, "source: pool") {
				l.advance(t, 0)
			}
			other := l.start(t)
			f := on(l.station(t), l.device(t, true))
			must(t, f.begin(t.Context()))
			first, err := l.records.Store.Newest(t.Context(), f.record())
			must(t, err)
			f.station = l.stationOf(t, other)
			must(t, f.run(t.Context(), 0))
			second, err := l.records.Store.Newest(t.Context(), f.record())
			must(t, err)
			if !bytes.Equal(first.Manifest, second.Manifest) || bytes.Equal(first.Package, second.Package) {
				t.Error("the second transfer is of other keys, or is the first one")
			}
			if diff := cmp.Diff(first.X509, second.X509); diff != "" {
				t.Errorf("certificates differ: %s", diff)
			}
			l.drained(t)
		})
	}
}

// TestForeignKey: a key that waits with another identity, or for another entry,
// is no key of this one.
func TestForeignKey(t *testing.T) {
	t.Parallel()
	l := newLine(t, pairsProfile())
	ids := l.stock(t, 0, 2)
	l.advance(t, 0)
	owner := l.pool.AsOwner()
	for _, swap := range []string{
		`update waiting_key k set sealed = (select sealed from waiting_key o where o.value <> k.value and o.entry = k.entry)`,
		`update waiting_key k set sealed = (select sealed from waiting_key o where o.value <> k.value and o.entry <> k.entry)`,
	} {
		if _, err := owner.ExecContext(t.Context(), swap); err != nil {
			t.Fatal(err)
		}
		f := on(l.station(t), l.device(t, true))
		if err := f.begin(t.Context()); connect.CodeOf(err) == connect.CodeUnknown || err == nil {
			t.Errorf("a device was begun with another's key: %v", err)
		}
	}
	if used, err := l.records.Store.Known(t.Context(), ids); err != nil || len(used) != 0 {
		t.Errorf("the records bound identities: %v, %v", used, err)
	}
}

// TestServiceKey: a communication key that was made, not derived, is the device's and
// the device service's, and nobody else can open what lies in the records.
func TestServiceKey(t *testing.T) {
	t.Parallel()
	const second = "\n  - {name: field, kind: communication, algorithm: hmac-sha-256, source: made}\n"
	l := newLine(t, strings.TrimRight(string(profile.Phone), "\n")+second)
	token := l.hsm.Open(t, l.hsm.Token(t, "service"))
	to, err := servicekeys.Create(t.Context(), token, dev)
	must(t, err)
	service, err := servicekeys.Open(t.Context(), token, dev)
	must(t, err)
	spp := l.start(t, func(c *provisioning.Config) { c.ServiceKey = to })
	l.stock(t, 0, 1)
	f := on(l.stationOf(t, spp), l.device(t, true))
	must(t, f.begin(t.Context()))
	must(t, f.begin(t.Context())) // another transfer: the same key
	must(t, f.accept(t.Context()))
	for _, step := range f.steps()[2:] {
		must(t, step(t.Context()))
	}
	var blob []byte
	must(t, l.records.AsOwner().QueryRowContext(t.Context(), `select blob from service_key where record_id = $1 and generation = 1 and entry = 'field'`, f.begun.RecordId).Scan(&blob))
	label := keypackage.ServiceKeyLabel(f.record(), 1, "field")
	key, err := service.Unwrap(t.Context(), label, blob)
	must(t, err)
	defer func() { must(t, key.Destroy(context.Background())) }()
	msg, err := detcbor.Marshal([]any{"dk-channel-psk", 1, []byte{2}, []byte{3}, []byte{4}})
	must(t, err)
	_, err = f.device.Boot(t.Context())
	must(t, err)
	mac, err := f.device.MAC(t.Context(), "field", msg)
	must(t, err)
	must(t, key.Verify(t.Context(), msg, mac))
	if _, err := service.Unwrap(t.Context(), keypackage.ServiceKeyLabel(f.record(), 2, "field"), blob); err == nil {
		t.Error("the key opens for another generation")
	}
}
