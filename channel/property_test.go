package channel_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/devicekeys/devicekeys/channel"
	"github.com/devicekeys/devicekeys/detcbor/detcbortest"
	"github.com/devicekeys/devicekeys/identity"
)

// TestOneEncoding: any hello and any greeting has one encoding.
func TestOneEncoding(t *testing.T) {
	t.Parallel()
	someone := imei(t, 1)
	rapid.Check(t, func(t *rapid.T) {
		h := channel.Hello{
			Suite:      rapid.SampledFrom([]channel.Suite{channel.SuiteNoise, channel.SuiteTLS, channel.SuiteCertificate}).Draw(t, "suite"),
			Realm:      rapid.SampledFrom([]identity.Realm{identity.Development, identity.Production}).Draw(t, "realm"),
			Identity:   someone,
			Generation: identity.Generation(rapid.Uint32Min(1).Draw(t, "generation")),
		}
		h.Key.Name = rapid.StringMatching(`[a-z0-9-]{1,32}`).Draw(t, "name")
		if h.Suite != channel.SuiteCertificate && rapid.Bool().Draw(t, "derived") {
			h.Key.KDF, h.Key.Version = 1, rapid.Uint32Min(1).Draw(t, "version")
		}
		b, err := h.Encode()
		if err != nil {
			t.Fatal(err)
		}
		detcbortest.OneEncoding(t, "hello", b, func(b []byte) ([]byte, error) {
			h, err := channel.ParseHello(b)
			if err != nil {
				return nil, err
			}
			again, err := h.Encode()
			if err != nil {
				t.Fatalf("it reads, and can't be written: %v", err)
			}
			return again, nil
		})
		at := time.Unix(rapid.Int64Range(0, 1<<40).Draw(t, "at"), 0)
		detcbortest.OneEncoding(t, "greeting", channel.NewGreeting(at), channel.Regreet)
	})
}
