package provisioning_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
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
	"github.com/devicekeys/devicekeys/hsm/transport"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning"
	"github.com/devicekeys/devicekeys/provisioning/pool"
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
		c, err := devicecert.Check(d.X509[i], l.roots, devicecert.Want{Use: alg.Use(), Identity: ids[0]})
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

// licensed gives the serial number of an imported key's certificate, its audit entry committed; nil where the entry
// of the profile asks for no certificate.
func (l *line) licensed(t testing.TB, e profile.Entry) *big.Int {
	t.Helper()
	if !e.Certificate {
		return nil
	}
	serial, err := devicecert.NewSerial()
	must(t, err)
	for _, event := range audit.Certifications("dev-device-ca", []*big.Int{serial}, "for imported keys", "operator ann") {
		must(t, l.records.Store.License(t.Context(), event))
	}
	return serial
}

// importKeys brings keys from outside for identities that wait, as spp pool import-keys does.
func (l *line) importKeys(t testing.TB, ids []identity.Identity) {
	t.Helper()
	a := provisioning.Advance{Realm: dev, Profile: l.profiles[0], Keys: l.keys, DeviceCA: l.deviceCA, Pool: l.pool.Store}
	to, err := l.keys.TransportKey()
	must(t, err)
	waiting, err := l.pool.Store.Look(t.Context(), ids)
	must(t, err)
	for _, id := range ids {
		for _, e := range l.profiles[0].Entries {
			if e.Source != profile.Imported {
				continue
			}
			key, public := make([]byte, 32), []byte(nil)
			rand.Read(key) // never fails
			if e.Algorithm.Pair() {
				private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
				must(t, err)
				key, err = x509.MarshalPKCS8PrivateKey(private)
				must(t, err)
				public, err = private.PublicKey.Bytes()
				must(t, err)
			}
			blob, err := transport.WrapSoftware(dev, to, "device "+id.URN()+" "+e.Name, key)
			must(t, err)
			w, err := l.keys.Import(t.Context(), e.Algorithm, public, "device "+id.URN()+" "+e.Name, blob)
			must(t, err)
			k, err := a.Seal(t.Context(), waiting[id.Value()].Batch, id, e, w, l.licensed(t, e))
			must(t, err)
			_, err = l.pool.Store.AddKeys(t.Context(), []pool.Key{k})
			must(t, err)
		}
	}
}

// TestPairsAgain: keys of every algorithm and source go through the line. A device that comes again, at another SPP or
// with another hello, is given the same ones; certificates name the identity only where the profile says so.
func TestPairsAgain(t *testing.T) {
	t.Parallel()
	const field = "\n  - {name: field, kind: communication, algorithm: hmac-sha-256, source: made}\n"
	for _, source := range []string{"made", "pool", "imported"} {
		t.Run(source, func(t *testing.T) {
			t.Parallel()
			named := source != "pool"
			l := newLine(t, strings.NewReplacer("source: pool", "source: "+source, "source: made", "source: "+source,
				"identity_in_certificates: true", fmt.Sprintf("identity_in_certificates: %t", named)).Replace(strings.TrimRight(pairsProfile(), "\n")+field))
			ids := l.stock(t, 0, 1)
			switch source {
			case "pool":
				if _, keys := l.advance(t, 0); keys != 4 {
					t.Fatalf("%d keys", keys)
				}
			case "imported":
				l.importKeys(t, ids)
			}
			other := l.start(t)
			f := on(l.station(t), l.device(t, true))
			must(t, f.begin(t.Context()))
			first, err := l.records.Store.Newest(t.Context(), f.record())
			must(t, err)
			f.station = l.stationOf(t, other)
			must(t, f.run(t.Context(), 0)) // to the end: the device checks each key against what vouches for it, is erased and restored
			second, err := l.records.Store.Newest(t.Context(), f.record())
			must(t, err)
			if !bytes.Equal(first.Manifest, second.Manifest) || bytes.Equal(first.Package, second.Package) {
				t.Error("the second transfer is of other keys, or is the first one")
			}
			if diff := cmp.Diff(first.X509, second.X509); diff != "" {
				t.Errorf("certificates differ: %s", diff)
			}
			m, err := keypackage.ParseManifest(second.Manifest)
			must(t, err)
			seen := map[keypackage.Algorithm]bool{}
			for _, e := range m.Entries {
				if !e.Key.Derived() {
					seen[e.Algorithm] = true
				}
			}
			if len(seen) != 4 {
				t.Errorf("the line gave keys of %d algorithms, want 4", len(seen))
			}
			for i, der := range second.X509 {
				c, err := devicecert.Check(der, l.roots, devicecert.Want{})
				if err != nil || (c.Identity != nil) != named || (c.Record == nil) != (source != "made") {
					t.Errorf("certificate %d: %v, %+v", i, err, c)
				}
			}
			if len(second.X509) != 2 {
				t.Errorf("%d certificates", len(second.X509))
			}
			// Another generation: a key from outside is there once.
			l.unlock(t, f.record(), 2)
			next := on(f.station, f.device)
			defer l.drained(t)
			if source == "imported" {
				refused(t, next.begin(t.Context()), connect.CodeFailedPrecondition, provisioning.CodeProfile)
				return
			}
			must(t, next.run(t.Context(), 0))
		})
	}
}

