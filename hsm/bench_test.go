package hsm_test

import (
	"testing"

	"github.com/devicekeys/devicekeys/hsm"
)

// BenchmarkDevice is what the SPP's token does for one device with one symmetric key:
// key agreement, device key, wrapping, sealing, signature, confirmation. It reports
// PKCS#11 calls for each device.
func BenchmarkDevice(b *testing.B) {
	ctx := b.Context()
	tok, dev := token(b), token(b)
	master := generate(b, tok, hsm.Spec{Kind: hsm.MasterKey, Label: "master", Token: true})
	purpose := mustPurpose(b, tok, master)
	identity := generate(b, tok, hsm.Spec{Kind: hsm.IdentitySigningKey, Label: "identity", Token: true})
	peer := generate(b, dev, hsm.Spec{Kind: hsm.EphemeralKey}).Public()
	digest := make([]byte, 32)
	before := sum(module.Calls())
	for b.Loop() {
		e := generate(b, tok, hsm.Spec{Kind: hsm.EphemeralKey})
		agreed, err := tok.Agree(ctx, e, peer, hsm.Spec{Kind: hsm.AgreedKey})
		if err != nil {
			b.Fatal(err)
		}
		d := derive(b, tok, purpose, "device", hsm.DeviceKey)
		m := mac(b, d, "check")
		kek, seal := derive(b, tok, agreed, "kek", hsm.TransferWrapKey), derive(b, tok, agreed, "pkg", hsm.TransferSealKey)
		wrap(b, tok, kek, d)
		if _, _, err := seal.Seal(ctx, []byte("aad"), m); err != nil {
			b.Fatal(err)
		}
		if _, err := identity.Sign(ctx, digest); err != nil {
			b.Fatal(err)
		}
		if err := d.Verify(ctx, []byte("check"), m); err != nil {
			b.Fatal(err)
		}
		for _, k := range []*hsm.Key{e, agreed, kek, seal, d} {
			if err := k.Destroy(ctx); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(sum(module.Calls())-before)/float64(b.N), "calls/op")
}

func BenchmarkDerive(b *testing.B) {
	tok := token(b)
	base := mustPurpose(b, tok, generate(b, tok, hsm.Spec{Kind: hsm.MasterKey, Label: "master", Token: true}))
	for b.Loop() {
		if err := derive(b, tok, base, "device", hsm.DeviceKey).Destroy(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSeal(b *testing.B) {
	tok := token(b)
	k := generate(b, tok, hsm.Spec{Kind: hsm.PoolSealKey, Label: "seal", Token: true})
	hot, err := tok.Hot(b.Context(), k)
	if err != nil {
		b.Fatal(err)
	}
	for name, k := range map[string]*hsm.Key{"token": k, "hot": hot} {
		b.Run(name, func(b *testing.B) {
			plaintext := make([]byte, 512)
			for b.Loop() {
				if _, _, err := k.Seal(b.Context(), []byte("aad"), plaintext); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkSign(b *testing.B) {
	tok := token(b)
	k := generate(b, tok, hsm.Spec{Kind: hsm.IdentitySigningKey, Label: "identity", Token: true})
	digest := make([]byte, 32)
	for b.Loop() {
		if _, err := k.Sign(b.Context(), digest); err != nil {
			b.Fatal(err)
		}
	}
}
