package provisioning_test

import (
	"math/big"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"github.com/devicekeys/devicekeys/audit"
	"github.com/devicekeys/devicekeys/devicecert"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning"
	"github.com/devicekeys/devicekeys/provisioning/pool"
	"github.com/devicekeys/devicekeys/provisioning/profile"
	"github.com/devicekeys/devicekeys/statement"
)

// TestWaitingCertificate: a certificate that was made in advance goes to a device only as the profile would make it now,
// and a device that would get another is not begun.
func TestWaitingCertificate(t *testing.T) {
	t.Parallel()
	l := newLine(t, pairsProfile())
	named := l.profiles[0]
	unnamed, err := profile.Parse([]byte(pairsProfile("identity_in_certificates: true", "identity_in_certificates: false")), t.TempDir())
	must(t, err)
	silent := l.start(t, func(c *provisioning.Config) { c.Profiles = []profile.Profile{unnamed} })
	another, err := l.keys.Make(t.Context(), keypackage.ES256)
	must(t, err)
	foreign, err := statement.ParsePoint(another.Public)
	must(t, err)
	rows := []struct {
		name   string
		change func(r *devicecert.Request, id identity.Identity)
		spp    *spp
		says   string // empty: the device is begun
	}{
		{"as made", func(*devicecert.Request, identity.Identity) {}, l.spp, ""},
		{"without the identity, which is not asked for", func(r *devicecert.Request, _ identity.Identity) { r.Identity = nil }, silent, ""},
		{"with the identity, after it was switched off", func(*devicecert.Request, identity.Identity) {}, silent, "it names the identity, which certificates of this line don't"},
		{"without the identity", func(r *devicecert.Request, _ identity.Identity) { r.Identity = nil }, l.spp, "it names no identity"},
		{"of another identity", func(r *devicecert.Request, id identity.Identity) { r.Identity = id }, l.spp, "it names 00440200"},
		{"of another product line", func(r *devicecert.Request, _ identity.Identity) { r.ProductLine = "meter" }, l.spp, `it names product line "meter"`},
		{"of another use", func(r *devicecert.Request, _ identity.Identity) { r.Use = keypackage.UseAgreement }, l.spp, "key is of es256, certificate for key agreement"},
		{"of another key", func(r *devicecert.Request, _ identity.Identity) { r.Public = foreign }, l.spp, "it is of another key"},
		{"of a record", func(r *devicecert.Request, _ identity.Identity) { r.Record = &identity.RecordID{1} }, l.spp, "it names record 01"},
	}
	ids := l.stock(t, 0, len(rows))
	batch, err := l.pool.Store.Look(t.Context(), ids)
	must(t, err)
	for i, row := range rows {
		var keys []pool.Key
		for _, e := range named.Entries {
			if e.Source != profile.Pool {
				continue
			}
			w, err := l.keys.Make(t.Context(), e.Algorithm)
			must(t, err)
			point, err := statement.ParsePoint(w.Public)
			must(t, err)
			r := devicecert.Request{Realm: dev, Use: e.Algorithm.Use(), Public: point, ProductLine: named.Name, Identity: ids[i]}
			r.Serial, err = devicecert.NewSerial()
			must(t, err)
			for _, e := range audit.Certifications(provisioning.DeviceCALabel(dev), []*big.Int{r.Serial}, "made in advance", "operator test") {
				must(t, l.records.Store.License(t.Context(), e))
			}
			if e.Algorithm == keypackage.ES256 || row.says == "" {
				row.change(&r, ids[(i+1)%len(ids)])
			}
			w.X509, err = l.deviceCA.Certify(t.Context(), r)
			must(t, err)
			sealed, err := provisioning.SealWaiting(t.Context(), l.keys, dev, batch[ids[i].Value()].Batch, ids[i], e.Name, w)
			must(t, err)
			keys = append(keys, pool.Key{Identity: ids[i], Entry: e.Name, Sealed: sealed})
		}
		if n, err := l.pool.Store.AddKeys(t.Context(), keys); err != nil || n != int64(len(keys)) {
			t.Fatalf("%s: %d keys, %v", row.name, n, err)
		}
		f := on(l.stationOf(t, row.spp), l.device(t, true))
		err := f.begin(t.Context())
		if row.says == "" {
			if err != nil {
				t.Errorf("%s: %v", row.name, err)
			}
			continue
		}
		refused(t, err, connect.CodeFailedPrecondition, provisioning.CodeProfile)
		if !strings.Contains(err.Error(), row.says) {
			t.Errorf("%s: %v", row.name, err)
		}
		if used, err := l.records.Store.Known(t.Context(), ids[i:i+1]); err != nil || len(used) != 0 {
			t.Errorf("%s: the records bound the identity: %v, %v", row.name, used, err)
		}
	}
}
