package provisioning_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/devicekeys/devicekeys/audit"
	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/devicecert"
	"github.com/devicekeys/devicekeys/hsm/transport"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning"
	"github.com/devicekeys/devicekeys/provisioning/pool"
	"github.com/devicekeys/devicekeys/provisioning/profile"
	"github.com/devicekeys/devicekeys/provisioning/records"
)

var errCut = errors.New("the line was cut")

// wire is what lies between making keys in advance and databases and HSM. It is cut at one of its messages, and from
// then on carries nothing: what a kill at that moment leaves.
type wire struct {
	mu   sync.Mutex
	cut  int  // at which message, from 1; 0: never
	kept bool // that message arrived, its answer didn't
	sent int
}

func (w *wire) send(act func() error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sent++
	if w.cut == 0 || w.sent < w.cut {
		return act()
	}
	if w.sent == w.cut && w.kept {
		if err := act(); err != nil {
			return err
		}
	}
	return errCut
}

type wiredPool struct {
	*wire
	provisioning.KeyPool
}

func (p wiredPool) Keyless(ctx context.Context, line string, entries []string, above string, limit int) (all []pool.Keyless, err error) {
	err = p.send(func() error { all, err = p.KeyPool.Keyless(ctx, line, entries, above, limit); return err })
	return all, err
}

func (p wiredPool) AddKeys(ctx context.Context, keys []pool.Key) (n int64, err error) {
	err = p.send(func() error { n, err = p.KeyPool.AddKeys(ctx, keys); return err })
	return n, err
}

type wiredKeys struct {
	*wire
	provisioning.Keys
}

func (k wiredKeys) Make(ctx context.Context, alg keypackage.Algorithm) (w keypackage.WaitingKey, err error) {
	err = k.send(func() error { w, err = k.Keys.Make(ctx, alg); return err })
	return w, err
}

func (k wiredKeys) Random(ctx context.Context, n int) (b []byte, err error) {
	err = k.send(func() error { b, err = k.Keys.Random(ctx, n); return err })
	return b, err
}

func (k wiredKeys) SealSecret(ctx context.Context, aad, plaintext []byte) (s keypackage.Sealed, err error) {
	err = k.send(func() error { s, err = k.Keys.SealSecret(ctx, aad, plaintext); return err })
	return s, err
}

type wiredCA struct {
	*wire
	provisioning.Certifier
	signed *[][]byte // all that the CA ever signed, heard of or not
}

func (c wiredCA) Certify(ctx context.Context, r devicecert.Request) (der []byte, err error) {
	err = c.send(func() error {
		der, err = c.Certifier.Certify(ctx, r)
		*c.signed = append(*c.signed, der)
		return err
	})
	return der, err
}

type wiredImporter struct {
	*wire
	provisioning.Importer
}

func (i wiredImporter) Import(ctx context.Context, alg keypackage.Algorithm, public []byte, label string, blob []byte) (w keypackage.WaitingKey, err error) {
	err = i.send(func() error { w, err = i.Importer.Import(ctx, alg, public, label, blob); return err })
	return w, err
}

func (i wiredImporter) ImportSecret(ctx context.Context, label string, blob []byte) (b []byte, err error) {
	err = i.send(func() error { b, err = i.Importer.ImportSecret(ctx, label, blob); return err })
	return b, err
}

