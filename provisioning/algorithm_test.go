package provisioning_test

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"

	"github.com/devicekeys/devicekeys/device"
	"github.com/devicekeys/devicekeys/devicecert"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning/profile"
)

// TestAlgorithms: a product line that has a key of every algorithm from every source that makes keys. The device takes
// all of them, proves it, is shipped, and has them again from the registry alone. Nothing here, nor in what it tests,
// names an algorithm: one more is a row of keypackage's table (TestAddedAlgorithm at the root adds two).
func TestAlgorithms(t *testing.T) {
	t.Parallel()
	sources := []profile.Source{profile.Made, profile.Pool, profile.Imported}
	name := func(a keypackage.Algorithm, s profile.Source) string { return fmt.Sprintf("%s-%s", a, s) }
	certified := func(s profile.Source) bool { return s != profile.Imported } // a registry record has room for eight
	var text strings.Builder
	text.WriteString(pairsProfile()[:strings.Index(pairsProfile(), "entries:")])
	text.WriteString("entries:\n  - {name: channel, kind: communication, algorithm: hmac-sha-256, source: derived}\n")
	for _, a := range keypackage.Algorithms() {
		for _, s := range sources {
			switch {
			case a.Pair():
				fmt.Fprintf(&text, "  - {name: %s, kind: key-pair, algorithm: %s, source: %s, certificate: %t}\n", name(a, s), a, s, certified(s))
			case a.Symmetric():
				fmt.Fprintf(&text, "  - {name: %s, kind: drm, algorithm: %s, source: %s}\n", name(a, s), a, s)
			}
		}
	}
	l := newLine(t, text.String())
	ids := l.stock(t, 0, 1)
	l.advance(t, 0)
	l.importKeys(t, ids)
	f := on(l.station(t), l.device(t, true))
	must(t, f.run(t.Context(), 0))
	r, _ := l.lookup(t, f.device)
	must(t, f.device.Erase(t.Context()))
	must(t, f.device.Restore(t.Context(), r.Certificate, r.Backup))
	booted, err := f.device.Boot(t.Context()) // each key against what the manifest has for it
	must(t, err)
	certificates := map[string]devicecert.Certificate{} // by public point
	for _, der := range r.X509 {
		c, err := devicecert.Check(der, l.roots, devicecert.Want{})
		must(t, err)
		certificates[string(c.Public.Point())] = c
	}
	entries := map[string]keypackage.Entry{}
	for _, e := range booted.Entries {
		entries[e.Key.Name] = e
	}
	for _, a := range keypackage.Algorithms() {
		if a == keypackage.None {
			continue
		}
		t.Run(a.String(), func(t *testing.T) {
			for _, s := range sources {
				e, ok := entries[name(a, s)]
				if !ok || e.Algorithm != a {
					t.Fatalf("source %s: the device has %+v", s, e)
				}
				if c, ok := certificates[string(e.Vouch)]; ok != (a.Pair() && certified(s)) || ok && c.Use != a.Use() {
					t.Errorf("source %s: it has a certificate: %t, for %s", s, ok, c.Use)
				}
				switch a.Use() {
				case keypackage.UseSignature:
					signs(t, f.device.Device, e)
				case keypackage.UseAgreement:
					agrees(t, f.device.Device, e)
				}
			}
		})
	}
	l.drained(t)
}

// signs has a device sign with a key pair that it has.
func signs(t *testing.T, d *device.Device, e keypackage.Entry) {
	t.Helper()
	signer, err := d.Signer(t.Context(), e.Key.Name)
	must(t, err)
	digest := sha256.Sum256([]byte("what is signed"))
	signature, err := signer.Sign(nil, digest[:], crypto.SHA256)
	must(t, err)
	public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), e.Vouch)
	must(t, err)
	if !ecdsa.VerifyASN1(public, digest[:], signature) {
		t.Errorf("entry %q signs with another key than the manifest's", e.Key.Name)
	}
}

// agrees has a device agree on a secret with a key pair that it has.
func agrees(t *testing.T, d *device.Device, e keypackage.Entry) {
	t.Helper()
	peer, err := ecdh.P256().GenerateKey(rand.Reader)
	must(t, err)
	public, err := ecdh.P256().NewPublicKey(e.Vouch)
	must(t, err)
	want, err := peer.ECDH(public)
	must(t, err)
	got, err := d.Agree(t.Context(), e.Key.Name, peer.PublicKey().Bytes())
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Errorf("entry %q agrees with another key than the manifest's", e.Key.Name)
	}
}
