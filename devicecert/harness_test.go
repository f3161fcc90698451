package devicecert_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"io"
	"testing"
	"time"

	"github.com/devicekeys/devicekeys/devicecert"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/statement"
)

const (
	dev  = identity.Development
	prod = identity.Production
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// key gives the key of a name: the same name gives the same key.
func key(t testing.TB, name string) *ecdsa.PrivateKey {
	t.Helper()
	d := sha256.Sum256([]byte("devicecert test key " + name))
	k, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), d[:])
	must(t, err)
	return k
}

func public(t testing.TB, name string) statement.PublicKey {
	t.Helper()
	p, err := statement.FromECDSA(&key(t, name).PublicKey)
	must(t, err)
	return p
}

// repeating is a signer whose signatures don't change: RFC 6979.
type repeating struct{ *ecdsa.PrivateKey }

func (r repeating) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return r.PrivateKey.Sign(nil, digest, opts)
}

// ca is a CA of a realm, with its roots.
type ca struct {
	*devicecert.Authority
	cert  *x509.Certificate
	roots *devicecert.Roots
}

func newCA(t testing.TB, realm identity.Realm, name string) ca {
	t.Helper()
	signer := repeating{key(t, name)}
	cert, err := devicecert.SelfSigned(realm, "Example Devices", signer)
	must(t, err)
	a, err := devicecert.New(cert, signer)
	must(t, err)
	roots, err := devicecert.NewRoots(realm, cert)
	must(t, err)
	return ca{a, cert, roots}
}

func record(b byte) *identity.RecordID {
	r := identity.RecordID{0: b, 31: 1}
	return &r
}

func imei(t testing.TB, s string) identity.Identity {
	t.Helper()
	i, err := identity.ParseIMEI(s)
	must(t, err)
	return i
}

func request(t testing.TB, u keypackage.Use) devicecert.Request {
	t.Helper()
	return devicecert.Request{Realm: dev, Use: u, Public: public(t, "device"), Record: record(0xab), ProductLine: "phone-a"}
}

func (c ca) certify(t testing.TB, r devicecert.Request) []byte {
	t.Helper()
	der, err := c.Certify(t.Context(), r)
	must(t, err)
	return der
}

// issued is a fixed time of issue, after the CAs of these tests came to be valid.
func issued(c ca) time.Time { return c.cert.NotBefore.Add(time.Hour).Truncate(time.Second) }
