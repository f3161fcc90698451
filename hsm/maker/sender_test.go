package maker_test

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"sync"
	"testing"

	"github.com/devicekeys/devicekeys/hsm/maker"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/statement"
)

// kdf1 is KDF 1 in software, from its definition: AES-256-CBC with a zero IV over SHA-256 of the context.
func kdf1(t testing.TB, key, context []byte) []byte {
	t.Helper()
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	in := sha256.Sum256(context)
	out := make([]byte, len(in))
	cipher.NewCBCEncrypter(block, make([]byte, aes.BlockSize)).CryptBlocks(out, in[:])
	return out
}

// unwrap is AES key unwrap in software, RFC 3394 §2.2.2.
func unwrap(t testing.TB, kek, blob []byte) []byte {
	t.Helper()
	block, err := aes.NewCipher(kek)
	if err != nil {
		t.Fatal(err)
	}
	n := len(blob)/8 - 1
	a, r := bytes.Clone(blob[:8]), bytes.Clone(blob[8:])
	for j := 5; j >= 0; j-- {
		for i := n; i >= 1; i-- {
			b := append(binary.BigEndian.AppendUint64(nil, binary.BigEndian.Uint64(a)^uint64(n*j+i)), r[8*(i-1):8*i]...)
			block.Decrypt(b, b)
			copy(a, b[:8])
			copy(r[8*(i-1):], b[8:])
		}
	}
	if !bytes.Equal(a, bytes.Repeat([]byte{0xa6}, 8)) {
		t.Fatal("the wrapped key does not unwrap: its check block is wrong")
	}
	return r
}

func agree(t testing.TB, private *ecdh.PrivateKey, point statement.PublicKey) []byte {
	t.Helper()
	public, err := ecdh.P256().NewPublicKey(point.Point())
	if err != nil {
		t.Fatal(err)
	}
	secret, err := private.ECDH(public)
	if err != nil {
		t.Fatal(err)
	}
	return secret
}

// transfer sends one device key and a secret to a software device, which checks both.
func transfer(t testing.TB, k *maker.Keys, s sample) {
	t.Helper()
	ctx := t.Context()
	private, public := peer(t)
	key := deviceKey(t, k, s, channel)
	sender, err := k.NewSender(ctx, public)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := sender.Close(ctx); err != nil {
			t.Error(err)
		}
	}()
	transcript := sha256.Sum256(public.Point())
	if err := sender.Bind(ctx, keypackage.SuiteAttested, transcript, true); err != nil {
		t.Fatal(err)
	}
	blob, err := sender.Wrap(ctx, key)
	if err != nil {
		t.Fatal(err)
	}
	secrets := []byte("SIM-lock code 12345678")
	sealed, err := sender.Seal(ctx, transcript, secrets)
	if err != nil {
		t.Fatal(err)
	}

	agreed := agree(t, private, sender.Point())
	bytes32 := unwrap(t, kdf1(t, agreed, keypackage.TransferContext(keypackage.SuiteAttested, keypackage.TransferKEK, transcript)), blob)
	msg := []byte("message")
	h := hmac.New(sha256.New, bytes32)
	h.Write(msg)
	if err := key.Verify(ctx, msg, h.Sum(nil)); err != nil {
		t.Errorf("the device's key is another than the SPP's: %v", err)
	}
	block, err := aes.NewCipher(kdf1(t, agreed, keypackage.TransferContext(keypackage.SuiteAttested, keypackage.TransferPackage, transcript)))
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	plaintext, err := gcm.Open(nil, sealed.Nonce[:], sealed.Ciphertext, keypackage.SealedAAD(keypackage.PackageAAD(transcript)))
	if err != nil || !bytes.Equal(plaintext, secrets) {
		t.Errorf("the device opens %q, %v", plaintext, err)
	}
}

func TestSender(t *testing.T) {
	t.Parallel()
	_, _, k := opened(t)
	transfer(t, k, device(t, 1))
}

// TestSendersAtOnce: many transfers at a time, each to its own device, more of them than sessions.
func TestSendersAtOnce(t *testing.T) {
	t.Parallel()
	_, _, k := opened(t)
	var all sync.WaitGroup
	for g := range 16 {
		all.Go(func() {
			for i := range 3 {
				transfer(t, k, device(t, 100*g+i))
			}
		})
	}
	all.Wait()
}

