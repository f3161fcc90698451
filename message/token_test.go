package message_test

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/message"
	"github.com/devicekeys/devicekeys/softhsm"
	"github.com/devicekeys/devicekeys/statement"
)

// resident is a device's agreement key in its token.
type resident struct{ key *hsm.Key }

func (r resident) Agree(ctx context.Context, peer []byte) ([]byte, error) {
	return r.key.SharedSecret(ctx, peer)
}

// TestToken opens a message with a key that was made in the SPP's token, wrapped to the device's, wrapped there under the
// chip key and unwrapped at boot, where it stays.
func TestToken(t *testing.T) {
	t.Parallel()
	h := softhsm.New(t)
	ctx, spp, chip := t.Context(), h.Open(t, h.Token(t, "spp")), h.Open(t, h.Token(t, "chip"))
	made := func(k *hsm.Key, err error) *hsm.Key {
		t.Helper()
		must(t, err)
		return k
	}
	wrapped := func(b []byte, err error) []byte {
		t.Helper()
		must(t, err)
		return b
	}
	e1 := made(spp.Generate(ctx, hsm.Spec{Kind: hsm.EphemeralKey}))
	e2 := made(chip.Generate(ctx, hsm.Spec{Kind: hsm.EphemeralKey}))
	kek := made(spp.Derive(ctx, made(spp.Agree(ctx, e1, e2.Public(), hsm.Spec{Kind: hsm.AgreedKey})), hsm.KDF1, []byte("kek"), hsm.Spec{Kind: hsm.TransferWrapKey}))
	unkek := made(chip.Derive(ctx, made(chip.Agree(ctx, e2, e1.Public(), hsm.Spec{Kind: hsm.AgreedKey})), hsm.KDF1, []byte("kek"), hsm.Spec{Kind: hsm.TransferUnwrapKey}))
	pair := made(spp.Generate(ctx, hsm.Spec{Kind: hsm.DeviceAgreementKey}))
	inbound := made(chip.Unwrap(ctx, unkek, wrapped(spp.Wrap(ctx, kek, pair)), hsm.Spec{Kind: hsm.InboundAgreementKey}))
	own := made(chip.Generate(ctx, hsm.Spec{Kind: hsm.ChipKey, Label: "chip", Token: true}))
	chipWrap := made(chip.Derive(ctx, own, hsm.KDF1, []byte("wrap"), hsm.Spec{Kind: hsm.ChipWrapKey}))
	boot := made(chip.Derive(ctx, own, hsm.KDF1, []byte("wrap"), hsm.Spec{Kind: hsm.ChipBootUnwrapKey}))
	home := made(chip.Unwrap(ctx, boot, wrapped(chip.Wrap(ctx, chipWrap, inbound)), hsm.Spec{Kind: hsm.ResidentAgreementKey}))

	public, err := statement.ParsePoint(pair.Public())
	must(t, err)
	to := message.Recipient{Key: resident{home}, Certificate: certify(t, public, dev, keypackage.UseAgreement)}
	from := newSoftware(t, "sender")
	m := newMessage(t, "hello, token")
	raw, err := message.Seal(ctx, to.Certificate, m, from)
	must(t, err)
	got, err := message.Open(ctx, to, raw, message.Policy{Senders: []statement.PublicKey{from.public}})
	must(t, err)
	if diff := cmp.Diff(m, got.Message); diff != "" || got.Sender != from.public {
		t.Errorf("%s, sender %s", diff, got.Sender)
	}
}
