package transport_test

import (
	"bytes"
	"crypto/ecdh"
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"

	"github.com/devicekeys/devicekeys/hsm/transport"
	"github.com/devicekeys/devicekeys/statement"
)

// TestGolden: the blobs that docs/formats.md prints are made of what this package makes them of.
func TestGolden(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../keypackage/testdata/golden.json")
	must(t, err)
	var golden map[string]string
	must(t, json.Unmarshal(text, &golden))
	value := func(name string) []byte {
		t.Helper()
		b, err := hex.DecodeString(golden["transport_"+name])
		if err != nil || len(b) == 0 {
			t.Fatalf("%s: %q, %v", name, golden["transport_"+name], err)
		}
		return b
	}
	own, err := ecdh.P256().NewPrivateKey(value("private"))
	must(t, err)
	ephemeral, err := ecdh.P256().NewPrivateKey(value("ephemeral"))
	must(t, err)
	to, err := statement.ParsePoint(own.PublicKey().Bytes())
	must(t, err)
	agreed, err := ephemeral.ECDH(own.PublicKey())
	must(t, err)
	label, e := string(value("label")), ephemeral.PublicKey().Bytes()

	context := transport.KEKContext(dev, to.Point(), e, label)
	if !bytes.Equal(context, value("kek_context")) {
		t.Errorf("context %x", context)
	}
	kek, err := transport.KDF1(agreed, context)
	must(t, err)
	if !bytes.Equal(kek, value("kek")) {
		t.Errorf("KEK %x", kek)
	}
	drm := make([]byte, 32)
	for i := range drm {
		drm[i] = 0x80 + byte(i)
	}
	wrapped, err := transport.WrapKey(kek, drm)
	must(t, err)
	if blob := transport.Encode(dev, to, e, label, wrapped); !bytes.Equal(blob, value("blob")) {
		t.Errorf("blob %x", blob)
	}
}