func TestSenderRefuses(t *testing.T) {
	t.Parallel()
	_, _, k := opened(t)
	_, _, other := opened(t)
	ctx := t.Context()
	s := device(t, 1)
	key, foreign := deviceKey(t, k, s, channel), deviceKey(t, other, s, channel)
	_, public := peer(t)
	var transcript, wrong [32]byte
	wrong[0] = 1
	begin := func() keypackage.Sender {
		sender, err := k.NewSender(ctx, public)
		if err != nil {
			t.Fatal(err)
		}
		return sender
	}
	bound := func(secrets bool) keypackage.Sender {
		sender := begin()
		if err := sender.Bind(ctx, keypackage.SuiteUnattested, transcript, secrets); err != nil {
			t.Fatal(err)
		}
		return sender
	}
	for _, c := range []struct {
		name string
		act  func() error
	}{
		{"no point", func() error { _, err := k.NewSender(ctx, statement.PublicKey{}); return err }},
		{"unknown suite", func() error { return begin().Bind(ctx, 3, transcript, false) }},
		{"bind twice", func() error { return bound(false).Bind(ctx, keypackage.SuiteAttested, transcript, false) }},
		{"wrap unbound", func() error { _, err := begin().Wrap(ctx, key); return err }},
		{"wrap another token's key", func() error { _, err := bound(false).Wrap(ctx, foreign); return err }},
		{"wrap nothing", func() error { _, err := bound(false).Wrap(ctx, nil); return err }},
		{"seal without secrets", func() error { _, err := bound(false).Seal(ctx, transcript, []byte("x")); return err }},
		{"seal for another transcript", func() error { _, err := bound(true).Seal(ctx, wrong, []byte("x")); return err }},
		{"seal nothing", func() error { _, err := bound(true).Seal(ctx, transcript, nil); return err }},
		{"seal twice", func() error {
			sender := bound(true)
			if _, err := sender.Seal(ctx, transcript, []byte("x")); err != nil {
				return nil
			}
			_, err := sender.Seal(ctx, transcript, []byte("x"))
			return err
		}},
		{"closed", func() error {
			sender := bound(false)
			if err := errors.Join(sender.Close(ctx), sender.Close(ctx)); err != nil {
				t.Errorf("closing twice: %v", err)
			}
			_, err := sender.Wrap(ctx, key)
			return err
		}},
	} {
		if c.act() == nil {
			t.Errorf("%s: accepted", c.name)
		}
	}
}

// live counts the session objects that the token's functions have made and not destroyed.
func live(calls map[string]uint64) int {
	made := calls["C_DeriveKey"] + 2*calls["C_GenerateKeyPair"] + calls["C_GenerateKey"] + calls["C_UnwrapKey"] + calls["C_CreateObject"] + calls["C_CopyObject"]
	return int(made) - int(calls["C_DestroyObject"])
}

// TestSenderLeavesNothing: whatever way a transfer ends, its objects are destroyed, even with a context that is over.
// It isn't parallel: the counters are the process's.
func TestSenderLeavesNothing(t *testing.T) {
	h, _, k := opened(t)
	_, public := peer(t)
	over, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		name string
		act  func(keypackage.Sender) error
	}{
		{"at once", func(s keypackage.Sender) error { return s.Close(t.Context()) }},
		{"context over", func(s keypackage.Sender) error { return s.Close(over) }},
		{"bound", func(s keypackage.Sender) error {
			return errors.Join(s.Bind(t.Context(), keypackage.SuiteAttested, [32]byte{}, true), s.Close(over))
		}},
		{"bind failed", func(s keypackage.Sender) error {
			if s.Bind(over, keypackage.SuiteAttested, [32]byte{}, true) == nil {
				return errors.New("bound although the context was over")
			}
			return nil // without a Close
		}},
	} {
		before := live(h.Hsm.Calls())
		s, err := k.NewSender(t.Context(), public)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.act(s); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if n := live(h.Hsm.Calls()) - before; n != 0 {
			t.Errorf("%s: %d objects are left", c.name, n)
		}
	}
	if _, err := k.NewSender(over, public); !errors.Is(err, context.Canceled) {
		t.Errorf("a transfer began although the context was over: %v", err)
	}
}

