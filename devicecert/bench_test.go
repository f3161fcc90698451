package devicecert_test

import (
	"testing"

	"github.com/devicekeys/devicekeys/devicecert"
	"github.com/devicekeys/devicekeys/keypackage"
)

// BenchmarkCertify: both checks and both signatures, the CA's key in memory.
func BenchmarkCertify(b *testing.B) {
	c, q := newCA(b, dev, "ca"), request(b, keypackage.UseSignature)
	for b.Loop() {
		c.certify(b, q)
	}
}

func BenchmarkCheck(b *testing.B) {
	c := newCA(b, dev, "ca")
	der := c.certify(b, request(b, keypackage.UseSignature))
	for b.Loop() {
		if _, err := devicecert.Check(der, c.roots, devicecert.Want{}); err != nil {
			b.Fatal(err)
		}
	}
}
