package devicecert_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/devicekeys/devicekeys/devicecert"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/statement"
)

// TestCertify: what was asked for is what Check reads.
func TestCertify(t *testing.T) {
	t.Parallel()
	c := newCA(t, dev, "ca")
	identities := []identity.Identity{nil}
	for _, urn := range []string{"urn:gsma:imei:00440245-000001-0", "urn:dev:mac:0024befffe804ff1", "urn:dev:mac:0024be80804ff1ab", "urn:dev:os:32473-A1B2.C3"} {
		id, err := identity.FromURN(urn)
		must(t, err)
		identities = append(identities, id)
	}
	for _, u := range []keypackage.Use{keypackage.UseSignature, keypackage.UseAgreement} {
		for _, r := range []*identity.RecordID{nil, record(1)} {
			for _, id := range identities {
				q := devicecert.Request{Realm: dev, Use: u, Public: public(t, "device"), Record: r, Identity: id, ProductLine: "phone-a"}
				der := c.certify(t, q)
				got, err := devicecert.Check(der, c.roots, devicecert.Want{At: time.Now(), Use: u, Public: q.Public, Record: r, Identity: id})
				must(t, err)
				want := devicecert.Certificate{Realm: dev, Public: q.Public, Use: u, Record: r, KeyHash: q.Public.Hash(), Identity: id, ProductLine: "phone-a"}
				got.IssuedAt, got.X509 = time.Time{}, nil
				if got.Record != nil && *got.Record == *r {
					got.Record = r
				}
				if got != want.Marked() {
					t.Errorf("%v %v %v: read as %+v", u, r, id, got)
				}
				if _, err := devicecert.Check(der, c.roots, devicecert.Want{}); err != nil {
					t.Errorf("asked for nothing: %v", err)
				}
			}
		}
	}
}

// TestCertifyFields: the fields that TLS stacks and auditors look at.
func TestCertifyFields(t *testing.T) {
	t.Parallel()
	c := newCA(t, dev, "ca")
	serial := big.NewInt(0x1234)
	q := request(t, keypackage.UseSignature)
	q.Serial, q.Identity = serial, imei(t, "00440245000001")
	x, err := x509.ParseCertificate(c.certify(t, q))
	must(t, err)
	if x.SerialNumber.Cmp(serial) != 0 || x.NotAfter.Year() != 9999 || x.IsCA || len(x.UnhandledCriticalExtensions) != 0 {
		t.Errorf("serial %v, not after %v, CA %t, unhandled %v", x.SerialNumber, x.NotAfter, x.IsCA, x.UnhandledCriticalExtensions)
	}
	if len(x.URIs) != 1 || x.URIs[0].String() != "urn:gsma:imei:00440245-000001-0" {
		t.Errorf("URIs %v", x.URIs)
	}
	if x.Subject.String() != q.Subject().String() || x.Subject.SerialNumber != record(0xab).String() {
		t.Errorf("subject %q", x.Subject)
	}
	// Drawn serial numbers are all of 20 bytes and positive.
	for range 20 {
		n, err := devicecert.NewSerial()
		must(t, err)
		if n.BitLen() != 159 {
			t.Errorf("a serial number of %d bits", n.BitLen())
		}
	}
}

