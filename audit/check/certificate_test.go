package check_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/devicekeys/devicekeys/audit"
	"github.com/devicekeys/devicekeys/audit/check"
	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/devicecert"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning/records"
	"github.com/devicekeys/devicekeys/registry/registrytest"
)

// pairsWorld is a world with four devices of two pairs each, chips 40 to 43: the even ones made in advance.
func pairsWorld(t *testing.T) (*world, []records.Device) {
	t.Helper()
	w := newWorld(t, 1)
	var all []records.Device
	for n := range 4 {
		all = append(all, w.Paired(40+n, n%2 == 0, records.Shipped))
	}
	return w, all
}

func serialOf(t *testing.T, der []byte) *big.Int {
	t.Helper()
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c.SerialNumber
}

// TestDeviceCertificates: what is stored of devices' certificates is theirs, published as it is, and each was licensed.
func TestDeviceCertificates(t *testing.T) {
	t.Parallel()
	w, all := pairsWorld(t)
	run := func() check.Report {
		t.Helper()
		s := w.Sources()
		s.Certificates = []*x509.Certificate{w.DeviceCA()}
		return check.Run(t.Context(), s)
	}
	// The CA's own certificate has no entry here; nothing else is wrong.
	r := run()
	for _, i := range r.Invariants {
		if want := int64(map[bool]int{true: 1}[i.Name == check.Audited]); i.Found != want || i.Unread != "" {
			t.Fatalf("%s: %+v", i.Name, i)
		}
	}
	if r := w.Run(); !r.Holds() || !slices.ContainsFunc(r.Invariants, func(i check.Result) bool {
		return slices.ContainsFunc(i.Unchecked, func(s string) bool { return strings.Contains(s, "no device CA's certificate") })
	}) {
		t.Errorf("without the CA's certificate: %+v", r.Invariants)
	}

	set := func(d records.Device, certificates ...[]byte) {
		t.Helper()
		encoded, err := detcbor.Marshal(certificates)
		w.Must(err)
		w.PlantRecords(`update device set x509 = $2 where record_id = $1`, d.Record[:], encoded)
	}
	noticed := func(d records.Device, change string) {
		t.Helper()
		w.PlantRecords(`update notice set `+change+` where record_id = $1`, d.Record[:])
	}
	rogue, _ := w.Certificate(keypackage.ES256, big.NewInt(7), nil)
	underRecord, _ := w.Certificate(keypackage.ES256, big.NewInt(8), &all[1].Record)
	w.Must(w.Log("custodian").Append(t.Context(), audit.Certification("dev-device-ca", big.NewInt(9), "CN=development device CA", "ann")))
	w.Must(w.Log("custodian").Append(t.Context(), audit.Certifications("dev-station-ca", []*big.Int{big.NewInt(10)}, "something else", "ann")[0]))
	ofCA, _ := w.Certificate(keypackage.ES256, big.NewInt(9), nil)
	ofStation, _ := w.Certificate(keypackage.ES256, big.NewInt(10), nil)
	borrowed, _ := w.Certificate(keypackage.ES256, serialOf(t, all[1].X509[0]), &all[3].Record)
	copied, _ := w.Certificate(keypackage.ES256, serialOf(t, all[0].X509[0]), nil)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	w.Must(err)
	foreignCA, err := devicecert.SelfSigned(dev, "Example Devices", key)
	w.Must(err)
	other, err := devicecert.New(foreignCA, key)
	w.Must(err)
	genuine, err := devicecert.Unverified(all[1].X509[0], dev)
	w.Must(err)
	foreign, err := other.Certify(t.Context(), devicecert.Request{Realm: dev, Use: genuine.Use, Public: genuine.Public,
		Record: genuine.Record, ProductLine: "phone", Serial: genuine.X509.SerialNumber})
	w.Must(err)
	const any = -1 // one of two: whichever is read later
	for _, c := range []struct {
		name      string
		plant     func()
		invariant string
		device    int
		says      string
	}{
		{"another device's certificate", func() { set(all[0], all[2].X509...) }, check.NoKeys, 0, "is no key of the device"},
		{"another device's, against the entry", func() { set(all[0], all[2].X509...) }, check.Findable, 0, "the entry holds other X.509 certificates than the row"},
		{"another device's, against what is published", func() { set(all[0], all[2].X509...) }, check.Findable, 0, "it publishes other certificates than the device has"},
		{"another device's, against the notice", func() { set(all[0], all[2].X509...) }, check.NoKeys, 0, "the certificates notice is not the device's"},
		{"of another record", func() { set(all[1], all[3].X509...) }, check.NoKeys, 1, "it is of record"},
		{"by a CA of somebody's", func() { set(all[1], foreign) }, check.NoKeys, 1, "no device CA signed it"},
		{"no certificate", func() { set(all[1], []byte("key")) }, check.NoKeys, 1, "not a device certificate of the profile"},
		{"twice", func() { set(all[1], all[1].X509[0], all[1].X509[0]) }, check.NoKeys, 1, "another certificate of the row is of the same key"},
		{"made by the CA's key, licensed by nobody", func() { set(all[0], rogue) }, check.Audited, 0, "no entry licensed this certificate, made in advance"},
		{"the same for a record", func() { set(all[1], underRecord) }, check.Audited, 1, "no entry about this device licensed its certificate"},
		{"under the CA's own serial number", func() { set(all[0], ofCA) }, check.Audited, 0, "no entry licensed this certificate, made in advance"},
		{"under one of another CA", func() { set(all[0], ofStation) }, check.Audited, 0, "no entry licensed this certificate, made in advance"},
		{"under one licensed for another device", func() { set(all[3], borrowed) }, check.Audited, 3, "no entry about this device licensed its certificate"},
		{"under another's serial number", func() { set(all[2], copied) }, check.Audited, any, "two certificates have this serial number"},
		{"the notice waits for ever", func() { noticed(all[3], `sequence = null`) }, check.Findable, 3, "the certificates notice of"},
		{"the notice was set aside", func() { noticed(all[3], `sequence = null, set_aside = 'refused there'`) }, check.Findable, 3, "set aside: refused there"},
	} {
		restore := func() {
			for _, d := range all {
				set(d, d.X509...)
			}
			w.PlantRecords(`update notice n set set_aside = null, sequence = (select sequence + 1 from device d where d.record_id = n.record_id) where type = $1`, 5)
		}
		c.plant()
		r := run()
		i := r.Invariants[slices.IndexFunc(r.Invariants, func(i check.Result) bool { return i.Name == c.invariant })]
		want := registrytest.Chip(t, 40+c.device).RecordID().Short()
		if !slices.ContainsFunc(i.Violations, func(v check.Violation) bool {
			return (v.Device == want || c.device == any) && strings.Contains(v.Cause, c.says)
		}) {
			t.Errorf("%s: %+v", c.name, i.Violations)
		}
		restore()
	}
	// A notice that waits for a moment is no violation.
	noticed(all[3], `sequence = null`)
	s := w.Sources()
	s.Grace = 1e12
	if r := check.Run(t.Context(), s); !r.Holds() {
		t.Errorf("within the grace: %+v", r.Invariants)
	}
}

