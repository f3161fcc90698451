package check_test

import (
	"crypto/ecdh"
	"crypto/rand"
	"slices"
	"strings"
	"testing"

	"github.com/devicekeys/devicekeys/audit/check"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/registry/registrytest"
)

// TestPoints: one public key in two manifests is named, with both; two are nothing to speak of.
func TestPoints(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	pair := func() []byte {
		k, err := ecdh.P256().GenerateKey(rand.Reader)
		w.Must(err)
		return k.PublicKey().Bytes()
	}
	shared, own := pair(), pair()
	// What a row's manifest is, its certificate says; here only its points are of interest.
	for n, point := range [][]byte{shared, own, shared} {
		d, err := w.Records.Store.Get(t.Context(), registrytest.Chip(t, n).RecordID(), 1)
		w.Must(err)
		m, err := keypackage.ParseManifest(d.Manifest)
		w.Must(err)
		m.Entries = append(m.Entries, keypackage.Entry{Kind: keypackage.KeyPair, Key: keypackage.KeyID{Name: "tls"}, Algorithm: keypackage.ES256, Vouch: point})
		b, err := m.Encode()
		w.Must(err)
		_, err = w.Records.AsOwner().ExecContext(t.Context(), `update device set manifest = $2 where record_id = $1`, d.Record[:], b)
		w.Must(err)
	}
	r := check.Run(t.Context(), w.Sources())
	i := r.Invariants[slices.IndexFunc(r.Invariants, func(i check.Result) bool { return i.Name == check.OneDevice })]
	if i.Found != 1 || len(i.Violations[0].Rows) != 2 || !strings.Contains(i.Violations[0].Cause, `entry "tls" has a public key that another generation's manifest has`) {
		t.Errorf("%+v", i)
	}
}
