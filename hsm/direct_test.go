package hsm_test

import (
	"bytes"
	"sync"
	"testing"

	"github.com/devicekeys/devicekeys/hsm"
)

// An answer that has no room at first is the same answer, at the price of two calls more.
func TestAnswerWithoutRoom(t *testing.T) {
	tok := token(t)
	key, kek := derive(t, tok, imported(t, tok, hsm.Spec{Kind: hsm.PurposeKey}, known(1)), "key", hsm.DeviceKey), imported(t, tok, hsm.Spec{Kind: hsm.TransferWrapKey}, known(2))
	device := derive(t, tok, imported(t, tok, hsm.Spec{Kind: hsm.PurposeKey}, known(3)), "device", hsm.DeviceKey)
	for _, msg := range [][]byte{nil, {}, []byte("message")} {
		want := mac(t, key, string(msg))
		for _, room := range []int{0, 1, 31, 32, 33, 64} {
			got, err := key.MACInto(t.Context(), msg, room)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("MAC of %q with room for %d bytes: %x, %v; want %x", msg, room, got, err, want)
			}
		}
	}
	want := wrap(t, tok, kek, device)
	for _, room := range []int{0, 39, 40, 41} {
		got, err := tok.WrapInto(t.Context(), kek, device, room)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("wrapped with room for %d bytes: %x, %v", room, got, err)
		}
	}
	// The session is as good as before.
	if got := mac(t, key, "message"); len(got) != hsm.MACSize {
		t.Errorf("a MAC of %d bytes", len(got))
	}
}

// No nonce comes twice, whoever draws at the same time and whatever the stock.
func TestNonces(t *testing.T) {
	tok := token(t)
	key := generate(t, tok, hsm.Spec{Kind: hsm.PoolSealKey, Label: "nonces", Token: true})
	var (
		mu   sync.Mutex
		seen = map[string]bool{}
		all  sync.WaitGroup
	)
	for range 4 {
		all.Go(func() {
			for range 200 {
				nonce, _, err := key.Seal(t.Context(), []byte("aad"), []byte("plaintext"))
				mu.Lock()
				if err != nil || len(nonce) != hsm.NonceSize || seen[string(nonce)] {
					t.Errorf("nonce %x: %v", nonce, err)
				}
				seen[string(nonce)] = true
				mu.Unlock()
			}
		})
	}
	all.Wait()
}