// TestWaitingKeys: keys that wait in tables are sealed, or wrapped under their row's label.
func TestWaitingKeys(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	record := registrytest.Chip(t, 0).RecordID()
	blob := func(change func(*keypackage.TransportBlob)) []byte {
		_, point := w.Certificate(keypackage.ES256, nil, nil)
		b := keypackage.TransportBlob{Realm: dev, Point: point, Label: keypackage.ServiceKeyLabel(record, 1, "field"), Wrapped: make([]byte, 40)}
		change(&b)
		return b.Encode()
	}
	run := func(says string) {
		t.Helper()
		r := w.Run()
		i := r.Invariants[slices.IndexFunc(r.Invariants, func(i check.Result) bool { return i.Name == check.NoKeys })]
		if says == "" && i.Found != 0 || says != "" && (i.Found != 1 || !strings.Contains(i.Violations[0].Cause, says)) {
			t.Errorf("want %q: %+v", says, i)
		}
	}
	w.PlantRecords(`insert into service_key (record_id, generation, entry, blob) values ($1, 1, 'field', $2)`, record[:], blob(func(*keypackage.TransportBlob) {}))
	sealed := keypackage.Sealed{Ciphertext: make([]byte, 64)}.Encode()
	w.PlantPool(`insert into waiting_key (type, value, entry, sealed) select type, value, 'sign', $1 from waiting where reserved is null order by value limit 1`, sealed)
	run("")
	for says, b := range map[string][]byte{
		"read what was sent":          []byte("a key in clear, 32 bytes of it..."),
		"of the production realm":     blob(func(b *keypackage.TransportBlob) { b.Realm = 2 }),
		"another device's or entry's": blob(func(b *keypackage.TransportBlob) { b.Label = keypackage.ServiceKeyLabel(record, 2, "field") }),
		"has 40 bytes, it has 80":     blob(func(b *keypackage.TransportBlob) { b.Wrapped = make([]byte, 80) }),
	} {
		w.PlantRecords(`update service_key set blob = $2 where record_id = $1`, record[:], b)
		run(says)
	}
	w.PlantRecords(`delete from service_key where record_id = $1`, record[:])
	w.PlantPool(`update waiting_key set sealed = $1`, []byte("a key in clear"))
	run("column sealed holds no sealed key")
}
