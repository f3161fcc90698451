package transport_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"github.com/devicekeys/devicekeys/keypackage"
	"os"
	"testing"

	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/hsm/transport"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/softhsm"
	"github.com/devicekeys/devicekeys/statement"
)

const dev = identity.Development

func TestMain(m *testing.M) { os.Exit(softhsm.Main(m)) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// recipient gives a token with its transport key.
func recipient(t testing.TB, h *softhsm.HSM, name string) (*hsm.Token, *hsm.Key, statement.PublicKey) {
	t.Helper()
	tok := h.Open(t, h.Token(t, name))
	own, err := tok.Generate(t.Context(), transport.Spec(dev))
	must(t, err)
	public, err := statement.ParsePoint(own.Public())
	must(t, err)
	return tok, own, public
}

// TestTransport: a key made in one token, and one from software, are the same in the other.
func TestTransport(t *testing.T) {
	t.Parallel()
	ctx, h := t.Context(), softhsm.New(t)
	to, own, public := recipient(t, h, "to")
	from := h.Open(t, h.Token(t, "from"))
	key, err := from.Generate(ctx, hsm.Spec{Kind: hsm.DeviceKey})
	must(t, err)
	blob, err := transport.Wrap(ctx, from, dev, public, "a device's key", key)
	must(t, err)
	if label, err := transport.ReadLabel(blob); err != nil || label != "a device's key" {
		t.Errorf("%q, %v", label, err)
	}
	got, err := transport.Unwrap(ctx, to, own, dev, "a device's key", blob, hsm.Spec{Kind: hsm.ChannelDeviceKey})
	must(t, err)
	mac, err := key.MAC(ctx, []byte("message"))
	must(t, err)
	must(t, got.Verify(ctx, []byte("message"), mac))

	value := make([]byte, 32)
	rand.Read(value)
	blob, err = transport.WrapSoftware(dev, public, "from outside", value)
	must(t, err)
	got, err = transport.Unwrap(ctx, to, own, dev, "from outside", blob, hsm.Spec{Kind: hsm.ChannelDeviceKey})
	must(t, err)
	want := hmac.New(sha256.New, value)
	want.Write([]byte("message"))
	must(t, got.Verify(ctx, []byte("message"), want.Sum(nil)))

	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(private)
	must(t, err)
	point, err := private.PublicKey.Bytes()
	must(t, err)
	blob, err = transport.WrapSoftware(dev, public, "a pair", der)
	must(t, err)
	pair, err := transport.Unwrap(ctx, to, own, dev, "a pair", blob, hsm.Spec{Kind: hsm.DeviceSigningKey})
	must(t, err)
	must(t, pair.Matches(ctx, point))
}

// TestRefused: a blob for another key, realm or label, or one that was changed, opens as nothing.
func TestRefused(t *testing.T) {
	t.Parallel()
	ctx, h := t.Context(), softhsm.New(t)
	to, own, public := recipient(t, h, "to")
	other, others, _ := recipient(t, h, "other")
	blob, err := transport.WrapSoftware(dev, public, "label", make([]byte, 32))
	must(t, err)
	spec := hsm.Spec{Kind: hsm.ChannelDeviceKey}
	if _, err := transport.Unwrap(ctx, other, others, dev, "label", blob, spec); !errors.Is(err, transport.ErrOther) {
		t.Errorf("another's key: %v", err)
	}
	if _, err := transport.Unwrap(ctx, to, own, identity.Production, "label", blob, spec); !errors.Is(err, transport.ErrOther) {
		t.Errorf("another realm: %v", err)
	}
	if _, err := transport.Unwrap(ctx, to, own, dev, "another", blob, spec); !errors.Is(err, transport.ErrOther) {
		t.Errorf("another label: %v", err)
	}
	for i := range blob {
		changed := bytes.Clone(blob)
		changed[i] ^= 1
		if _, err := transport.Unwrap(ctx, to, own, dev, "label", changed, spec); err == nil {
			t.Errorf("byte %d changed: it opens", i)
		}
	}
	if _, err := transport.WrapSoftware(dev, public, "", make([]byte, 32)); err == nil {
		t.Error("a blob without label")
	}
}

// FuzzReadLabel: a blob reads or doesn't.
// FuzzReadLabel: what reads as something sent is written as the same bytes.
func FuzzReadLabel(f *testing.F) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(f, err)
	public, err := statement.FromECDSA(&private.PublicKey)
	must(f, err)
	blob, err := transport.WrapSoftware(dev, public, "purpose/channel/1/1", make([]byte, 32))
	must(f, err)
	f.Add(blob)
	f.Add(blob[:len(blob)-1])
	f.Add(append(bytes.Clone(blob), 0))
	f.Add([]byte{0x86, 1, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		label, err := transport.ReadLabel(b)
		if err != nil {
			return
		}
		if label == "" || len(label) > transport.MaxLabel || len(b) > transport.MaxBlob {
			t.Errorf("label %q of %d bytes", label, len(b))
		}
		if back, err := again(b); err != nil || !bytes.Equal(back, b) {
			t.Errorf("%x reads, and is written as %x: %v", b, back, err)
		}
	})
}

// FuzzUnwrap: a token unwraps what was sent to it and nothing else, and no key of a refused one is left.
func FuzzUnwrap(f *testing.F) {
	h := softhsm.New(f)
	tok, own, public := recipient(f, h, "to")
	value := make([]byte, 32)
	blob, err := transport.WrapSoftware(dev, public, "label", value)
	must(f, err)
	f.Add(blob)
	for _, i := range []int{0, 10, 60, len(blob) - 50, len(blob) - 1} {
		changed := bytes.Clone(blob)
		changed[i] ^= 1
		f.Add(changed)
	}
	longer, err := transport.WrapSoftware(dev, public, "label", make([]byte, 72))
	must(f, err)
	f.Add(longer)
	f.Fuzz(func(t *testing.T, b []byte) {
		key, err := transport.Unwrap(t.Context(), tok, own, dev, "label", b, hsm.Spec{Kind: hsm.ChannelDeviceKey})
		if err == nil {
			must(t, key.Destroy(t.Context()))
		}
		if (err == nil) != bytes.Equal(b, blob) {
			t.Fatalf("unwrapped %x: %v", b, err)
		}
	})
}

// again reads a blob and writes what it read.
func again(blob []byte) ([]byte, error) {
	b, err := keypackage.ParseTransportBlob(blob)
	if err != nil {
		return nil, err
	}
	return b.Encode(), nil
}