func TestCertifyRefuses(t *testing.T) {
	t.Parallel()
	c := newCA(t, dev, "ca")
	for name, change := range map[string]func(*devicecert.Request){
		"no realm":             func(r *devicecert.Request) { r.Realm = 0 },
		"of the other realm":   func(r *devicecert.Request) { r.Realm = prod },
		"no public key":        func(r *devicecert.Request) { r.Public = statement.PublicKey{} },
		"no pair":              func(r *devicecert.Request) { r.Use = keypackage.UseMAC },
		"the record id":        func(r *devicecert.Request) { r.Record = &identity.RecordID{} },
		"product line \"\"":    func(r *devicecert.Request) { r.ProductLine = "" },
		"33 characters":        func(r *devicecert.Request) { r.ProductLine = strings.Repeat("a", 33) },
		"is not a letter":      func(r *devicecert.Request) { r.ProductLine = "phone*" },
		"'é' is not":           func(r *devicecert.Request) { r.ProductLine = "é" },
		"not positive":         func(r *devicecert.Request) { r.Serial = big.NewInt(-1) },
		"serial number has 16": func(r *devicecert.Request) { r.Serial = new(big.Int).Lsh(big.NewInt(1), 159) },
	} {
		q := request(t, keypackage.UseSignature)
		change(&q)
		if der, err := c.Certify(t.Context(), q); err == nil || der != nil {
			t.Errorf("%s: certified", name)
		} else if name == "of the other realm" && !strings.Contains(err.Error(), "production realm") {
			t.Errorf("%s: %v", name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Certify(ctx, request(t, keypackage.UseSignature)); !errors.Is(err, context.Canceled) {
		t.Errorf("after the caller left: %v", err)
	}
	// Before the CA came to be, and after it ended.
	for _, at := range []time.Time{c.cert.NotBefore.Add(-time.Minute), c.cert.NotAfter.Add(time.Minute)} {
		late := newCA(t, dev, "ca")
		late.SetClock(at)
		if _, err := late.Certify(t.Context(), request(t, keypackage.UseSignature)); err == nil || !strings.Contains(err.Error(), "valid from") {
			t.Errorf("at %v: %v", at, err)
		}
	}
}

// broken is a token that signs something else than it is asked for.
type broken struct{ *ecdsa.PrivateKey }

func (b broken) Sign(r io.Reader, digest []byte, o crypto.SignerOpts) ([]byte, error) {
	other := slices.Clone(digest)
	other[0]++
	return b.PrivateKey.Sign(r, other, o)
}

func TestBrokenToken(t *testing.T) {
	t.Parallel()
	good := newCA(t, dev, "ca")
	a, err := devicecert.New(good.cert, broken{key(t, "ca")})
	must(t, err)
	if der, err := a.Certify(t.Context(), request(t, keypackage.UseSignature)); err == nil {
		t.Errorf("a wrong signature went out: %x", der)
	}
}

// TestNew: which CA certificates are taken.
func TestNew(t *testing.T) {
	t.Parallel()
	c := newCA(t, dev, "ca")
	if _, err := devicecert.New(c.cert, key(t, "another")); err == nil || !strings.Contains(err.Error(), "another key") {
		t.Errorf("of another key: %v", err)
	}
	for name, change := range map[string]func(*x509.Certificate){
		"":                func(*x509.Certificate) {},
		"names no realm":  func(x *x509.Certificate) { x.Subject.CommonName = "device CA" },
		"signs devices":   func(x *x509.Certificate) { x.MaxPathLenZero, x.MaxPathLen = false, 1 },
		"signs devices ":  func(x *x509.Certificate) { x.IsCA, x.MaxPathLenZero = false, false },
		"signs devices  ": func(x *x509.Certificate) { x.KeyUsage = x509.KeyUsageCRLSign },
	} {
		signer := key(t, "ca")
		template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: c.cert.NotBefore, NotAfter: c.cert.NotAfter, Subject: c.cert.Subject,
			BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign}
		change(template)
		der, err := x509.CreateCertificate(rand.Reader, template, template, signer.Public(), signer)
		must(t, err)
		x, err := x509.ParseCertificate(der)
		must(t, err)
		if _, err := devicecert.New(x, signer); (err == nil) != (name == "") || err != nil && !strings.Contains(err.Error(), strings.TrimSpace(name)) {
			t.Errorf("%q: %v", name, err)
		}
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	must(t, err)
	if _, err := devicecert.SelfSigned(dev, "Example", p384); err == nil {
		t.Error("a CA of P-384 was made")
	}
	if _, err := devicecert.New(nil, key(t, "ca")); err == nil {
		t.Error("without a certificate")
	}
}

// TestCheckOther: a certificate is not taken for another's.
func TestCheckOther(t *testing.T) {
	t.Parallel()
	c := newCA(t, dev, "ca")
	q := request(t, keypackage.UseSignature)
	q.Identity = imei(t, "00440245000001")
	der := c.certify(t, q)
	for name, w := range map[string]devicecert.Want{
		"use":      {Use: keypackage.UseAgreement},
		"key":      {Public: public(t, "another")},
		"record":   {Record: record(8)},
		"identity": {Identity: imei(t, "00440245000002")},
	} {
		if _, err := devicecert.Check(der, c.roots, w); !errors.Is(err, devicecert.ErrOther) {
			t.Errorf("%s: %v", name, err)
		}
	}
	q.Record, q.Identity = nil, nil
	der = c.certify(t, q)
	for name, w := range map[string]devicecert.Want{
		"record":                     {Record: record(0xab)},
		"the key's hash as a record": {Record: (*identity.RecordID)(ptr(q.Public.Hash()))},
		"identity":                   {Identity: imei(t, "00440245000001")},
	} {
		if _, err := devicecert.Check(der, c.roots, w); !errors.Is(err, devicecert.ErrOther) {
			t.Errorf("made in advance, %s: %v", name, err)
		}
	}
}

func ptr[T any](v T) *T { return &v }

// TestTime: no clock takes any time, a clock allows for others' clocks.
func TestTime(t *testing.T) {
	t.Parallel()
	c := newCA(t, dev, "ca")
	at := issued(c)
	c.SetClock(at)
	der := c.certify(t, request(t, keypackage.UseSignature))
	for name, tc := range map[string]struct {
		at time.Time
		ok bool
	}{
		"no clock":               {time.Time{}, true},
		"at once":                {at, true},
		"behind":                 {at.Add(-devicecert.Skew), true},
		"too far behind":         {at.Add(-devicecert.Skew - time.Second), false},
		"when the CA is gone":    {c.cert.NotAfter.AddDate(1, 0, 0), true},
		"in three hundred years": {at.AddDate(300, 0, 0), true},
	} {
		if _, err := devicecert.Check(der, c.roots, devicecert.Want{At: tc.at}); (err == nil) != tc.ok || err != nil && !errors.Is(err, devicecert.ErrNotYet) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestRoots: old CAs stay, others and other realms' don't count.
func TestRoots(t *testing.T) {
	t.Parallel()
	old, young, foreign := newCA(t, dev, "old"), newCA(t, dev, "young"), newCA(t, dev, "foreign")
	both, err := devicecert.NewRoots(dev, old.cert, young.cert)
	must(t, err)
	text := slices.Concat(pemOf(old.cert), pemOf(young.cert))
	read, err := devicecert.ParseRoots(dev, text)
	must(t, err)
	q := request(t, keypackage.UseAgreement)
	for _, roots := range []*devicecert.Roots{both, read} {
		for name, c := range map[string]ca{"old": old, "young": young} {
			if _, err := devicecert.Check(c.certify(t, q), roots, devicecert.Want{}); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if _, err := devicecert.Check(foreign.certify(t, q), roots, devicecert.Want{}); !errors.Is(err, devicecert.ErrIssuer) {
			t.Errorf("of another CA: %v", err)
		}
	}
	if _, err := devicecert.Check(old.certify(t, q), young.roots, devicecert.Want{}); !errors.Is(err, devicecert.ErrIssuer) {
		t.Errorf("old CA taken out: %v", err)
	}
	if _, err := devicecert.Check(old.certify(t, q), nil, devicecert.Want{}); !errors.Is(err, devicecert.ErrIssuer) {
		t.Errorf("no roots: %v", err)
	}
	// Realms.
	p := newCA(t, prod, "old") // even with the same key
	if _, err := devicecert.NewRoots(dev, old.cert, p.cert); err == nil || !strings.Contains(err.Error(), "production realm") {
		t.Errorf("two realms: %v", err)
	}
	q.Realm = prod
	if _, err := devicecert.Check(p.certify(t, q), both, devicecert.Want{}); !errors.Is(err, devicecert.ErrForm) {
		t.Errorf("of the other realm: %v", err)
	}
	for name, text := range map[string][]byte{
		"empty": nil, "no PEM": []byte("x"), "a tail": append(pemOf(old.cert), "x"...), "a key": public(t, "x").PEM(), "too long": make([]byte, 1<<20),
		"no DER": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{0x30}}), "the other realm's": pemOf(p.cert),
		"no CA": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: old.certify(t, request(t, keypackage.UseSignature))}),
	} {
		if _, err := devicecert.ParseRoots(dev, text); err == nil {
			t.Errorf("%s: read as roots", name)
		}
	}
}

func pemOf(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

// TestArc: a maker's own arc is asked for, and only that.
func TestArc(t *testing.T) {
	t.Parallel()
	c := newCA(t, dev, "ca")
	arc := asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 2}
	a, err := devicecert.NewWithArc(c.cert, key(t, "ca"), arc)
	must(t, err)
	der, err := a.Certify(t.Context(), request(t, keypackage.UseSignature))
	must(t, err)
	roots, err := devicecert.NewRootsWithArc(dev, arc, c.cert)
	must(t, err)
	if _, err := devicecert.Check(der, roots, devicecert.Want{Record: record(0xab)}); err != nil {
		t.Error(err)
	}
	if _, err := devicecert.Check(der, c.roots, devicecert.Want{}); !errors.Is(err, devicecert.ErrForm) {
		t.Errorf("with another arc: %v", err)
	}
	if shown, err := devicecert.Unverified(der, dev); err != nil || *shown.Record != *record(0xab) {
		t.Errorf("shown as %v, %v", shown, err)
	}
	for _, bad := range []asn1.ObjectIdentifier{nil, {1, 3}, {9, 3, 1}, slices.Repeat(asn1.ObjectIdentifier{1}, 17)} {
		if _, err := devicecert.NewWithArc(c.cert, key(t, "ca"), bad); err == nil {
			t.Errorf("arc %v is taken", bad)
		}
	}
}

// TestProfile: certificates that the CA itself signed and that differ from the profile in one thing are refused.
func TestProfile(t *testing.T) {
	t.Parallel()
	c := newCA(t, dev, "ca")
	signer, device := key(t, "ca"), key(t, "device")
	q := request(t, keypackage.UseSignature)
	other, err := c.Template(func() devicecert.Request { r := q; r.Record = record(9); return r }())
	must(t, err)
	advance, err := c.Template(func() devicecert.Request { r := q; r.Record = nil; return r }())
	must(t, err)
	foreign, err := c.Template(func() devicecert.Request { r := q; r.Record, r.Public = nil, public(t, "another"); return r }())
	must(t, err)
	policy, err := x509.ParseOID("1.2.3")
	must(t, err)
	for name, change := range map[string]func(*x509.Certificate){
		"":                         func(*x509.Certificate) {},
		"an expiry":                func(x *x509.Certificate) { x.NotAfter = x.NotBefore.AddDate(10, 0, 0) },
		"a CA":                     func(x *x509.Certificate) { x.IsCA = true },
		"no constraints":           func(x *x509.Certificate) { x.BasicConstraintsValid = false },
		"another usage":            func(x *x509.Certificate) { x.KeyUsage |= x509.KeyUsageKeyAgreement },
		"keyAgreement with EKU":    func(x *x509.Certificate) { x.KeyUsage = x509.KeyUsageKeyAgreement },
		"no usage":                 func(x *x509.Certificate) { x.KeyUsage = 0 },
		"one EKU":                  func(x *x509.Certificate) { x.ExtKeyUsage = x.ExtKeyUsage[:1] },
		"EKUs the other way round": func(x *x509.Certificate) { x.ExtKeyUsage = []x509.ExtKeyUsage{x.ExtKeyUsage[1], x.ExtKeyUsage[0]} },
		"no EKU":                   func(x *x509.Certificate) { x.ExtKeyUsage = nil },
		"another SKI":              func(x *x509.Certificate) { x.SubjectKeyId = []byte("abcdefghijklmnopqrst") },
		"another organisation":     func(x *x509.Certificate) { x.Subject.Organization = []string{"Devicekeys"} },
		"the other realm":          func(x *x509.Certificate) { x.Subject.Organization = []string{"Devicekeys production"} },
		"a country":                func(x *x509.Certificate) { x.Subject.Country = []string{"FI"} },
		"no product line":          func(x *x509.Certificate) { x.Subject.OrganizationalUnit = nil },
		"two product lines":        func(x *x509.Certificate) { x.Subject.OrganizationalUnit = []string{"a", "b"} },
		"capital hexadecimal":      func(x *x509.Certificate) { x.Subject.SerialNumber = strings.ToUpper(x.Subject.SerialNumber) },
		"another serial number":    func(x *x509.Certificate) { x.Subject = other.Subject },
		"another module":           func(x *x509.Certificate) { x.ExtraExtensions = other.ExtraExtensions },
		"record and key":           func(x *x509.Certificate) { x.ExtraExtensions = advance.ExtraExtensions },
		"key and record":           func(x *x509.Certificate) { x.Subject = advance.Subject },
		"another's key's hash":     func(x *x509.Certificate) { x.Subject, x.ExtraExtensions = foreign.Subject, foreign.ExtraExtensions },
		"no module":                func(x *x509.Certificate) { x.ExtraExtensions = nil },
		"a DNS name":               func(x *x509.Certificate) { x.ExtraExtensions, x.DNSNames = nil, []string{"example.com"} },
		"a critical module": func(x *x509.Certificate) {
			x.ExtraExtensions = slices.Clone(x.ExtraExtensions)
			x.ExtraExtensions[0].Critical = true
		},
		"a policy":     func(x *x509.Certificate) { x.Policies = []x509.OID{policy} },
		"an OCSP name": func(x *x509.Certificate) { x.OCSPServer = []string{"http://ocsp.example"} },
	} {
		template, err := c.Template(q)
		must(t, err)
		change(template)
		der, err := x509.CreateCertificate(rand.Reader, template, c.cert, device.Public(), signer)
		must(t, err)
		if _, err := devicecert.Check(der, c.roots, devicecert.Want{}); (err == nil) != (name == "") || err != nil && !errors.Is(err, devicecert.ErrForm) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// TestTampered: no bit of a certificate can be changed.
func TestTampered(t *testing.T) {
	t.Parallel()
	c := newCA(t, dev, "ca")
	q := request(t, keypackage.UseSignature)
	q.Identity = imei(t, "00440245000001")
	der := c.certify(t, q)
	if len(der) > 800 {
		t.Errorf("a certificate of %d bytes", len(der))
	}
	for i := range len(der) * 8 {
		bad := slices.Clone(der)
		bad[i/8] ^= 1 << (i % 8)
		if _, err := devicecert.Check(bad, c.roots, devicecert.Want{}); err == nil {
			t.Fatalf("bit %d of byte %d is not missed", i%8, i/8)
		}
	}
	for _, bad := range [][]byte{nil, der[:len(der)-1], append(slices.Clone(der), 0), make([]byte, devicecert.MaxCertificate+1)} {
		if _, err := devicecert.Check(bad, c.roots, devicecert.Want{}); !errors.Is(err, devicecert.ErrForm) {
			t.Errorf("%d bytes: %v", len(bad), err)
		}
	}
	shown, err := devicecert.Unverified(der, dev)
	must(t, err)
	if diff := cmp.Diff(shown.Record.String(), record(0xab).String()); diff != "" {
		t.Error(diff)
	}
}
