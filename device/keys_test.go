package device_test

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"testing"

	"github.com/devicekeys/devicekeys/channel"
	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/device"
	"github.com/devicekeys/devicekeys/device/chip/chiptest"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
)

// TestKeys: after a restoration each key does what it is for, and nothing else.
func TestKeys(t *testing.T) {
	onEachChip(t, func(t *testing.T, make maker) {
		u := newUnit(t, make, chiptest.NewSPP(t, identity.Development))
		a, _ := u.provision(t, chiptest.Order{Items: chiptest.Everything()}, nil)
		ctx := t.Context()
		if _, err := u.Boot(ctx); err != nil {
			t.Fatal(err)
		}

		// The channel's messages and no other: not the line's.
		labelled, err := detcbor.Marshal([]any{"dk-channel-psk", 1, []byte{2}, []byte{3}, []byte{4}})
		must(t, err)
		if !channel.Labelled(labelled) {
			t.Fatal("this is no message of the channel: the test proves nothing")
		}
		mac, err := u.MAC(ctx, "channel", labelled)
		must(t, err)
		if want := chiptest.MAC(a.Items[0].Value, labelled); !bytes.Equal(mac, want) {
			t.Error("the MAC is another one than the standard library's")
		}
		var challenge [32]byte
		for _, msg := range [][]byte{nil, []byte("dk"), keypackage.AliveMessage(sha256.Sum256(a.Certificate.ClaimsBytes()), challenge)} {
			if _, err := u.MAC(ctx, "channel", msg); err == nil {
				t.Errorf("a MAC over %q, which is none of the channel's", msg)
			}
		}

		signer, err := u.Signer(ctx, "signing")
		must(t, err)
		digest := sha256.Sum256([]byte("something of TLS"))
		sig, err := signer.Sign(rand.Reader, digest[:], crypto.SHA256)
		must(t, err)
		if !ecdsa.VerifyASN1(signer.Public().(*ecdsa.PublicKey), digest[:], sig) {
			t.Error("the signature doesn't verify")
		}
		if _, err := signer.Sign(rand.Reader, digest[:20], crypto.SHA1); err == nil {
			t.Error("a SHA-1 digest was signed")
		}
		u.reset(t)
		if _, err := u.Boot(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := signer.Sign(rand.Reader, digest[:], crypto.SHA256); err == nil {
			t.Error("a signer of a device that was closed signs")
		}

		peer, err := ecdh.P256().GenerateKey(rand.Reader)
		must(t, err)
		public, err := ecdh.P256().NewPublicKey(a.Manifest.Entries[6].Vouch)
		must(t, err)
		want, err := peer.ECDH(public)
		must(t, err)
		got, err := u.Agreer("agreement").Agree(ctx, peer.PublicKey().Bytes())
		must(t, err)
		if !bytes.Equal(want, got) {
			t.Error("the two ends agree on different secrets")
		}

		for name, err := range map[string]error{
			"a MAC with a pair":      second(u.MAC(ctx, "signing", labelled)),
			"a signer of a MAC key":  second(u.Signer(ctx, "channel")),
			"agreement with a third": second(u.Agree(ctx, "signing", peer.PublicKey().Bytes())),
			"no such entry":          second(u.MAC(ctx, "nothing", labelled)),
		} {
			if !errors.Is(err, device.ErrNoEntry) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

func second[T any](_ T, err error) error { return err }
