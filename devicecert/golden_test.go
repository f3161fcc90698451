package devicecert_test

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"io/fs"
	"math/big"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/devicekeys/devicekeys/devicecert"
	"github.com/devicekeys/devicekeys/keypackage"
)

var update = flag.Bool("update", false, "write testdata/golden.json anew instead of comparing with it")

type hexBytes []byte

func (h hexBytes) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(h)), nil }

func (h *hexBytes) UnmarshalText(b []byte) error {
	v, err := hex.DecodeString(string(b))
	*h = v
	return err
}

// golden are the vectors of docs/formats.md. Keys sign as RFC 6979 says, so that nothing moves.
type golden struct {
	CA           hexBytes            `json:"ca"`
	Certificates []goldenCertificate `json:"certificates"`
}

type goldenCertificate struct {
	Algorithm   keypackage.Algorithm `json:"algorithm"`
	Public      hexBytes             `json:"public"`
	Record      hexBytes             `json:"record_id"` // empty: made in advance
	URN         string               `json:"urn"`
	Certificate hexBytes             `json:"certificate"`
	Hash        hexBytes             `json:"sha256"`
}

const goldenPath = "testdata/golden.json"

// goldenCA gives the CA of the vectors, in whose world time stands still.
func goldenCA(t testing.TB, certificate []byte) ca {
	t.Helper()
	cert, err := x509.ParseCertificate(certificate)
	must(t, err)
	a, err := devicecert.New(cert, repeating{key(t, "golden ca")})
	must(t, err)
	roots, err := devicecert.NewRoots(dev, cert)
	must(t, err)
	a.SetClock(cert.NotBefore.Add(time.Hour))
	return ca{a, cert, roots}
}

func readGolden(t testing.TB) golden {
	t.Helper()
	var g golden
	text, err := os.ReadFile(goldenPath)
	must(t, err)
	must(t, json.Unmarshal(text, &g))
	return g
}

// TestGolden makes the certificates again, under the CA that stands in the file, and compares.
func TestGolden(t *testing.T) {
	t.Parallel()
	var want golden
	if _, err := os.Stat(goldenPath); *update && errors.Is(err, fs.ErrNotExist) {
		want.CA = newCA(t, dev, "golden ca").cert.Raw // it has a random serial number: it is made once
	} else {
		want = readGolden(t)
	}
	a := goldenCA(t, want.CA)
	got := golden{CA: want.CA}
	for i, q := range []devicecert.Request{
		{Use: keypackage.UseSignature, Record: record(0xab), Identity: imei(t, "00440245000001")},
		{Use: keypackage.UseAgreement, Record: record(0xab)},
		{Use: keypackage.UseSignature},
		{Use: keypackage.UseAgreement, Identity: imei(t, "00440245000001")},
	} {
		q.Realm, q.ProductLine, q.Public, q.Serial = dev, "phone-a", public(t, "golden device"), big.NewInt(int64(1000+i))
		der, err := a.Certify(t.Context(), q)
		must(t, err)
		c, err := devicecert.Check(der, a.roots, devicecert.Want{Use: q.Use, Public: q.Public, Record: q.Record, Identity: q.Identity})
		must(t, err)
		g := goldenCertificate{Algorithm: keypackage.Algorithms(q.Use)[0], Public: q.Public.Point(), Certificate: der, Hash: ptr(c.Hash())[:], Record: hexBytes{}}
		if q.Record != nil {
			g.Record = q.Record[:]
		}
		if q.Identity != nil {
			g.URN = q.Identity.URN()
		}
		got.Certificates = append(got.Certificates, g)
	}
	if *update {
		out, err := json.MarshalIndent(got, "", "  ")
		must(t, err)
		must(t, os.MkdirAll("testdata", 0o755))
		must(t, os.WriteFile(goldenPath, append(bytes.TrimSpace(out), '\n'), 0o644))
		return
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
