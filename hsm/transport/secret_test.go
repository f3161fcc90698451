package transport_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/devicekeys/devicekeys/detcbor/detcbortest"
	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/hsm/transport"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/softhsm"
	"github.com/devicekeys/devicekeys/statement"
)

// TestSecret: a secret of any length opens in the token it was sent to, as what it was sent as, and no key is left there.
func TestSecret(t *testing.T) {
	t.Parallel()
	ctx, h := t.Context(), softhsm.New(t)
	to, own, public := recipient(t, h, "to")
	for _, n := range []int{1, 16, 31, 4095, keypackage.MaxSecret} {
		secret := make([]byte, n)
		rand.Read(secret)
		blob, err := transport.SealSoftware(dev, public, "secret a", secret)
		must(t, err)
		if len(blob) > transport.MaxSecretBlob || bytes.Contains(blob, secret) && n > 8 {
			t.Errorf("%d bytes: a blob of %d", n, len(blob))
		}
		got, err := transport.Open(ctx, to, own, dev, "secret a", blob)
		if err != nil || !bytes.Equal(got, secret) {
			t.Errorf("%d bytes: %d came, %v", n, len(got), err)
		}
	}
	longest := strings.Repeat("l", transport.MaxLabel)
	blob, err := transport.SealSoftware(dev, public, longest, make([]byte, keypackage.MaxSecret))
	must(t, err)
	_, err = transport.Open(ctx, to, own, dev, longest, blob)
	must(t, err)
	for name, err := range map[string]error{
		"no secret":     second(transport.SealSoftware(dev, public, "a", nil)),
		"a long secret": second(transport.SealSoftware(dev, public, "a", make([]byte, keypackage.MaxSecret+1))),
		"no label":      second(transport.SealSoftware(dev, public, "", []byte{1})),
		"a long label":  second(transport.SealSoftware(dev, public, longest+"l", []byte{1})),
	} {
		if err == nil {
			t.Errorf("%s was sealed", name)
		}
	}
}

func second(_ []byte, err error) error { return err }

