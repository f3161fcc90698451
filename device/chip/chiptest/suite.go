package chiptest

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"testing"

	"github.com/devicekeys/devicekeys/device/chip"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/statement"
)

// Bench gives the suite its chips.
type Bench struct {
	// New makes a chip with a chip ID of size bytes.
	New func(t *testing.T, size int) chip.Chip
	// Reopen closes a chip and opens it again, as a reset does.
	Reopen func(t *testing.T, c chip.Chip) chip.Chip
}

// Run runs the suite that every chip must pass.
func Run(t *testing.T, b Bench) {
	for name, test := range map[string]func(*testing.T, Bench){
		"ID":              testID,
		"Attestation":     testAttestation,
		"Transfer":        testTransfer,
		"Algorithms":      testAlgorithms,
		"Tampering":       testTampering,
		"SingleUse":       testSingleUse,
		"OtherClaims":     testOtherClaims,
		"ResidentStays":   testResidentStays,
		"WrongAlgorithms": testWrongAlgorithms,
		"ROMKey":          testROMKey,
		"Fuses":           testFuses,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, b)
		})
	}
}

func testID(t *testing.T, b Bench) {
	for _, size := range []int{16, 24, 32} {
		c := b.New(t, size)
		if c.ID().Len() != size {
			t.Errorf("chip ID has %d bytes, want %d", c.ID().Len(), size)
		}
		again := b.Reopen(t, c)
		if again.ID() != c.ID() || again.Realm() != identity.Development {
			t.Error("chip ID or realm changed over a reset")
		}
	}
}

func testAttestation(t *testing.T, b Bench) {
	c := b.New(t, 32)
	raw, err := statement.Sign(t.Context(), c.Attester(), statement.Attestation, []byte("hello"))
	check(t, err)
	again := b.Reopen(t, c)
	if _, err := statement.Open(raw, statement.Attestation, again.Attester().Public(), len(raw)); err != nil {
		t.Errorf("attestation does not verify after a reset: %v", err)
	}
}

// transfer is a chip in the middle of taking a package.
type transfer struct {
	chip chip.Chip
	in   chip.Transfer
	a    Assembly
}

func begin(t *testing.T, c chip.Chip, items []Item) transfer {
	t.Helper()
	spp := NewSPP(t, c.Realm())
	x, err := c.Exchange(t.Context())
	check(t, err)
	m1, err := keypackage.Hello{Realm: c.Realm(), Suite: keypackage.SuiteAttested, ChipID: c.ID(), ROMKey: spp.ROMKey().Hash(), Point: x.Point()}.Encode()
	check(t, err)
	a := spp.Assemble(t, m1, Order{Items: items})
	in, err := x.Agree(t.Context(), a.Point, keypackage.SuiteAttested, a.Transcript, a.Secrets != nil)
	check(t, err)
	t.Cleanup(func() { _ = in.Close(t.Context()) })
	return transfer{chip: c, in: in, a: a}
}

// unwrap takes all keys in, by entry.
func (x transfer) unwrap(t *testing.T) map[int]chip.Key {
	t.Helper()
	keys := map[int]chip.Key{}
	for i, at := range x.a.Manifest.Wrapped() {
		k, err := x.in.Unwrap(t.Context(), x.a.Manifest, at, x.a.Wrapped[i])
		check(t, err)
		keys[at] = k
	}
	return keys
}

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

func testTransfer(t *testing.T, b Bench) {
	x := begin(t, b.New(t, 32), Everything())
	keys := x.unwrap(t)
	x.uses(t, keys)
	plain, err := x.in.Open(t.Context(), x.a.Transcript, *x.a.Secrets)
	check(t, err)
	if _, err := keypackage.ParseSecrets(plain, x.a.Manifest); err != nil {
		t.Errorf("secrets: %v", err)
	}

	wrapped, sealed := x.protect(t, keys, []byte("contents"))
	for _, k := range keys {
		check(t, k.Destroy(t.Context()))
		check(t, k.Destroy(t.Context())) // repeating does no harm
		if _, err := k.MAC(t.Context(), []byte("m")); err == nil {
			t.Error("a destroyed key still works")
		}
	}

	// A reset: nothing of the transfer lives, the chip opens what it sealed.
	x.chip = b.Reopen(t, x.chip)
	r, err := x.chip.Recover(t.Context(), x.a.Certificate.ClaimsHash())
	check(t, err)
	got, err := r.Open(t.Context(), sealed)
	check(t, err)
	if string(got) != "contents" {
		t.Errorf("sealed contents came back as %q", got)
	}
	resident := map[int]chip.Key{}
	for i, at := range x.a.Manifest.Wrapped() {
		k, err := r.Unwrap(t.Context(), x.a.Manifest, at, wrapped[i])
		check(t, err)
		resident[at] = k
	}
	check(t, r.Close(t.Context()))
	x.uses(t, resident)
	x.agrees(t, resident)
}