// TestForeignKey: a key that waits with another identity, or for another entry,
// is no key of this one: refused with a code of its own, and an incident for people.
func TestForeignKey(t *testing.T) {
	t.Parallel()
	l := newLine(t, pairsProfile())
	ids := l.stock(t, 0, 2)
	l.advance(t, 0)
	owner := l.pool.AsOwner()
	var earlier []*hand
	for n, swap := range []string{
		`update waiting_key k set sealed = (select sealed from waiting_key o where o.value <> k.value and o.entry = k.entry)`,
		`update waiting_key k set sealed = (select sealed from waiting_key o where o.value <> k.value and o.entry <> k.entry)`,
		`update waiting_key k set sealed = overlay(sealed placing '\x00' from octet_length(sealed))`,
		`update waiting_key k set sealed = '\x00'`,
	} {
		if _, err := owner.ExecContext(t.Context(), swap); err != nil {
			t.Fatal(err)
		}
		f := on(l.station(t), l.device(t, true))
		if n%2 == 1 { // the two identities are reserved for the two chips before
			f = on(l.station(t), earlier[n/2])
		} else {
			earlier = append(earlier, f.device)
		}
		refused(t, f.begin(t.Context()), connect.CodeFailedPrecondition, provisioning.CodePoolKey)
		if got := l.incidents(t); got != n+1 {
			t.Errorf("%d incidents after %d foreign keys", got, n+1)
		}
	}
	if used, err := l.records.Store.Known(t.Context(), ids); err != nil || len(used) != 0 {
		t.Errorf("the records bound identities: %v, %v", used, err)
	}
	// The checker, with which the test ends, would name what was planted.
	if _, err := owner.ExecContext(t.Context(), `delete from waiting_key`); err != nil {
		t.Fatal(err)
	}
}

// TestPointOfAnother: a public key that a device was begun with serves no second one, however it came into the pool.
func TestPointOfAnother(t *testing.T) {
	t.Parallel()
	l := newLine(t, pairsProfile("source: pool", "source: imported"))
	ids := l.stock(t, 0, 2)
	a := provisioning.Advance{Realm: dev, Profile: l.profiles[0], Keys: l.keys, DeviceCA: l.deviceCA, Pool: l.pool.Store}
	pairs := map[string]keypackage.WaitingKey{}
	for _, id := range ids { // the second identity is given the first one's pairs, once those have left the pool
		waiting, err := l.pool.Store.Look(t.Context(), []identity.Identity{id})
		must(t, err)
		var keys []pool.Key
		for _, e := range l.profiles[0].Entries {
			if e.Source != profile.Imported {
				continue
			}
			w, ok := pairs[e.Name]
			if !ok {
				w, err = l.keys.Make(t.Context(), e.Algorithm)
				must(t, err)
				pairs[e.Name] = w
			}
			k, err := a.Seal(t.Context(), waiting[id.Value()].Batch, id, e, w, l.licensed(t, e))
			must(t, err)
			keys = append(keys, k)
		}
		if _, err := l.pool.Store.AddKeys(t.Context(), keys); err != nil {
			t.Fatal(err)
		}
		f := on(l.station(t), l.device(t, true))
		if id == ids[0] {
			must(t, f.run(t.Context(), 0))
			continue
		}
		refused(t, f.begin(t.Context()), connect.CodeFailedPrecondition, provisioning.CodePoolKey)
		if _, err := l.records.Store.Newest(t.Context(), f.device.chip.ID().RecordID()); !errors.Is(err, records.ErrNotFound) {
			t.Errorf("the second device has a row: %v", err)
		}
	}
	if n := l.incidents(t); n != 1 {
		t.Errorf("%d incidents, want one", n)
	}
	all, err := l.records.Store.Incidents(t.Context(), 10)
	if err != nil || !strings.Contains(all[0].Detail, "a public key of the device is another one's") {
		t.Errorf("%+v, %v", all, err)
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
	// The line's first SPP knows no device service, and says what that means; this one has nothing to say.
	if n := strings.Count(l.log.String(), "no service will ever let these devices in"); n != 1 {
		t.Errorf("%d warnings, want one", n)
	}
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
