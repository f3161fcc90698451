package issued_test

import (
	"bytes"
	"encoding/hex"
	"testing"

	"pgregory.net/rapid"

	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/deviceservice/issued"
	"github.com/devicekeys/devicekeys/deviceservice/issued/issuedtest"
	"github.com/devicekeys/devicekeys/provisioning/records"
)

// TestCertificates: the store gives the hashes of what the device's row holds, of its generation alone.
func TestCertificates(t *testing.T) {
	t.Parallel()
	r := issuedtest.New(t)
	one, two, old := bytes.Repeat([]byte{1}, 700), bytes.Repeat([]byte{2}, 2048), []byte("of generation 1")
	d := r.Put(1, 1, records.Superseded)
	r.Certify(1, 1, records.Superseded, old)
	r.Put(1, 2, records.Shipped)
	want := r.Certify(1, 2, records.Shipped, one, two)
	have, err := r.Store.Lookup(t.Context(), d.Identity)
	must(t, err)
	if have.Certificates != want.Certificates {
		t.Errorf("certificates %x, want %x", have.Certificates, want.Certificates)
	}
	for _, c := range []struct {
		name string
		der  []byte
		has  bool
	}{{"the first", one, true}, {"the second", two, true}, {"of generation 1", old, false}, {"a part of one", one[1:], false}, {"none", nil, false}} {
		if have.Certificates.Has(c.der) != c.has {
			t.Errorf("%s: %v is wrong", c.name, !c.has)
		}
	}
	if (issued.Certificates)("").Has(one) || issued.CertificatesOf(one)[1:].Has(one) {
		t.Error("none, or a part of a hash, has a certificate")
	}
}

// TestCertificateHashes: the database reads what det-CBOR writes, and nothing else; whatever lies there, it answers.
func TestCertificateHashes(t *testing.T) {
	t.Parallel()
	db := issuedtest.New(t).AsOwner()
	hashes := func(t rapid.TB, x509 []byte) issued.Certificates {
		var b []byte
		if err := db.QueryRow(`select certificate_hashes($1)`, x509).Scan(&b); err != nil {
			t.Fatalf("%x: %v", x509, err)
		}
		return issued.Certificates(b)
	}
	rapid.Check(t, func(rt *rapid.T) {
		all := rapid.SliceOfN(rapid.SliceOfN(rapid.Byte(), 0, 600), 0, 8).Draw(rt, "certificates")
		encoded, err := detcbor.Marshal(all)
		if err != nil {
			rt.Fatal(err)
		}
		if len(all) == 0 {
			encoded = []byte{0x80}
		}
		if have, want := hashes(rt, encoded), issued.CertificatesOf(all...); have != want {
			rt.Fatalf("%x: %x, want %x", encoded, have, want)
		}
		cut := rapid.IntRange(0, len(encoded)-1).Draw(rt, "cut")
		if have := hashes(rt, encoded[:cut]); have != "" {
			rt.Fatalf("%x: %x, want none", encoded[:cut], have)
		}
		hashes(rt, rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(rt, "anything"))
	})
	for _, text := range []string{"", "a0", "8200", "81", "8158", "815901", "815a00000001aa", "8141aaff", "81f6", "9f41aaff", "984141", "8161aa"} {
		b, err := hex.DecodeString(text)
		must(t, err)
		if have := hashes(t, b); have != "" {
			t.Errorf("%s: %x, want none", text, have)
		}
	}
}
