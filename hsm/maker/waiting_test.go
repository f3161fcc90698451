package maker_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"testing"

	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/hsm/transport"
	"github.com/devicekeys/devicekeys/keypackage"
)

// TestWaiting: a key of each algorithm is made, waits wrapped, is fetched and wrapped to a device, which gets the very
// key: the one of the public half, or of the check value.
func TestWaiting(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	_, _, k := opened(t)
	for _, alg := range []keypackage.Algorithm{keypackage.ES256, keypackage.ECDH, keypackage.HMACSHA256, keypackage.AES256GCM} {
		w, err := k.Make(ctx, alg)
		if err != nil {
			t.Fatalf("%s: %v", alg, err)
		}
		encoded, err := w.Encode()
		if err != nil {
			t.Fatalf("%s: %v", alg, err)
		}
		if w, err = keypackage.ParseWaitingKey(encoded); err != nil {
			t.Fatalf("%s: %v", alg, err)
		}
		key, err := k.Fetch(ctx, w)
		if err != nil {
			t.Fatalf("%s: %v", alg, err)
		}
		private, public := peer(t)
		sender, err := k.NewSender(ctx, public)
		if err != nil {
			t.Fatal(err)
		}
		transcript := sha256.Sum256(public.Point())
		if err := sender.Bind(ctx, keypackage.SuiteAttested, transcript, false); err != nil {
			t.Fatal(err)
		}
		blob, err := sender.Wrap(ctx, key)
		if err != nil {
			t.Fatalf("%s: %v", alg, err)
		}
		value := unwrap(t, kdf1(t, agree(t, private, sender.Point()), keypackage.TransferContext(keypackage.SuiteAttested, keypackage.TransferKEK, transcript)), blob)
		if alg.Pair() {
			// PrivateKeyInfo, padded to the wrap's blocks.
			parsed, err := x509.ParsePKCS8PrivateKey(value[:2+int(value[1])])
			if err != nil {
				t.Fatalf("%s: %v", alg, err)
			}
			point, err := parsed.(*ecdsa.PrivateKey).PublicKey.Bytes()
			if err != nil || !bytes.Equal(point, w.Public) {
				t.Errorf("%s: the device got a key of another public half, %v", alg, err)
			}
		} else {
			msg := []byte("check")
			h := hmac.New(sha256.New, value)
			h.Write(msg)
			mac, err := k.CheckValue(ctx, w, msg)
			if err != nil || !bytes.Equal(mac, h.Sum(nil)) {
				t.Errorf("%s: another check value, or %v", alg, err)
			}
		}
		if err := key.Destroy(ctx); err != nil {
			t.Error(err)
		}
		if err := sender.Close(ctx); err != nil {
			t.Error(err)
		}
		if again, err := k.Make(ctx, alg); err != nil || bytes.Equal(again.Wrapped, w.Wrapped) {
			t.Errorf("%s: made twice, the same key, or %v", alg, err)
		}
	}
}

// TestWaitingRefuses: what doesn't unwrap, waits under the key of another class, or is no key.
func TestWaitingRefuses(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	_, _, k := opened(t)
	if _, err := k.Make(ctx, keypackage.None); err == nil {
		t.Error("it made a key for no algorithm")
	}
	pair, err := k.Make(ctx, keypackage.ES256)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := k.Make(ctx, keypackage.AES256GCM)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.CheckValue(ctx, pair, nil); err == nil {
		t.Error("a pair has a check value")
	}
	spoiled := secret
	spoiled.Wrapped = bytes.Clone(secret.Wrapped)
	spoiled.Wrapped[7] ^= 1
	foreign := pair
	foreign.Algorithm = keypackage.AES256GCM
	other := secret
	other.Algorithm = keypackage.ECDH
	for name, w := range map[string]keypackage.WaitingKey{"a changed blob": spoiled, "a pair as a secret key": foreign, "a secret key as a pair": other} {
		if _, err := k.Fetch(ctx, w); hsm.Classify(err) != hsm.DataFault {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestImport: keys from outside, wrapped to the transport key, wait like those that were made here.
func TestImport(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	_, _, k := opened(t)
	to, err := k.TransportKey()
	if err != nil {
		t.Fatal(err)
	}
	newPair := func() (point, blob []byte) {
		t.Helper()
		private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.MarshalPKCS8PrivateKey(private)
		if err != nil {
			t.Fatal(err)
		}
		if point, err = private.PublicKey.Bytes(); err != nil {
			t.Fatal(err)
		}
		if blob, err = transport.WrapSoftware(dev, to, "key/1", der); err != nil {
			t.Fatal(err)
		}
		return point, blob
	}
	_, other := peer(t)
	point, pair := newPair()
	secret, err := transport.WrapSoftware(dev, to, "key/2", make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	for _, alg := range []keypackage.Algorithm{keypackage.ES256, keypackage.ECDH} {
		point, pair := newPair() // signing and key agreement are two keys
		w, err := k.Import(ctx, alg, point, "key/1", pair)
		if err != nil {
			t.Fatalf("%s: %v", alg, err)
		}
		if key, err := k.Fetch(ctx, w); err != nil {
			t.Errorf("%s: %v", alg, err)
		} else if err := key.Destroy(ctx); err != nil {
			t.Error(err)
		}
		if _, err := k.Import(ctx, alg, other.Point(), "key/1", pair); hsm.Classify(err) != hsm.DataFault {
			t.Errorf("%s: another public half: %v", alg, err)
		}
	}
	if _, err := k.Import(ctx, keypackage.AES256GCM, nil, "key/2", secret); err != nil {
		t.Error(err)
	}
	for name, err := range map[string]error{
		"another label":     second(k.Import(ctx, keypackage.AES256GCM, nil, "key/1", secret)),
		"a pair as secret":  second(k.Import(ctx, keypackage.AES256GCM, nil, "key/1", pair)),
		"a secret as pair":  second(k.Import(ctx, keypackage.ES256, point, "key/2", secret)),
		"no public half":    second(k.Import(ctx, keypackage.ES256, nil, "key/1", pair)),
		"no key of any use": second(k.Import(ctx, keypackage.None, nil, "key/2", secret)),
	} {
		if err == nil {
			t.Errorf("%s was imported", name)
		}
	}
}

// TestImportSecret: a secret from outside comes to whom it was sent, under the label it was sent under, and no key passes for one.
func TestImportSecret(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	_, _, k := opened(t)
	to, err := k.TransportKey()
	if err != nil {
		t.Fatal(err)
	}
	blob, err := transport.SealSoftware(dev, to, "secret/1", []byte("a licensor's"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := k.ImportSecret(ctx, "secret/1", blob); err != nil || string(got) != "a licensor's" {
		t.Errorf("%q, %v", got, err)
	}
	key, err := transport.WrapSoftware(dev, to, "secret/1", make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	changed := bytes.Clone(blob)
	changed[len(changed)-1] ^= 1
	for name, c := range map[string]struct {
		label string
		blob  []byte
	}{"another label": {"secret/2", blob}, "a key": {"secret/1", key}, "a changed one": {"secret/1", changed}, "nothing": {"secret/1", nil}} {
		if got, err := k.ImportSecret(ctx, c.label, c.blob); err == nil {
			t.Errorf("%s was imported: %q", name, got)
		}
	}
	if _, err := k.Import(ctx, keypackage.HMACSHA256, nil, "secret/1", blob); err == nil {
		t.Error("a secret was imported as a key")
	}
}

func second(_ keypackage.WaitingKey, err error) error { return err }
