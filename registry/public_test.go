package registry_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/devicekeys/devicekeys/devicecert"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/registry"
	"github.com/devicekeys/devicekeys/registry/registrytest"
	"github.com/devicekeys/devicekeys/registry/store/storetest"
)

// TestPublished: everyone finds the certificates of a device in use by record id
// and identity, its newest generation's, and nothing of one that is not in use.
func TestPublished(t *testing.T) {
	t.Parallel()
	d, rom := storetest.New(t), registrytest.ROM(t)
	imei, err := identity.FromValue(identity.TypeIMEI, "00440200000001")
	if err != nil {
		t.Fatal(err)
	}
	other, err := identity.FromValue(identity.TypeIMEI, "00440200000002")
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, d, func(o *registry.HandlerOptions) { o.Directory, o.DirectoryBurst = true, 100 })
	c := client(t, s.URL, identity.Development)
	record := registrytest.Chip(t, 1).RecordID()
	found := func(want identity.Generation) {
		t.Helper()
		p, g, err := c.Certificates(t.Context(), record)
		q, r, err2 := c.Directory(t.Context(), imei)
		if want == 0 {
			if !errors.Is(err, registry.ErrNotFound) || !errors.Is(err2, registry.ErrNotFound) {
				t.Errorf("certificates of a device that has none to show: %v, %v", err, err2)
			}
			return
		}
		if err != nil || g != want || p.Identity != imei.URN() || len(p.X509) != 1 {
			t.Errorf("generation %d of %+v, %v", g, p, err)
		}
		if err2 != nil || r != record || len(q.X509) != 1 {
			t.Errorf("record %s of %+v, %v", r.Short(), q, err2)
		}
	}
	found(0)
	d.Append(registrytest.Entry(t, 1, 1))
	found(0)
	d.Append(registrytest.Public(t, 1, 1, imei.URN()))
	found(1)
	// The owner's lookup is not led astray by what stands beside the record.
	if _, _, err := c.Lookup(t.Context(), registrytest.Chip(t, 1), rom.Public()); err != nil {
		t.Error(err)
	}
	d.Append(registrytest.Entry(t, 1, 2))
	found(0)
	d.Append(registrytest.Public(t, 1, 2, imei.URN()))
	found(2)
	if _, _, err := c.Directory(t.Context(), other); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("another identity: %v", err)
	}
	d.Append(registrytest.End(t, 1, 2, registry.Scrap, rom))
	found(0)
	// The identity's next chip, and what is published of one out of use, late.
	d.Append(registrytest.Entry(t, 2, 1), registrytest.Public(t, 2, 1, imei.URN()))
	d.Append(registrytest.Entry(t, 3, 1), registrytest.End(t, 3, 1, registry.Scrap, rom), registrytest.Public(t, 3, 1, imei.URN()))
	record = registrytest.Chip(t, 2).RecordID()
	found(1)
	production := client(t, s.URL, identity.Production)
	if _, _, err := production.Certificates(t.Context(), record); err == nil {
		t.Error("an entry of another realm was taken")
	}
	// What was erased is published no more, the record and all that stands beside it.
	d.Append(registrytest.End(t, 2, 1, registry.Erase, rom))
	found(0)
	if _, _, err := c.Get(t.Context(), record, 1); !errors.Is(err, registry.ErrErased) {
		t.Errorf("the erased record: %v", err)
	}
}

func TestPublicCertificatesRefuses(t *testing.T) {
	t.Parallel()
	one := [][]byte{{1}}
	for name, p := range map[string]registry.PublicCertificates{
		"none":             {Identity: "urn:x"},
		"nine":             {X509: make([][]byte, 9)},
		"an empty one":     {X509: [][]byte{{}}},
		"a long one":       {X509: [][]byte{make([]byte, devicecert.MaxCertificate+1)}},
		"a long identity":  {Identity: strings.Repeat("u", 129), X509: one},
		"a space":          {Identity: "urn: x", X509: one},
		"a path":           {Identity: "urn/x", X509: one},
		"another alphabet": {Identity: "urn:ä", X509: one},
	} {
		if _, err := p.Encode(); err == nil {
			t.Errorf("%s was encoded", name)
		}
	}
}

// FuzzPublicCertificates: what reads encodes to the same bytes.
func FuzzPublicCertificates(f *testing.F) {
	b, err := registry.PublicCertificates{Identity: "urn:dev:mac:1", X509: [][]byte{{0x30, 0}}}.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{0x83, 1, 0x60, 0x81, 0x41, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := registry.ParsePublicCertificates(b)
		if err != nil {
			return
		}
		again, err := p.Encode()
		if err != nil || string(again) != string(b) {
			t.Errorf("%x was read as %+v, which is written %x, %v", b, p, again, err)
		}
	})
}
