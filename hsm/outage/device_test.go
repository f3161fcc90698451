package outage_test

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
	"fmt"
	mathrand "math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/hsm/maker"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/softhsm"
	"github.com/devicekeys/devicekeys/statement"
)

// makerKeys are the maker's keys in a fresh token.
func makerKeys(t testing.TB) (*hsm.Token, *maker.Keys) {
	t.Helper()
	tok := open(t, fresh(t), hsm.Options{Sessions: 4})
	plan := maker.Plan{Realm: identity.Development, Masters: []maker.Master{{Version: 1, KDF: hsm.KDF1}}, Purposes: []string{"channel"}}
	if err := maker.Create(t.Context(), tok, plan); err != nil {
		t.Fatal(err)
	}
	k, err := maker.Open(t.Context(), tok, identity.Development)
	if err != nil {
		t.Fatal(err)
	}
	return tok, k
}

// device is a device on the line, in software.
type device struct {
	id      identity.IMEI
	chip    identity.ChipID
	private *ecdh.PrivateKey
	public  statement.PublicKey
	aad     []byte // of its secret in the pool
}

func newDevice(t testing.TB, serial int) device {
	t.Helper()
	id, err := identity.TAC("00440200").IMEI(serial)
	if err != nil {
		t.Fatal(err)
	}
	raw := make([]byte, 24)
	rand.Read(raw)
	chip, err := identity.ParseChipID(raw)
	if err != nil {
		t.Fatal(err)
	}
	private, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := statement.ParsePoint(private.PublicKey().Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return device{id, chip, private, public, keypackage.PoolAAD(identity.Development, 1, id, "lock")}
}

// made is what the line remembers of a device: redoing it must give the same.
type made struct {
	mac string // of a fixed message, under the device's key
}

var channel = keypackage.KeyID{Name: "channel", KDF: 1, Version: 1}

// assemble is the way of one device through the SPP's token: what is derived, wrapped and
// sealed is opened as the device does, and compared.
func (d device) assemble(ctx context.Context, k *maker.Keys) (m made, err error) {
	key, err := k.DeviceKey(ctx, channel, keypackage.DeviceKeyContext(identity.Development, channel, d.id, 1, d.chip.RecordID()))
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, key.Destroy(ctx)) }()
	msg := []byte("message")
	mac, err := key.MAC(ctx, msg)
	if err != nil {
		return m, err
	}
	m.mac = string(mac)
	sender, err := k.NewSender(ctx, d.public)
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, sender.Close(ctx)) }()
	transcript := sha256.Sum256(d.public.Point())
	if err := sender.Bind(ctx, keypackage.SuiteAttested, transcript, true); err != nil {
		return m, err
	}
	blob, err := sender.Wrap(ctx, key)
	if err != nil {
		return m, err
	}
	secret := []byte("SIM-lock code 12345678")
	sealed, err := sender.Seal(ctx, transcript, secret)
	if err != nil {
		return m, err
	}
	claims, err := identity.Claims{Subject: d.id, IssuedAt: 1_800_000_000, ChipID: d.chip, Realm: identity.Development, Generation: 1}.Encode()
	if err != nil {
		return m, err
	}
	if _, err := k.SignCertificate(ctx, claims); err != nil {
		return m, err
	}
	pooled, err := k.SealSecret(ctx, d.aad, secret)
	if err != nil {
		return m, err
	}
	opened, err := k.OpenSecret(ctx, d.aad, pooled)
	if err != nil {
		return m, err
	}
	if err := key.Verify(ctx, msg, mac); err != nil {
		return m, err
	}
	if !bytes.Equal(opened, secret) {
		return m, fmt.Errorf("wrong result: the pool gave back %q", opened)
	}
	return m, d.receive(sender.Point(), transcript, blob, sealed, mac, secret)
}

// receive is the device's end of the transfer.
func (d device) receive(point statement.PublicKey, transcript [32]byte, blob []byte, sealed keypackage.Sealed, mac, secret []byte) error {
	public, err := ecdh.P256().NewPublicKey(point.Point())
	if err != nil {
		return err
	}
	agreed, err := d.private.ECDH(public)
	if err != nil {
		return err
	}
	kek, err := kdf1(agreed, keypackage.TransferContext(keypackage.SuiteAttested, keypackage.TransferKEK, transcript))
	if err != nil {
		return err
	}
	key, err := unwrapped(kek, blob)
	if err != nil {
		return err
	}
	h := hmac.New(sha256.New, key)
	h.Write([]byte("message"))
	if !hmac.Equal(h.Sum(nil), mac) {
		return errors.New("wrong result: the device has another key than the SPP")
	}
	pkg, err := kdf1(agreed, keypackage.TransferContext(keypackage.SuiteAttested, keypackage.TransferPackage, transcript))
	if err != nil {
		return err
	}
	block, err := aes.NewCipher(pkg)
	if err != nil {
		return err
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return err
	}
	plaintext, err := gcm.Open(nil, sealed.Nonce[:], sealed.Ciphertext, keypackage.SealedAAD(keypackage.PackageAAD(transcript)))
	if err != nil || !bytes.Equal(plaintext, secret) {
		return fmt.Errorf("wrong result: the device opens %q, %w", plaintext, err)
	}
	return nil
}

