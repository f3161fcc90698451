package hsm_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/devicekeys/devicekeys/hsm"
)

func TestPoolIsBounded(t *testing.T) {
	t.Parallel()
	const wait = 50 * time.Millisecond
	tok := open(t, fresh(t), hsm.Options{Sessions: 2, Wait: wait})
	k := generate(t, tok, hsm.Spec{Kind: hsm.PoolSealKey})
	var gives []func()
	for range 2 {
		give, err := tok.TakeSession(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		gives = append(gives, give)
	}
	begun := time.Now()
	_, _, err := k.Seal(t.Context(), []byte("aad"), nil)
	if took := time.Since(begun); !errors.Is(err, hsm.ErrBusy) || hsm.Classify(err) != hsm.Retry || took < wait {
		t.Errorf("with all sessions taken: %v after %v", err, took)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := k.Seal(ctx, []byte("aad"), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("with the context ended: %v", err)
	}
	patient := open(t, fresh(t), hsm.Options{Sessions: 1, Wait: time.Hour})
	give, err := patient.TakeSession(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 5*time.Millisecond)
	defer cancel()
	if _, err := patient.Random(ctx, 16); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("with a deadline before the wait: %v", err)
	}
	give()
	for _, give := range gives {
		give()
	}
	if _, _, err := k.Seal(t.Context(), []byte("aad"), nil); err != nil {
		t.Errorf("with the sessions back: %v", err)
	}
}

// A session left with an operation open is replaced; what was born in it is gone, and
// says so; everything else works on.
func TestPoisonedSession(t *testing.T) {
	t.Parallel()
	tok := open(t, fresh(t), hsm.Options{Sessions: 1, Wait: 100 * time.Millisecond})
	lasting := generate(t, tok, hsm.Spec{Kind: hsm.ChipKey, Label: "chip", Token: true})
	born := derive(t, tok, lasting, "x", hsm.ResidentKey)
	want := mac(t, born, "m")
	// The pool met CKR_OPERATION_ACTIVE, replaced the session, tried once more, and then
	// the key was gone.
	if err := born.Poison(t.Context()); !errors.Is(err, hsm.ErrKeyGone) {
		t.Fatalf("the session isn't poisoned: %v", err)
	}
	_, err := born.MAC(t.Context(), []byte("m"))
	if !errors.Is(err, hsm.ErrKeyGone) || hsm.Classify(err) != hsm.NewSession {
		t.Errorf("a key of the closed session: %v", err)
	}
	if got := mac(t, derive(t, tok, lasting, "x", hsm.ResidentKey), "m"); !bytes.Equal(got, want) {
		t.Error("derived again it is another key")
	}
}

func TestHotCopyOutlivesPoison(t *testing.T) {
	t.Parallel()
	tok := open(t, fresh(t), hsm.Options{Sessions: 1})
	k := generate(t, tok, hsm.Spec{Kind: hsm.PoolSealKey, Label: "pool-seal", Token: true})
	hot, err := tok.Hot(t.Context(), k)
	if err != nil {
		t.Fatal(err)
	}
	victim := imported(t, tok, hsm.Spec{Kind: hsm.ResidentKey}, known(1))
	if err := victim.Poison(t.Context()); err == nil {
		t.Fatal("not poisoned")
	}
	nonce, sealed, err := hot.Seal(t.Context(), []byte("aad"), []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := k.Open(t.Context(), nonce, []byte("aad"), sealed); err != nil || string(got) != "x" {
		t.Errorf("%q, %v", got, err)
	}
	if err := hot.RawUse(t.Context(), "encrypt CBC"); err == nil {
		t.Error("the copy lost its allowed mechanisms")
	}
	if _, err := hot.ReadValue(t.Context()); err == nil {
		t.Error("the copy shows its value")
	}
	master := generate(t, tok, hsm.Spec{Kind: hsm.MasterKey, Label: "master", Token: true})
	if _, err := tok.Hot(t.Context(), master); err == nil {
		t.Error("an unchangeable key was copied")
	}
}

func TestKeysEnd(t *testing.T) {
	t.Parallel()
	c := fresh(t)
	tok, other := open(t, c, hsm.Options{}), open(t, c, hsm.Options{})
	k := imported(t, tok, hsm.Spec{Kind: hsm.ResidentKey}, known(1))
	if err := k.Destroy(t.Context()); err != nil {
		t.Error(err)
	}
	if err := k.Destroy(t.Context()); !errors.Is(err, hsm.ErrKeyGone) {
		t.Errorf("destroyed twice: %v", err)
	}
	if _, err := k.MAC(t.Context(), nil); !errors.Is(err, hsm.ErrKeyGone) {
		t.Errorf("used after its end: %v", err)
	}
	// Destroyed behind this handle's back.
	lasting := generate(t, tok, hsm.Spec{Kind: hsm.PoolSealKey, Label: "seal", Token: true})
	seen, err := other.Find(t.Context(), hsm.Spec{Kind: hsm.PoolSealKey, Label: "seal"})
	if err != nil {
		t.Fatal(err)
	}
	if err := lasting.Destroy(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, _, err := seen.Seal(t.Context(), []byte("a"), nil); !errors.Is(err, hsm.ErrKeyGone) {
		t.Errorf("used after another destroyed it: %v", err)
	}
	// A handle means nothing in another Token.
	k = imported(t, tok, hsm.Spec{Kind: hsm.ChipKey}, known(1))
	if _, err := other.Derive(t.Context(), k, hsm.KDF1, []byte("x"), hsm.Spec{Kind: hsm.ResidentKey}); err == nil {
		t.Error("a key served in another token")
	}
	if err := tok.Close(); err != nil {
		t.Error(err)
	}
	if _, err := k.MAC(t.Context(), nil); !errors.Is(err, hsm.ErrClosed) {
		t.Errorf("used after the token was closed: %v", err)
	}
	if err := other.Check(t.Context()); !errors.Is(err, hsm.ErrKeyGone) {
		t.Errorf("healthy, though a key that was found has vanished: %v", err)
	}
	if _, err := other.Random(t.Context(), 32); err != nil {
		t.Errorf("the other Token of the same login: %v", err)
	}
}

// Many goroutines, few sessions: every result is right, no call fails, nothing races.
func TestConcurrency(t *testing.T) {
	t.Parallel()
	tok := open(t, fresh(t), hsm.Options{Sessions: 4, Wait: 10 * time.Second})
	base := imported(t, tok, hsm.Spec{Kind: hsm.PurposeKey}, known(1))
	signer := generate(t, tok, hsm.Spec{Kind: hsm.AuditKey, Label: "audit", Token: true})
	seal, err := tok.Hot(t.Context(), generate(t, tok, hsm.Spec{Kind: hsm.PoolSealKey, Label: "seal", Token: true}))
	if err != nil {
		t.Fatal(err)
	}
	kek, unkek := imported(t, tok, hsm.Spec{Kind: hsm.TransferWrapKey}, known(2)), imported(t, tok, hsm.Spec{Kind: hsm.TransferUnwrapKey}, known(2))
	var wg sync.WaitGroup
	for g := range 12 {
		wg.Go(func() {
			for i := range 8 {
				if err := oneRound(t, tok, base, signer, seal, kek, unkek, fmt.Sprint(g, "-", i)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func oneRound(t *testing.T, tok *hsm.Token, base, signer, seal, kek, unkek *hsm.Key, id string) error {
	ctx := t.Context()
	d, err := tok.Derive(ctx, base, hsm.KDF1, []byte(id), hsm.Spec{Kind: hsm.DeviceKey})
	if err != nil {
		return err
	}
	m, err := d.MAC(ctx, []byte(id))
	if err != nil {
		return err
	}
	if !bytes.Equal(m, softHMAC(softKDF1(t, known(1), []byte(id)), id)) {
		return errors.New("another's MAC")
	}
	blob, err := tok.Wrap(ctx, kek, d)
	if err != nil {
		return err
	}
	bad := bytes.Clone(blob)
	bad[5] ^= 1
	if _, err := tok.Unwrap(ctx, unkek, bad, hsm.Spec{Kind: hsm.InboundKey}); !errors.Is(err, hsm.ErrData) {
		return fmt.Errorf("a tampered blob: %w", err)
	}
	in, err := tok.Unwrap(ctx, unkek, blob, hsm.Spec{Kind: hsm.InboundKey})
	if err != nil {
		return err
	}
	if err := in.Verify(ctx, []byte(id), m); err != nil {
		return err
	}
	if _, err := signer.Sign(ctx, make([]byte, 32)); err != nil {
		return err
	}
	nonce, sealed, err := seal.Seal(ctx, []byte(id), []byte(id))
	if err != nil {
		return err
	}
	if got, err := seal.Open(ctx, nonce, []byte(id), sealed); err != nil || string(got) != id {
		return fmt.Errorf("opened %q: %w", got, err)
	}
	return errors.Join(d.Destroy(ctx), in.Destroy(ctx))
}

// A device's SPP side stays within a stated number of PKCS#11 calls. The counter is the
// process's, so this one doesn't run in parallel.
func TestCallsPerOperation(t *testing.T) {
	tok := token(t)
	base := imported(t, tok, hsm.Spec{Kind: hsm.PurposeKey}, known(1))
	kek := imported(t, tok, hsm.Spec{Kind: hsm.TransferWrapKey}, known(2))
	first := derive(t, tok, base, "warm", hsm.DeviceKey) // reads attributes back, once
	mac(t, first, "m")
	count := func(name string, want uint64, f func()) {
		t.Helper()
		before := sum(module.Calls())
		f()
		if got := sum(module.Calls()) - before; got != want {
			t.Errorf("%s: %d calls, want %d", name, got, want)
		}
	}
	var k *hsm.Key
	count("derive", 1, func() { k = derive(t, tok, base, "x", hsm.DeviceKey) })
	count("MAC", 2, func() { mac(t, k, "m") })
	count("verify", 2, func() { _ = k.Verify(t.Context(), []byte("m"), make([]byte, 32)) })
	count("wrap", 1, func() { wrap(t, tok, kek, k) })
	count("destroy", 1, func() { _ = k.Destroy(t.Context()) })
	generate(t, tok, hsm.Spec{Kind: hsm.EphemeralKey})
	count("ephemeral pair", 3, func() { generate(t, tok, hsm.Spec{Kind: hsm.EphemeralKey}) })
}

func sum(m map[string]uint64) (n uint64) {
	for _, c := range m {
		n += c
	}
	return n
}