// TestSecretRefused: a secret for another key, realm or label, or one that was changed, opens as nothing; and no key
// passes as a secret, nor a secret as a key, whatever it is labelled as.
func TestSecretRefused(t *testing.T) {
	t.Parallel()
	ctx, h := t.Context(), softhsm.New(t)
	to, own, public := recipient(t, h, "to")
	other, others, _ := recipient(t, h, "other")
	secret := make([]byte, 32)
	blob, err := transport.SealSoftware(dev, public, "label", secret)
	must(t, err)
	for name, open := range map[string]func() ([]byte, error){
		"another's key":   func() ([]byte, error) { return transport.Open(ctx, other, others, dev, "label", blob) },
		"another realm":   func() ([]byte, error) { return transport.Open(ctx, to, own, identity.Production, "label", blob) },
		"another's label": func() ([]byte, error) { return transport.Open(ctx, to, own, dev, "another", blob) },
	} {
		if _, err := open(); !errors.Is(err, transport.ErrOther) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for i := range blob {
		changed := bytes.Clone(blob)
		changed[i] ^= 1
		if _, err := transport.Open(ctx, to, own, dev, "label", changed); err == nil {
			t.Errorf("byte %d changed: it opens", i)
		}
	}
	// The header of one around the content of the other.
	sent, err := keypackage.ParseTransportSecret(blob)
	must(t, err)
	renamed := sent
	renamed.Label = "another"
	if _, err := transport.Open(ctx, to, own, dev, "another", renamed.Encode()); hsm.Classify(err) != hsm.DataFault {
		t.Errorf("labelled as another's: %v", err)
	}
	key, err := transport.WrapSoftware(dev, public, "label", make([]byte, 32))
	must(t, err)
	wrapped, err := keypackage.ParseTransportBlob(key)
	must(t, err)
	crossed := sent
	crossed.Point, crossed.Sealed.Ciphertext = wrapped.Point, wrapped.Wrapped
	for name, b := range map[string][]byte{"a key": key, "a key, framed as a secret": crossed.Encode()} {
		if _, err := transport.Open(ctx, to, own, dev, "label", b); err == nil {
			t.Errorf("%s opens as a secret", name)
		}
	}
	wrapped.Point, wrapped.Wrapped = sent.Point, sent.Sealed.Ciphertext // 48 bytes, as of a key of 40
	for name, b := range map[string][]byte{"a secret": blob, "a secret, framed as a key": wrapped.Encode()} {
		if _, err := transport.Unwrap(ctx, to, own, dev, "label", b, hsm.Spec{Kind: hsm.ChannelDeviceKey}); err == nil {
			t.Errorf("%s unwraps as a key", name)
		}
	}
}

// TestSecretOneEncoding: whatever secret is sent has one encoding.
func TestSecretOneEncoding(t *testing.T) {
	t.Parallel()
	public := newPublic(t)
	rapid.Check(t, func(t *rapid.T) {
		realm := rapid.SampledFrom([]identity.Realm{identity.Development, identity.Production}).Draw(t, "realm")
		label := rapid.StringMatching(`[ -~]{1,128}`).Draw(t, "label")
		blob, err := transport.SealSoftware(realm, public, label, make([]byte, rapid.IntRange(1, 300).Draw(t, "size")))
		if err != nil {
			t.Fatal(err)
		}
		detcbortest.OneEncoding(t, "secret", blob, secretAgain)
	})
}

// FuzzParseSecret: what reads as a secret that was sent is written as the same bytes.
func FuzzParseSecret(f *testing.F) {
	public := newPublic(f)
	for _, n := range []int{1, 16, 4096} {
		blob, err := transport.SealSoftware(dev, public, "secret urn:dev:mac:020000000001 drm", make([]byte, n))
		must(f, err)
		f.Add(blob)
		f.Add(blob[:len(blob)-1])
		f.Add(append(bytes.Clone(blob), 0))
	}
	key, err := transport.WrapSoftware(dev, public, "label", make([]byte, 32))
	must(f, err)
	f.Add(key)
	f.Add([]byte{0x86, 2, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := keypackage.ParseTransportSecret(b)
		if err != nil {
			return
		}
		if n := len(s.Sealed.Ciphertext) - keypackage.TagSize; s.Label == "" || len(s.Label) > transport.MaxLabel || len(b) > transport.MaxSecretBlob || n < 1 || n > keypackage.MaxSecret {
			t.Errorf("label %q of %d bytes, a secret of %d", s.Label, len(b), n)
		}
		if back := s.Encode(); !bytes.Equal(back, b) {
			t.Errorf("%x reads, and is written as %x", b, back)
		}
		if _, err := keypackage.ParseTransportBlob(b); err == nil {
			t.Errorf("%x reads as a key too", b)
		}
	})
}

// FuzzOpen: a token opens what was sent to it and nothing else.
func FuzzOpen(f *testing.F) {
	h := softhsm.New(f)
	tok, own, public := recipient(f, h, "to")
	secret := []byte("73318500")
	blob, err := transport.SealSoftware(dev, public, "label", secret)
	must(f, err)
	f.Add(blob)
	for _, i := range []int{0, 10, 60, len(blob) - 20, len(blob) - 1} {
		changed := bytes.Clone(blob)
		changed[i] ^= 1
		f.Add(changed)
	}
	longer, err := transport.SealSoftware(dev, public, "label", make([]byte, keypackage.MaxSecret))
	must(f, err)
	f.Add(longer[:len(longer)-1])
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := transport.Open(t.Context(), tok, own, dev, "label", b)
		if (err == nil) != bytes.Equal(b, blob) || err == nil && !bytes.Equal(got, secret) {
			t.Fatalf("opened %x: %v", b, err)
		}
	})
}

func newPublic(t testing.TB) statement.PublicKey {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	public, err := statement.FromECDSA(&private.PublicKey)
	must(t, err)
	return public
}

func secretAgain(b []byte) ([]byte, error) {
	s, err := keypackage.ParseTransportSecret(b)
	if err != nil {
		return nil, err
	}
	return s.Encode(), nil
}