// TestCalls counts the PKCS#11 calls of a device's whole way, with its key kept from Begin to Locked. It isn't parallel: the counters are the process's.
func TestCalls(t *testing.T) {
	h, _, k := opened(t)
	ctx := t.Context()
	count := func() (n uint64) {
		for _, c := range h.Hsm.Calls() {
			n += c
		}
		return n
	}
	var total uint64
	step := func(name string, most uint64, act func() error) {
		t.Helper()
		before := count()
		if err := act(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		n := count() - before
		total += n
		t.Logf("%-22s %2d calls", name, n)
		if n > most {
			t.Errorf("%s takes %d PKCS#11 calls, at most %d are allowed", name, n, most)
		}
	}
	transfer(t, k, device(t, 1)) // opens a session and reads each kind's attributes back, once
	s := device(t, 2)
	_, public := peer(t)
	var key keypackage.MACKey
	var sender keypackage.Sender
	var mac, sealed []byte
	msg := []byte("message")
	step("derive device key", 1, func() (err error) { key, err = k.DeviceKey(ctx, channel, s.context(channel)); return err })
	step("check value", 2, func() (err error) { mac, err = key.MAC(ctx, msg); return err })
	step("begin transfer", 5, func() (err error) { sender, err = k.NewSender(ctx, public); return err })
	step("bind", 2, func() error { return sender.Bind(ctx, keypackage.SuiteAttested, [32]byte{}, false) })
	step("wrap", 1, func() (err error) { sealed, err = sender.Wrap(ctx, key); return err })
	step("close transfer", 1, func() error { return sender.Close(ctx) })
	step("sign certificate", 2, func() error { _, err := k.SignCertificate(ctx, s.claims(t, dev)); return err })
	step("verify Confirm", 2, func() error { return key.Verify(ctx, msg, mac) })
	step("challenge", 1, func() error { _, err := k.Random(ctx, 32); return err })
	step("verify Restored", 2, func() error { return key.Verify(ctx, msg, mac) })
	step("MAC Published", 2, func() error { _, err := key.MAC(ctx, msg); return err })
	step("verify Locked", 2, func() error { return key.Verify(ctx, msg, mac) })
	step("destroy device key", 1, func() error { return key.Destroy(ctx) })
	const aim = 24
	t.Logf("%-22s %2d calls", "one device", total)
	if total > aim {
		t.Errorf("a device takes %d PKCS#11 calls, at most %d are allowed", total, aim)
	}
	if len(sealed) != 40 {
		t.Errorf("the wrapped key has %d bytes", len(sealed))
	}

	aad := keypackage.PoolAAD(dev, 1, s.id, "simlock")
	var box keypackage.Sealed
	step("seal pool secret", 2, func() (err error) { box, err = k.SealSecret(ctx, aad, msg); return err })
	step("open pool secret", 2, func() error { _, err := k.OpenSecret(ctx, aad, box); return err })
	step("health", 4, func() error { return k.Check(ctx) })
}

func BenchmarkTransfer(b *testing.B) {
	_, _, k := opened(b)
	s := device(b, 1)
	_, public := peer(b)
	claims := s.claims(b, dev)
	raw := make([]byte, 32)
	rand.Read(raw)
	for b.Loop() {
		err := func() error {
			key, err := k.DeviceKey(b.Context(), channel, s.context(channel))
			if err != nil {
				return err
			}
			if _, err := key.MAC(b.Context(), raw); err != nil {
				return err
			}
			sender, err := k.NewSender(b.Context(), public)
			if err != nil {
				return err
			}
			if _, err := k.SignCertificate(b.Context(), claims); err != nil {
				return err
			}
			if err := sender.Bind(b.Context(), keypackage.SuiteAttested, [32]byte(raw), false); err != nil {
				return err
			}
			if _, err := sender.Wrap(b.Context(), key); err != nil {
				return err
			}
			return errors.Join(sender.Close(b.Context()), key.Destroy(b.Context()))
		}()
		if err != nil {
			b.Fatal(err)
		}
	}
}