func (x transfer) protect(t *testing.T, keys map[int]chip.Key, contents []byte) ([][]byte, keypackage.Sealed) {
	t.Helper()
	p, err := x.chip.Protect(t.Context(), x.a.Certificate.ClaimsHash())
	check(t, err)
	var wrapped [][]byte
	for i, at := range x.a.Manifest.Wrapped() {
		w, err := p.Wrap(t.Context(), keys[at])
		check(t, err)
		if len(w) != x.a.Manifest.Entries[at].WrappedSize() || bytes.Equal(w, x.a.Wrapped[i]) {
			t.Errorf("entry %d is wrapped in %d bytes, or as it came", at, len(w))
		}
		wrapped = append(wrapped, w)
	}
	sealed, err := p.Seal(t.Context(), contents)
	check(t, err)
	if _, err := p.Seal(t.Context(), contents); !errors.Is(err, chip.ErrUsed) {
		t.Errorf("sealing twice gives %v, want ErrUsed", err)
	}
	check(t, p.Close(t.Context()))
	return wrapped, sealed
}

func testTampering(t *testing.T, b Bench) {
	x := begin(t, b.New(t, 16), Everything())
	m := x.a.Manifest
	at := m.Wrapped()
	for _, c := range []struct {
		name string
		at   int
		blob []byte
		m    keypackage.Manifest
		want error
	}{
		{"flipped bit in a MAC key", at[0], flip(x.a.Wrapped[0], 3), m, chip.ErrData},
		{"flipped bit in a private key", at[1], flip(x.a.Wrapped[1], 30), m, chip.ErrData},
		{"flipped bit in an AES key", at[2], flip(x.a.Wrapped[2], 39), m, chip.ErrData},
		{"cut short", at[0], x.a.Wrapped[0][:32], m, chip.ErrData},
		{"empty", at[0], nil, m, chip.ErrData},
		{"private key for a MAC key", at[0], x.a.Wrapped[1], m, chip.ErrData},
		{"MAC key for a private key", at[1], x.a.Wrapped[0], m, chip.ErrData},
		{"AES key for a MAC key", at[0], x.a.Wrapped[2], m, chip.ErrVouch},
		{"MAC key for an AES key", at[2], x.a.Wrapped[0], m, chip.ErrVouch},
		{"check value of another key", at[0], x.a.Wrapped[0], vouching(m, at[0], Random(32)), chip.ErrVouch},
		{"check value of another AES key", at[2], x.a.Wrapped[2], vouching(m, at[2], Random(32)), chip.ErrVouch},
		{"public key of another pair", at[1], x.a.Wrapped[1], vouching(m, at[1], otherPoint(t)), chip.ErrVouch},
		{"entry that is no key", 3, x.a.Wrapped[0], m, chip.ErrData},
	} {
		if _, err := x.in.Unwrap(t.Context(), c.m, c.at, c.blob); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	if _, err := x.in.Unwrap(t.Context(), m, len(m.Entries), x.a.Wrapped[0]); err == nil {
		t.Error("an entry beyond the manifest was taken")
	}
	bad := *x.a.Secrets
	bad.Ciphertext = flip(bad.Ciphertext, 5)
	if _, err := x.in.Open(t.Context(), x.a.Transcript, bad); !errors.Is(err, chip.ErrData) {
		t.Errorf("flipped bit in the secrets: %v, want ErrData", err)
	}
	if _, err := x.in.Open(t.Context(), [32]byte{1}, *x.a.Secrets); !errors.Is(err, chip.ErrData) {
		t.Errorf("secrets of another transcript: %v, want ErrData", err)
	}
	// The chip still works after all that.
	x.uses(t, x.unwrap(t))
}

func flip(b []byte, at int) []byte {
	out := bytes.Clone(b)
	out[at] ^= 0x10
	return out
}

func vouching(m keypackage.Manifest, at int, vouch []byte) keypackage.Manifest {
	m.Entries = append([]keypackage.Entry(nil), m.Entries...)
	m.Entries[at].Vouch = vouch
	return m
}

func otherPoint(t *testing.T) []byte {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	b, err := k.PublicKey.Bytes()
	check(t, err)
	return b
}

func testSingleUse(t *testing.T, b Bench) {
	c := b.New(t, 32)
	x, err := c.Exchange(t.Context())
	check(t, err)
	y, err := c.Exchange(t.Context())
	check(t, err)
	if x.Point() == y.Point() {
		t.Fatal("two exchanges have one point")
	}
	in, err := x.Agree(t.Context(), y.Point(), keypackage.SuiteAttested, [32]byte{}, false)
	check(t, err)
	check(t, in.Close(t.Context()))
	check(t, in.Close(t.Context()))
	if _, err := in.Open(t.Context(), [32]byte{}, keypackage.Sealed{Ciphertext: make([]byte, 32)}); !errors.Is(err, chip.ErrUsed) {
		t.Errorf("opening after Close gives %v, want ErrUsed", err)
	}
	if _, err := x.Agree(t.Context(), y.Point(), keypackage.SuiteAttested, [32]byte{}, false); !errors.Is(err, chip.ErrUsed) {
		t.Errorf("agreeing twice gives %v, want ErrUsed", err)
	}
	if _, err := y.Agree(t.Context(), y.Point(), keypackage.SuiteAttested, [32]byte{}, false); !errors.Is(err, chip.ErrPoint) {
		t.Errorf("agreeing with the own point gives %v, want ErrPoint", err)
	}
	if _, err := y.Agree(t.Context(), x.Point(), keypackage.SuiteAttested, [32]byte{}, false); !errors.Is(err, chip.ErrUsed) {
		t.Errorf("agreeing after a failure gives %v, want ErrUsed", err)
	}
	check(t, y.Close(t.Context()))
}

func testOtherClaims(t *testing.T, b Bench) {
	x := begin(t, b.New(t, 24), Everything())
	keys := x.unwrap(t)
	wrapped, sealed := x.protect(t, keys, []byte("contents"))

	other, err := x.chip.Recover(t.Context(), [32]byte{1})
	check(t, err)
	if _, err := other.Open(t.Context(), sealed); !errors.Is(err, chip.ErrData) {
		t.Errorf("contents of other claims: %v, want ErrData", err)
	}
	if _, err := other.Unwrap(t.Context(), x.a.Manifest, x.a.Manifest.Wrapped()[0], wrapped[0]); !errors.Is(err, chip.ErrData) {
		t.Errorf("key of other claims: %v, want ErrData", err)
	}
	check(t, other.Close(t.Context()))

	// Another chip has another chip key.
	stranger := b.New(t, 24)
	r, err := stranger.Recover(t.Context(), x.a.Certificate.ClaimsHash())
	check(t, err)
	if _, err := r.Open(t.Context(), sealed); !errors.Is(err, chip.ErrData) {
		t.Errorf("contents of another chip: %v, want ErrData", err)
	}
	check(t, r.Close(t.Context()))
	if _, err := r.Unwrap(t.Context(), x.a.Manifest, x.a.Manifest.Wrapped()[0], wrapped[0]); !errors.Is(err, chip.ErrUsed) {
		t.Errorf("unwrapping after Close gives %v, want ErrUsed", err)
	}
}

func testResidentStays(t *testing.T, b Bench) {
	x := begin(t, b.New(t, 32), Everything())
	wrapped, _ := x.protect(t, x.unwrap(t), []byte("contents"))
	r, err := x.chip.Recover(t.Context(), x.a.Certificate.ClaimsHash())
	check(t, err)
	p, err := x.chip.Protect(t.Context(), x.a.Certificate.ClaimsHash())
	check(t, err)
	for i, at := range x.a.Manifest.Wrapped() {
		k, err := r.Unwrap(t.Context(), x.a.Manifest, at, wrapped[i])
		check(t, err)
		if _, err := p.Wrap(t.Context(), k); err == nil {
			t.Errorf("resident key of entry %d was wrapped", at)
		}
	}
	check(t, r.Close(t.Context()))
	check(t, p.Close(t.Context()))
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

func testROMKey(t *testing.T, b Bench) {
	c := b.New(t, 32)
	key, err := c.ROMKey(t.Context())
	check(t, err)
	if !key.IsZero() {
		t.Fatal("a new chip has a ROM key")
	}
	if err := c.WriteROMKey(t.Context(), statement.PublicKey{}); err == nil {
		t.Error("no key was written as ROM key")
	}
	first, second := NewSPP(t, c.Realm()).ROMKey(), NewSPP(t, c.Realm()).ROMKey()
	check(t, c.WriteROMKey(t.Context(), first))
	check(t, c.WriteROMKey(t.Context(), first))
	if err := c.WriteROMKey(t.Context(), second); !errors.Is(err, chip.ErrWritten) {
		t.Errorf("writing another ROM key gives %v, want ErrWritten", err)
	}
	c = b.Reopen(t, c)
	if err := c.WriteROMKey(t.Context(), second); !errors.Is(err, chip.ErrWritten) {
		t.Errorf("writing another ROM key after a reset gives %v, want ErrWritten", err)
	}
	if key, err = c.ROMKey(t.Context()); err != nil || key != first {
		t.Errorf("ROM key after a reset: %v, %v", key, err)
	}
}

func testFuses(t *testing.T, b Bench) {
	c := b.New(t, 32)
	want := chip.Fuses{}
	same := func(act string) {
		t.Helper()
		got, err := c.Fuses(t.Context())
		check(t, err)
		if got != want {
			t.Errorf("after %s: %+v, want %+v", act, got, want)
		}
	}
	same("making it")
	for _, floor := range []identity.Generation{1, 3, 2, 3, 0} {
		check(t, c.RaiseFloor(t.Context(), floor))
		want.Floor = max(want.Floor, floor)
		same("raising the floor")
	}
	c = b.Reopen(t, c)
	same("a reset")
	check(t, c.Lock(t.Context()))
	want.Locked = true
	same("locking")
	check(t, c.Lock(t.Context()))
	check(t, c.RaiseFloor(t.Context(), identity.MaxGeneration))
	want.Floor = identity.MaxGeneration
	c = b.Reopen(t, c)
	same("another reset")
}
