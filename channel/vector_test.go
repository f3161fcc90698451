package channel

import (
	"bytes"
	"crypto/ecdh"
	"encoding/hex"
	"os"
	"strings"
	"testing"

	"github.com/flynn/noise"
)

// TestVectors: the published vectors of the suite, through what the channel uses.
func TestVectors(t *testing.T) {
	t.Parallel()
	file, err := os.ReadFile("testdata/nnpsk2.txt")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, block := range strings.Split(string(file), "\n\n") {
		v := map[string][]byte{}
		for line := range strings.Lines(block) {
			name, value, ok := strings.Cut(strings.TrimSpace(line), "=")
			if !ok || name == "handshake" {
				continue
			}
			if v[name], err = hex.DecodeString(value); err != nil {
				t.Fatal(err)
			}
		}
		if v["preshared_key"] == nil {
			continue
		}
		n++
		side := func(initiator bool, private string) *flynn {
			hs, err := newNoise(initiator, v["prologue"], fixed(t, v[private]))
			if err != nil {
				t.Fatal(err)
			}
			return hs
		}
		a, b := side(true, "gen_init_ephemeral"), side(false, "gen_resp_ephemeral")
		pass := func(from, to handshake, message string) {
			t.Helper()
			m, err := from.write(v[message+"_payload"])
			if err != nil || !bytes.Equal(m, v[message+"_ciphertext"]) {
				t.Fatalf("vector %d, %s: %x, %v", n, message, m, err)
			}
			if p, err := to.read(m); err != nil || !bytes.Equal(p, v[message+"_payload"]) {
				t.Fatalf("vector %d, %s read: %x, %v", n, message, p, err)
			}
		}
		pass(a, b, "msg_0")
		for _, hs := range []*flynn{a, b} {
			if _, _, _, err := hs.split(); err == nil {
				t.Error("a handshake half done was split")
			}
			if err := hs.preshare(v["preshared_key"]); err != nil {
				t.Fatal(err)
			}
		}
		pass(b, a, "msg_1")
		as, ar, ab, errA := a.split()
		bs, br, bb, errB := b.split()
		if errA != nil || errB != nil || !bytes.Equal(ab, bb) || len(ab) != 32 {
			t.Fatal("the sides have different bindings")
		}
		transport := func(from, to *noise.CipherState, message string) {
			t.Helper()
			c, err := from.Encrypt(nil, nil, v[message+"_payload"])
			if err != nil || !bytes.Equal(c, v[message+"_ciphertext"]) {
				t.Fatalf("vector %d, %s: %x, %v", n, message, c, err)
			}
			if p, err := to.Decrypt(nil, nil, c); err != nil || !bytes.Equal(p, v[message+"_payload"]) {
				t.Fatalf("vector %d, %s read: %x, %v", n, message, p, err)
			}
		}
		transport(as, br, "msg_2")
		transport(bs, ar, "msg_3")
	}
	if n != 4 {
		t.Errorf("%d vectors, 4 are due", n)
	}
}

// fixed is an ephemeral pair that is known.
func fixed(t *testing.T, private []byte) ephemeral {
	t.Helper()
	pair, err := ecdh.X25519().NewPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return ephemeral{pair}
}

// TestNoPSK: without its pre-shared key a handshake ends; the library would go on without one.
func TestNoPSK(t *testing.T) {
	t.Parallel()
	a, err := newNoise(true, nil, fixed(t, make([]byte, 32)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.write(nil); err != nil {
		t.Fatal(err)
	}
	if _, err := a.read(make([]byte, 64)); err != errNoPSK {
		t.Errorf("it read on: %v", err)
	}
	for _, n := range []int{0, 16, 33} {
		if a.preshare(make([]byte, n)) == nil {
			t.Errorf("a pre-shared key of %d bytes was taken", n)
		}
	}
}