// wired is making keys in advance over a wire, with the orders and licences of spp pool generate.
func (l *line) wired(w *wire, signed *[][]byte) provisioning.Advance {
	store := records.New(l.records.As("spp"))
	return provisioning.Advance{
		Realm: dev, Profile: l.profiles[0], Keys: wiredKeys{w, l.keys}, DeviceCA: wiredCA{w, l.deviceCA, signed}, Pool: wiredPool{w, l.pool.Store}, Workers: 1,
		Order: func(ctx context.Context, n int, first, last identity.Identity) error {
			return w.send(func() error {
				return store.OrderKeys(ctx, records.ActGenerateKeys, "phone", records.Order{Operator: "test", Reason: fmt.Sprintf("%d keys in advance, %s to %s", n, first, last)})
			})
		},
		License: func(ctx context.Context, serials []*big.Int, _, _ identity.Identity) error {
			for _, e := range audit.Certifications(provisioning.DeviceCALabel(dev), serials, "made in advance", "operator test") {
				if err := w.send(func() error { return store.License(ctx, e) }); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// lookPool holds what waits in the pool against the profile: each identity has one key for each entry, which opens as its own
// and is of the entry's algorithm. It gives the certificates among them.
func (l *line) lookPool(t testing.TB, ids []identity.Identity) (certificates [][]byte) {
	t.Helper()
	batches, err := l.pool.Store.Look(t.Context(), ids)
	must(t, err)
	for _, id := range ids {
		waiting, err := l.pool.Store.WaitingKeys(t.Context(), id)
		must(t, err)
		want := 0
		for _, e := range l.profiles[0].Entries {
			if !e.Source.InPool() {
				continue
			}
			want++
			sealed, err := keypackage.ParseSealed(waiting[e.Name], keypackage.MaxPackage)
			if err != nil {
				t.Errorf("%s, entry %q: %v", id, e.Name, err)
				continue
			}
			plaintext, err := l.keys.OpenSecret(t.Context(), keypackage.PoolAAD(dev, batches[id.Value()].Batch, id, e.Name), sealed)
			must(t, err)
			var s keypackage.Secret
			must(t, detcbor.Unmarshal(plaintext, &s, keypackage.MaxPackage))
			if e.WaitingSecret() {
				must(t, e.CheckSecret(s.Value))
				continue
			}
			w, err := keypackage.ParseWaitingKey(s.Value)
			must(t, err)
			if w.Algorithm != e.Algorithm || e.Certificate != (len(w.X509) > 0) {
				t.Errorf("%s, entry %q: a key of %s, a certificate of %d bytes", id, e.Name, w.Algorithm, len(w.X509))
			}
			if e.Certificate {
				certificates = append(certificates, w.X509)
			}
		}
		if len(waiting) != want {
			t.Errorf("%s has %d keys, %d are expected", id, len(waiting), want)
		}
	}
	return certificates
}

// licensedOnce checks that each certificate has a serial number of its own, which the audit log licensed.
func (l *line) licensedOnce(t testing.TB, certificates [][]byte) {
	t.Helper()
	licensed := map[string]bool{}
	_, err := audit.New(l.records.As("auditor"), dev).Verify(t.Context(), audit.Head{}, nil, func(e audit.Entry) error {
		for _, s := range e.Serials() {
			licensed[s] = true
		}
		return nil
	})
	must(t, err)
	seen := map[string]bool{}
	for _, der := range certificates {
		c, err := x509.ParseCertificate(der)
		must(t, err)
		serial := audit.SerialText(c.SerialNumber)
		if !licensed[serial] || seen[serial] {
			t.Errorf("certificate %s: licensed %t, signed twice %t", serial, licensed[serial], seen[serial])
		}
		seen[serial] = true
	}
}

// advanceProfile has an entry of source pool of each algorithm, and secrets that are none.
func advanceProfile() string {
	return strings.TrimRight(pairsProfile("source: made", "source: pool"), "\n") + `
  - {name: field, kind: communication, algorithm: hmac-sha-256, source: pool}
  - {name: code, kind: sim-lock, source: pool, digits: true, size: 8}
  - {name: seed, kind: opaque, source: pool, size: 32}
`
}

// TestAdvanceCut: a run that is cut at any message to database or HSM, whose effect is lost or kept, leaves nothing that the
// next run doesn't end: each identity has one key for each entry, and the device CA signed nothing without a licence.
func TestAdvanceCut(t *testing.T) {
	t.Parallel()
	l := newLine(t, advanceProfile())
	var all []identity.Identity
	var signed [][]byte
	cuts := 0
	for _, kept := range []bool{false, true} {
		for at := 1; ; at++ {
			ids := l.stock(t, len(all), 1)
			all = append(all, ids...)
			w := &wire{cut: at, kept: kept}
			_, _, err := l.wired(w, &signed).Run(t.Context(), 0)
			if err == nil {
				break // it was done before
			}
			if !errors.Is(err, errCut) {
				t.Fatalf("cut at message %d: %v", at, err)
			}
			cuts++
			// Whole pages or nothing: here, of one identity.
			if n, err := l.pool.Store.WaitingKeys(t.Context(), ids[0]); err != nil || len(n) != 0 && len(n) != 6 {
				t.Errorf("cut at message %d, kept %t: %d keys wait, %v", at, kept, len(n), err)
			}
			if _, _, err := l.wired(&wire{}, &signed).Run(t.Context(), 0); err != nil {
				t.Fatalf("cut at message %d, kept %t; then: %v", at, kept, err)
			}
		}
	}
	if cuts < 2*15 {
		t.Errorf("%d cuts: a run has more messages", cuts)
	}
	waiting := l.lookPool(t, all)
	if len(waiting) != 2*len(all) || len(signed) < len(waiting) {
		t.Errorf("%d certificates wait, %d were signed, for %d identities", len(waiting), len(signed), len(all))
	}
	l.licensedOnce(t, signed)
	must(t, on(l.station(t), l.device(t, true)).run(t.Context(), 0)) // and the checker ends the test
	l.drained(t)
}

// outside gives keys and secrets from outside for an identity, all that its line imports.
func (l *line) outside(t testing.TB, id identity.Identity) (page []provisioning.Outside) {
	t.Helper()
	to, err := l.keys.TransportKey()
	must(t, err)
	batches, err := l.pool.Store.Look(t.Context(), []identity.Identity{id})
	must(t, err)
	for _, e := range l.profiles[0].Entries {
		if e.Source != profile.Imported {
			continue
		}
		o := provisioning.Outside{Identity: id, Batch: batches[id.Value()].Batch, Entry: e}
		key := []byte("73318500731850073318500733185000")
		if e.WaitingSecret() {
			o.Blob, err = transport.SealSoftware(dev, to, keypackage.DeviceSecretLabel(id, e.Name), key[:e.Size])
			must(t, err)
			page = append(page, o)
			continue
		}
		if e.Algorithm.Pair() {
			private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			must(t, err)
			key, err = x509.MarshalPKCS8PrivateKey(private)
			must(t, err)
			o.Public, err = private.PublicKey.Bytes()
			must(t, err)
		}
		o.Blob, err = transport.WrapSoftware(dev, to, keypackage.DeviceKeyLabel(id, e.Name), key)
		must(t, err)
		page = append(page, o)
	}
	return page
}

// TestTakeCut: the same for keys from outside.
func TestTakeCut(t *testing.T) {
	t.Parallel()
	l := newLine(t, strings.ReplaceAll(advanceProfile(), "source: pool", "source: imported"))
	var all []identity.Identity
	var signed [][]byte
	cuts := 0
	for _, kept := range []bool{false, true} {
		for at := 1; ; at++ {
			ids := l.stock(t, len(all), 1)
			all = append(all, ids...)
			page := l.outside(t, ids[0])
			w := &wire{cut: at, kept: kept}
			_, err := l.wired(w, &signed).Take(t.Context(), wiredImporter{w, l.keys}, page)
			if err == nil {
				break
			}
			if !errors.Is(err, errCut) {
				t.Fatalf("cut at message %d: %v", at, err)
			}
			cuts++
			if n, err := l.pool.Store.WaitingKeys(t.Context(), ids[0]); err != nil || len(n) != 0 && len(n) != len(page) {
				t.Errorf("cut at message %d, kept %t: %d keys wait, %v", at, kept, len(n), err)
			}
			if _, err := l.wired(&wire{}, &signed).Take(t.Context(), l.keys, page); err != nil {
				t.Fatalf("cut at message %d, kept %t; then: %v", at, kept, err)
			}
		}
	}
	if cuts < 2*15 {
		t.Errorf("%d cuts: an import has more messages", cuts)
	}
	if waiting := l.lookPool(t, all); len(waiting) != 2*len(all) {
		t.Errorf("%d certificates wait, for %d identities", len(waiting), len(all))
	}
	l.licensedOnce(t, signed)
	must(t, on(l.station(t), l.device(t, true)).run(t.Context(), 0))
	l.drained(t)
}

// TestAdvanceTogether: several runs at once on one pool end well, and each identity has one key for each entry.
func TestAdvanceTogether(t *testing.T) {
	t.Parallel()
	l := newLine(t, advanceProfile())
	const n, runs = 40, 3
	ids := l.stock(t, 0, n)
	var group errgroup.Group
	var mu sync.Mutex
	var added int64
	signed := make([][][]byte, runs)
	for i := range runs {
		a := l.wired(&wire{}, &signed[i])
		a.Pool = l.pool.Store
		group.Go(func() error {
			_, keys, err := a.Run(t.Context(), 0)
			mu.Lock()
			defer mu.Unlock()
			added += keys
			return err
		})
	}
	must(t, group.Wait())
	if added != 6*n {
		t.Errorf("%d keys are new, %d are expected", added, 6*n)
	}
	if got := l.lookPool(t, ids); len(got) != 2*n {
		t.Errorf("%d certificates wait", len(got))
	}
	var all [][]byte
	for _, s := range signed {
		all = append(all, s...)
	}
	l.licensedOnce(t, all)
	var entries []string
	for _, e := range l.profiles[0].Entries {
		if e.Source == profile.Pool {
			entries = append(entries, e.Name)
		}
	}
	if left, err := l.pool.Store.Keyless(t.Context(), "phone", entries, "", 1); err != nil || len(left) != 0 {
		t.Errorf("identities without keys: %v, %v", left, err)
	}
}