// kdf1 is KDF 1 in software: AES-256-CBC with a zero IV over SHA-256 of the context.
func kdf1(key, context []byte) ([]byte, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	in := sha256.Sum256(context)
	out := make([]byte, len(in))
	cipher.NewCBCEncrypter(block, make([]byte, aes.BlockSize)).CryptBlocks(out, in[:])
	return out, nil
}

// unwrapped is AES key unwrap in software, RFC 3394 section 2.2.2.
func unwrapped(kek, blob []byte) ([]byte, error) {
	block, err := aes.NewCipher(kek)
	if err != nil {
		return nil, err
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
		return nil, errors.New("wrong result: the wrapped key doesn't unwrap")
	}
	return r, nil
}

// deviceCalls are the functions of the module that a device's way calls.
var deviceCalls = []string{
	"", "C_DeriveKey", "C_DestroyObject", "C_SignInit", "C_Sign", "C_VerifyInit", "C_Verify", "C_GenerateKeyPair", "C_GetAttributeValue",
	"C_WrapKey", "C_EncryptInit", "C_Encrypt", "C_DecryptInit", "C_Decrypt", "C_GenerateRandom", "C_OpenSession", "C_CloseSession", "C_GetSessionInfo",
}

// trouble breaks something every ten milliseconds or so until stop is closed, about one
// call of each device, and takes the token away every few seconds.
func trouble(t testing.TB, seed uint64, stop <-chan struct{}) {
	rng := mathrand.New(mathrand.NewPCG(seed, 0))
	for {
		select {
		case <-stop:
			return
		case <-time.After(time.Duration(rng.IntN(20_000)) * time.Microsecond):
		}
		switch n := rng.IntN(300); {
		case n == 0:
			shim.Drop()
		case n == 1:
			shim.LoseAs(codes[4+rng.IntN(4)])
			time.Sleep(time.Duration(rng.IntN(20)) * time.Millisecond)
			shim.Lose(false)
		case n == 2:
			shim.Sessions(8 + rng.IntN(8)) // crypto11's, the login's and some
		case n == 3:
			shim.Sessions(0)
		case n < 20:
			if err := shim.Delay(deviceCalls[rng.IntN(len(deviceCalls))], time.Duration(rng.IntN(300))*time.Microsecond); err != nil {
				t.Error(err)
			}
		default:
			// All but the last one, which a real token answers to a caller's mistake only.
			r := softhsm.Rule{Function: deviceCalls[rng.IntN(len(deviceCalls))], Code: codes[rng.IntN(len(codes)-1)], From: 1 + rng.Uint64N(4), After: rng.IntN(2) == 1}
			r.To = r.From + rng.Uint64N(2)
			if err := shim.Fail(r); err != nil { // many are waiting for calls that aren't made
				shim.Clear()
			}
		}
	}
}

// A device's whole way while the module fails in every manner: redone from its beginning
// it succeeds in the end, and whatever was given out is right.
func TestDevicesUnderFaults(t *testing.T) {
	const workers, devices = 4, 25 // each
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	tok, k := makerKeys(t)
	ctx := t.Context()
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		trouble(t, seed, stop)
	}()
	var wg sync.WaitGroup
	var retries, done atomic.Int64
	var all sync.Map // serial -> made
	for w := range workers {
		wg.Go(func() {
			for i := range devices {
				serial := w*devices + i
				if i == devices/2 {
					shim.Drop() // at least these times
				}
				d := newDevice(t, serial)
				for until := time.Now().Add(patience); ; retries.Add(1) {
					m, err := d.assemble(ctx, k)
					if before, known := all.Load(serial); known && m.mac != "" && before.(made) != m {
						t.Errorf("device %d got another key when it was redone", serial)
					}
					if m.mac != "" {
						all.Store(serial, m)
					}
					if err == nil {
						done.Add(1)
						break
					}
					if errors.Is(err, hsm.ErrNoKey) || errors.Is(err, hsm.ErrPIN) || errors.Is(err, hsm.ErrMAC) || codeOf(err) == 0 && hsm.Classify(err) == hsm.Stop {
						t.Errorf("device %d: %v", serial, err)
						return
					}
					if time.Now().After(until) {
						t.Errorf("device %d isn't through after %v: %v", serial, patience, err)
						return
					}
					time.Sleep(time.Millisecond)
				}
			}
		})
	}
	wg.Wait()
	close(stop)
	<-ended
	shim.Clear()
	var failed uint64
	for _, n := range shim.Failed() {
		failed += n
	}
	t.Logf("%d devices with %d retries; %d calls failed, the token was opened again %v times (all since the process began)", done.Load(), retries.Load(), failed, reopened(t))
	if done.Load() != workers*devices {
		t.Errorf("%d of %d devices are through", done.Load(), workers*devices)
	}
	if retries.Load() == 0 {
		t.Error("nothing has failed: this test shows nothing")
	}
	eventually(t, "health", func() error { return k.Check(ctx) })
	for serial := range workers * devices { // and the keys are those that they would have been
		d := newDevice(t, serial)
		if _, err := d.assemble(ctx, k); err != nil {
			t.Fatal(err)
		}
		if serial == 8 {
			break
		}
	}
	if n := gauges(t)["devicekeys_pkcs11_sessions_in_use{"+tok.Info().Label+"}"]; n != 0 {
		t.Errorf("%v sessions are still in use", n)
	}
}

