package chiptest

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"testing"

	"github.com/devicekeys/devicekeys/device/chip"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/statement"
)

// uses checks that keys do what they should, against the values the SPP knows.
func (x transfer) uses(t *testing.T, keys map[int]chip.Key) {
	t.Helper()
	message := []byte("a message")
	digest := sha256.Sum256(message)
	for at, k := range keys {
		switch e := x.a.Manifest.Entries[at]; e.Algorithm.Use() {
		case keypackage.UseMAC:
			mac, err := k.MAC(t.Context(), message)
			check(t, err)
			if !bytes.Equal(mac, MAC(x.a.Items[at].Value, message)) {
				t.Errorf("key %q: MAC differs from the standard library's", e.Key.Name)
			}
			check(t, k.Verify(t.Context(), message, mac))
			mac[31] ^= 1
			if err := k.Verify(t.Context(), message, mac); !errors.Is(err, statement.ErrSignature) {
				t.Errorf("key %q: a wrong MAC gives %v, want ErrSignature", e.Key.Name, err)
			}
			if err := k.Verify(t.Context(), message, mac[:16]); !errors.Is(err, statement.ErrSignature) {
				t.Errorf("key %q: a short MAC gives %v, want ErrSignature", e.Key.Name, err)
			}
		case keypackage.UseSignature:
			signature, err := k.Sign(t.Context(), digest[:])
			check(t, err)
			public, err := statement.ParsePoint(e.Vouch)
			check(t, err)
			check(t, public.Verify(digest[:], signature))
		}
	}
}

// peerPoint gives the point of somebody's fresh pair.
func peerPoint(t testing.TB) []byte {
	t.Helper()
	k, err := ecdh.P256().GenerateKey(rand.Reader)
	check(t, err)
	return k.PublicKey().Bytes()
}

// agrees checks that a resident agreement key gives what its peer computes, and
// refuses points that are none.
func (x transfer) agrees(t *testing.T, keys map[int]chip.Key) {
	t.Helper()
	tried := 0
	for at, k := range keys {
		e := x.a.Manifest.Entries[at]
		if e.Algorithm.Use() != keypackage.UseAgreement {
			if _, err := k.Agree(t.Context(), peerPoint(t)); !errors.Is(err, chip.ErrAlgorithm) {
				t.Errorf("key %q: Agree gives %v, want ErrAlgorithm", e.Key.Name, err)
			}
			continue
		}
		tried++
		peer, err := ecdh.P256().GenerateKey(rand.Reader)
		check(t, err)
		public, err := ecdh.P256().NewPublicKey(e.Vouch)
		check(t, err)
		want, err := peer.ECDH(public)
		check(t, err)
		got, err := k.Agree(t.Context(), peer.PublicKey().Bytes())
		check(t, err)
		if !bytes.Equal(want, got) {
			t.Errorf("key %q: the two ends agree on different secrets", e.Key.Name)
		}
		off := bytes.Clone(e.Vouch)
		off[64] ^= 1
		for name, point := range map[string][]byte{"its own": e.Vouch, "off the curve": off, "infinity": {0}, "short": e.Vouch[:33], "none": nil} {
			if _, err := k.Agree(t.Context(), point); !errors.Is(err, chip.ErrPoint) {
				t.Errorf("key %q, %s point: %v, want ErrPoint", e.Key.Name, name, err)
			}
		}
	}
	if tried == 0 {
		t.Error("no key agrees: the test proves nothing")
	}
}

func testWrongAlgorithms(t *testing.T, b Bench) {
	x := begin(t, b.New(t, 32), Everything())
	for at, k := range x.unwrap(t) {
		algorithm := x.a.Manifest.Entries[at].Algorithm
		_, macErr := k.MAC(t.Context(), []byte("m"))
		verifyErr := k.Verify(t.Context(), []byte("m"), make([]byte, 32))
		_, signErr := k.Sign(t.Context(), make([]byte, 32))
		if may := algorithm.Use() == keypackage.UseMAC; may == errors.Is(macErr, chip.ErrAlgorithm) || may == errors.Is(verifyErr, chip.ErrAlgorithm) {
			t.Errorf("%s: MAC gives %v, Verify %v", algorithm, macErr, verifyErr)
		}
		if may := algorithm.Use() == keypackage.UseSignature; may == errors.Is(signErr, chip.ErrAlgorithm) {
			t.Errorf("%s: Sign gives %v", algorithm, signErr)
		}
		// On its way in, no key agrees.
		if _, err := k.Agree(t.Context(), peerPoint(t)); !errors.Is(err, chip.ErrAlgorithm) {
			t.Errorf("%s: Agree gives %v", algorithm, err)
		}
	}
}
