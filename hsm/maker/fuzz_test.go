package maker

import (
	"bytes"
	"strings"
	"testing"

	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/identity"
)

// FuzzRecord reads any data object of the token as a key's record: what passes
// has one encoding, stands under its own label and can't be changed.
func FuzzRecord(f *testing.F) {
	for _, r := range []record{
		{Version: 1, Realm: identity.Development, Master: 1, KDF: hsm.KDF1},
		{Version: 1, Realm: identity.Development, Master: 2, KDF: hsm.KDF2, Purpose: "channel"},
		{Version: 1, Realm: identity.Production, Master: 1, KDF: hsm.KDF1},
	} {
		b := detcbor.Must(r)
		f.Add(b, r.label(), true, true)
		f.Add(b, r.label()+"x", true, true)
		f.Add(b[:len(b)-1], r.label(), true, false)
	}
	f.Fuzz(func(t *testing.T, b []byte, label string, private, oneWay bool) {
		r, err := parseRecord(hsm.Data{Application: application, Label: label, Value: b, Private: private, OneWay: oneWay}, identity.Development)
		if err != nil {
			return
		}
		if !bytes.Equal(detcbor.Must(r), b) || r.label() != label || !strings.HasPrefix(label, "dev-") || !private || !oneWay || len(b) > maxRecord {
			t.Fatalf("%x under %q passes as %+v", b, label, r)
		}
	})
}