// Nothing that comes from outside makes the token look lost, costs a session, or counts as
// the HSM's fault, straight or through hsm/maker.
func TestDataIsNoLoss(t *testing.T) {
	tok, k := makerKeys(t)
	ctx := t.Context()
	d := newDevice(t, 1)
	if _, err := d.assemble(ctx, k); err != nil {
		t.Fatal(err)
	}
	chip := generate(t, tok, hsm.ChipKey, "chip")
	open, err := tok.Derive(ctx, chip, hsm.KDF1, []byte("wrap"), hsm.Spec{Kind: hsm.ChipUnwrapKey})
	if err != nil {
		t.Fatal(err)
	}
	own, err := tok.Generate(ctx, hsm.Spec{Kind: hsm.EphemeralKey})
	if err != nil {
		t.Fatal(err)
	}
	key, err := k.DeviceKey(ctx, channel, keypackage.DeviceKeyContext(identity.Development, channel, d.id, 1, d.chip.RecordID()))
	if err != nil {
		t.Fatal(err)
	}
	pooled, err := k.SealSecret(ctx, d.aad, []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	pooled.Ciphertext[0] ^= 1
	offCurve := bytes.Repeat([]byte{4}, 65)
	for _, c := range []struct {
		name string
		try  func() error
	}{
		{"a blob of noise", func() error {
			_, err := tok.Unwrap(ctx, open, bytes.Repeat([]byte{7}, 40), hsm.Spec{Kind: hsm.InboundKey})
			return err
		}},
		{"a blob too short", func() error {
			_, err := tok.Unwrap(ctx, open, []byte{7}, hsm.Spec{Kind: hsm.InboundKey})
			return err
		}},
		{"a point off the curve", func() error {
			_, err := tok.Agree(ctx, own, offCurve, hsm.Spec{Kind: hsm.AgreedKey})
			return err
		}},
		{"a wrong MAC, through the maker's keys", func() error { return key.Verify(ctx, []byte("m"), make([]byte, 32)) }},
		{"a short MAC, through the maker's keys", func() error { return key.Verify(ctx, []byte("m"), nil) }},
		{"a changed secret, through the maker's keys", func() error { _, err := k.OpenSecret(ctx, d.aad, pooled); return err }},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.try() // a session is opened, the self-test has its key
			seen, before := shim.Counts(), reopened(t)
			for range 50 {
				err := c.try()
				var fault interface{ DataFault() bool }
				if hsm.Classify(err) != hsm.DataFault || !errors.As(err, &fault) || !fault.DataFault() {
					t.Fatalf("class %v, DataFault not told: %v", hsm.Classify(err), err)
				}
			}
			for _, f := range []string{"C_OpenSession", "C_CloseSession", "C_Login", "C_GetSessionInfo", "C_Initialize"} {
				if n := delta(seen, shim.Counts())[f]; n != 0 {
					t.Errorf("%d calls of %s", n, f)
				}
			}
			if reopened(t) != before {
				t.Error("the token was opened again")
			}
		})
	}
	if err := key.Destroy(ctx); err != nil {
		t.Error(err)
	}
}

// What isn't the data's fault doesn't say so.
func TestNoDataFault(t *testing.T) {
	_, k := makerKeys(t)
	for _, code := range codes {
		fails(t, softhsm.Rule{Function: "C_DeriveKey", Code: code, To: softhsm.Forever})
		_, err := k.NewSender(t.Context(), newDevice(t, 1).public)
		shim.Clear()
		var fault interface{ DataFault() bool }
		if err == nil || errors.As(err, &fault) && fault.DataFault() {
			t.Errorf("%v: said to be the data's fault: %v", code, err)
		}
	}
	if !hsm.Code(pkcs11.CKR_WRAPPED_KEY_INVALID).DataFault() {
		t.Error("a code that names the data isn't the data's fault")
	}
}
