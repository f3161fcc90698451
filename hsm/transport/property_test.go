package transport_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"testing"

	"pgregory.net/rapid"

	"github.com/devicekeys/devicekeys/detcbor/detcbortest"
	"github.com/devicekeys/devicekeys/hsm/transport"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/statement"
)

// TestOneEncoding: whatever is sent has one encoding.
func TestOneEncoding(t *testing.T) {
	t.Parallel()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	public, err := statement.FromECDSA(&private.PublicKey)
	must(t, err)
	rapid.Check(t, func(t *rapid.T) {
		realm := rapid.SampledFrom([]identity.Realm{identity.Development, identity.Production}).Draw(t, "realm")
		label := rapid.StringMatching(`[ -~]{1,128}`).Draw(t, "label")
		size := rapid.SampledFrom([]int{32, 72}).Draw(t, "size")
		blob, err := transport.WrapSoftware(realm, public, label, make([]byte, size))
		if err != nil {
			t.Fatal(err)
		}
		detcbortest.OneEncoding(t, "blob", blob, again)
	})
}
