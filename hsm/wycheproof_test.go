package hsm_test

import (
	"bytes"
	"encoding/asn1"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/miekg/pkcs11"

	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/untested"
)

// Wycheproof's cases, in the token itself and through this package. Where SoftHSM does other than the case says, a
// deviation names it and tells what protects us; one that isn't listed fails the test. Through this package nothing
// may deviate but towards refusing.

// wycheproofFolder names the variable with the folder of Wycheproof's test vectors, in their version 1 schemas.
const wycheproofFolder = "DEVICEKEYS_WYCHEPROOF"

type wycheproofCase struct {
	ID      int    `json:"tcId"`
	Comment string `json:"comment"`
	Result  string `json:"result"` // valid, invalid, acceptable
	Key     string `json:"key"`
	Msg     string `json:"msg"`
	Tag     string `json:"tag"`
	IV      string `json:"iv"`
	AAD     string `json:"aad"`
	CT      string `json:"ct"`
	Public  string `json:"public"`
	Private string `json:"private"`
	Shared  string `json:"shared"`
}

// deviation is a class of cases that SoftHSM judges otherwise.
type deviation struct {
	is     func(c wycheproofCase) bool
	reason string // what it does, and what protects us
}

// wycheproof reads one file; without the folder the test is skipped.
func wycheproof(t *testing.T, name string) []wycheproofCase {
	t.Helper()
	folder := os.Getenv(wycheproofFolder)
	if folder == "" {
		untested.Except(t, "Wycheproof's vectors, which aren't in the tree: set %s to a folder with those of https://github.com/C2SP/wycheproof (testvectors_v1)", wycheproofFolder)
	}
	text, err := os.ReadFile(filepath.Join(folder, name+".json"))
	if errors.Is(err, os.ErrNotExist) {
		text, err = os.ReadFile(filepath.Join(folder, "wycheproof_"+name+".json"))
	}
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		NumberOfTests int `json:"numberOfTests"`
		TestGroups    []struct {
			Tests []wycheproofCase `json:"tests"`
		} `json:"testGroups"`
	}
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	var all []wycheproofCase
	for _, g := range file.TestGroups {
		all = append(all, g.Tests...)
	}
	if len(all) == 0 || len(all) != file.NumberOfTests {
		t.Fatalf("%d cases, and the file says %d", len(all), file.NumberOfTests)
	}
	return all
}

// verdicts holds what the token did against what the cases say.
type verdicts struct {
	t          *testing.T
	deviations []deviation
	counts     []int // by deviation
	right      int
}

func judge(t *testing.T, deviations ...deviation) *verdicts {
	return &verdicts{t: t, deviations: deviations, counts: make([]int, len(deviations))}
}

// token is told whether the token accepted the case.
func (v *verdicts) token(c wycheproofCase, accepted bool) {
	v.t.Helper()
	if c.Result == "acceptable" || accepted == (c.Result == "valid") {
		v.right++
		return
	}
	v.excuse(c, "the token accepts it: %v", accepted)
}

// excuse finds the deviation that a case falls under.
func (v *verdicts) excuse(c wycheproofCase, format string, args ...any) {
	v.t.Helper()
	for i, d := range v.deviations {
		if d.is(c) {
			v.counts[i]++
			return
		}
	}
	v.t.Errorf("case %d (%s, %s): "+format, append([]any{c.ID, c.Comment, c.Result}, args...)...)
}

// report logs the deviations that were met.
func (v *verdicts) report(minimum int) {
	v.t.Helper()
	v.t.Logf("%d cases right in the token", v.right)
	for i, d := range v.deviations {
		v.t.Logf("%d cases deviate: %s", v.counts[i], d.reason)
	}
	if v.right < minimum {
		v.t.Errorf("%d cases ran as they should, at least %d are expected", v.right, minimum)
	}
}

// fits is a key of the one size that this package makes and takes.
func (c wycheproofCase) fits() bool { return len(c.Key) == 64 }

func destroyed(t testing.TB, keys ...*hsm.Key) {
	t.Helper()
	for _, k := range keys {
		if err := k.Destroy(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

func TestWycheproofCMAC(t *testing.T) {
	t.Parallel()
	cases := wycheproof(t, "aes_cmac_test")
	r, tok := newRaw(t), open(t, fresh(t), hsm.Options{KDF2Host: true})
	v := judge(t)
	for _, c := range cases {
		accepted := false
		if h, err := r.key(pkcs11.CKK_AES, unhex(t, c.Key)); err == nil {
			mac, err := r.mac(pkcs11.CKM_AES_CMAC, h, unhex(t, c.Msg))
			accepted = err == nil && bytes.Equal(mac, unhex(t, c.Tag))
			r.destroy(h)
		}
		v.token(c, accepted)
		if !c.fits() {
			continue
		}
		k := imported(t, tok, hsm.Spec{Kind: hsm.PurposeKey, KDF: hsm.KDF2}, unhex(t, c.Key))
		mac, err := k.CMAC(t.Context(), unhex(t, c.Msg))
		if err != nil || bytes.Equal(mac, unhex(t, c.Tag)) != (c.Result == "valid") {
			t.Errorf("case %d (%s) through this package: %x, %v", c.ID, c.Comment, mac, err)
		}
		destroyed(t, k)
	}
	v.report(300)
}

func TestWycheproofHMAC(t *testing.T) {
	t.Parallel()
	cases := wycheproof(t, "hmac_sha256_test")
	r, tok := newRaw(t), token(t)
	v := judge(t, deviation{func(c wycheproofCase) bool { return len(c.Key) < 64 },
		"SoftHSM takes no HMAC key shorter than the hash; ours have 32 bytes"})
	for _, c := range cases {
		accepted, tag := false, unhex(t, c.Tag)
		if h, err := r.key(pkcs11.CKK_GENERIC_SECRET, unhex(t, c.Key)); err == nil {
			mac, err := r.mac(pkcs11.CKM_SHA256_HMAC, h, unhex(t, c.Msg))
			accepted = err == nil && bytes.Equal(mac[:len(tag)], tag)
			r.destroy(h)
		}
		v.token(c, accepted)
		if !c.fits() {
			continue
		}
		k := imported(t, tok, hsm.Spec{Kind: hsm.ResidentKey}, unhex(t, c.Key))
		// A tag cut short is refused, right or wrong.
		err := k.Verify(t.Context(), unhex(t, c.Msg), tag)
		if want := c.Result == "valid" && len(tag) == hsm.MACSize; want != (err == nil) || err != nil && !errors.Is(err, hsm.ErrMAC) {
			t.Errorf("case %d (%s), tag of %d bytes, through this package: %v", c.ID, c.Comment, len(tag), err)
		}
		destroyed(t, k)
	}
	v.report(160)
}

func TestWycheproofGCM(t *testing.T) {
	t.Parallel()
	cases := wycheproof(t, "aes_gcm_test")
	r, tok := newRaw(t), token(t)
	v := judge(t,
		deviation{func(c wycheproofCase) bool { return c.AAD == "" },
			"not run: SoftHSM 2.6.1 ends the process on AES-GCM without additional data; Seal and Open refuse before it, as the same test shows"},
	)
	opened := 0
	for _, c := range cases {
		key, nonce, aad := unhex(t, c.Key), unhex(t, c.IV), unhex(t, c.AAD)
		sealed := append(unhex(t, c.CT), unhex(t, c.Tag)...)
		if c.AAD == "" {
			v.excuse(c, "not run")
		} else if h, err := r.key(pkcs11.CKK_AES, key); err == nil {
			got, err := r.decryptGCM(h, nonce, aad, sealed)
			v.token(c, err == nil && bytes.Equal(got, unhex(t, c.Msg)))
			if c.Result == "valid" {
				if made, err := r.encryptGCM(h, nonce, aad, unhex(t, c.Msg)); err != nil || !bytes.Equal(made, sealed) {
					v.excuse(c, "the token seals to %x, %v", made, err)
				}
			}
			r.destroy(h)
		} else {
			v.excuse(c, "%v", err)
		}
		if !c.fits() {
			continue
		}
		k := imported(t, tok, hsm.Spec{Kind: hsm.ResidentCipherKey}, key)
		got, err := k.Open(t.Context(), nonce, aad, sealed)
		want := c.Result == "valid" && len(nonce) == hsm.NonceSize && len(aad) > 0
		if want != (err == nil) || want && !bytes.Equal(got, unhex(t, c.Msg)) {
			t.Errorf("case %d (%s), %d bytes of nonce, %d of additional data, through this package: %x, %v", c.ID, c.Comment, len(nonce), len(aad), got, err)
		}
		if want {
			opened++
			// Its cases with a changed tag have no additional data; so those changes are made here.
			for _, bit := range []int{0, 1, 7, 8, 31, 32, 33, 63, 64, 71, 77, 80, 96, 97, 103, 120, 121, 126, 127} {
				bad := bytes.Clone(sealed)
				bad[len(bad)-hsm.TagSize+bit/8] ^= 1 << (bit % 8)
				if _, err := k.Open(t.Context(), nonce, aad, bad); !errors.Is(err, hsm.ErrData) {
					t.Errorf("case %d with bit %d of the tag changed: %v", c.ID, bit, err)
				}
			}
		}
		destroyed(t, k)
	}
	if opened < 18 {
		t.Errorf("%d cases opened through this package, at least 18 are expected", opened)
	}
	v.report(50)
}

func TestWycheproofKeyWrap(t *testing.T) {
	t.Parallel()
	cases := wycheproof(t, "aes_wrap_test")
	r, tok := newRaw(t), token(t)
	v := judge(t)
	unwrapped := 0
	for _, c := range cases {
		key, msg, blob := unhex(t, c.Key), unhex(t, c.Msg), unhex(t, c.CT)
		h, err := r.key(pkcs11.CKK_AES, key)
		r.must(err)
		got, err := r.unwrap(h, blob)
		v.token(c, err == nil && bytes.Equal(got, msg))
		if c.Result == "valid" {
			d, err := r.key(pkcs11.CKK_GENERIC_SECRET, msg)
			r.must(err)
			if made, err := r.wrap(h, d); err != nil || !bytes.Equal(made, blob) {
				v.excuse(c, "the token wraps to %x, %v", made, err)
			}
			r.destroy(d)
		}
		r.destroy(h)
		if !c.fits() {
			continue
		}
		kek := imported(t, tok, hsm.Spec{Kind: hsm.TransferUnwrapKey}, key)
		k, err := tok.Unwrap(t.Context(), kek, blob, hsm.Spec{Kind: hsm.InboundKey})
		switch want := c.Result == "valid" && len(msg) == 32; {
		case want != (err == nil) || err != nil && !errors.Is(err, hsm.ErrData):
			t.Errorf("case %d (%s), %d bytes wrapped, through this package: %v", c.ID, c.Comment, len(blob), err)
		case err == nil:
			unwrapped++
			if !bytes.Equal(mac(t, k, "m"), softHMAC(msg, "m")) {
				t.Errorf("case %d: another key", c.ID)
			}
			destroyed(t, k)
		}
		destroyed(t, kek)
	}
	if unwrapped == 0 {
		t.Error("no case was unwrapped through this package")
	}
	v.report(160)
}

// spkiPoint gives the point of a SubjectPublicKeyInfo, and whether the whole is the one form that names P-256.
func spkiPoint(der []byte) (point []byte, named bool) {
	prefix := []byte{0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00}
	if p, ok := bytes.CutPrefix(der, prefix); ok && len(p) == 65 {
		return p, true
	}
	var k struct {
		Algorithm asn1.RawValue
		Point     asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &k); err == nil {
		return k.Point.Bytes, false
	}
	return der, false
}

// Wycheproof's ECDH cases are about SubjectPublicKeyInfo, which nobody reads here: points travel as 65 bytes. So the
// point inside is what is tried. One that isn't the canonical form of a point of P-256 is refused; one that is, out of
// another form of structure, is a point like others.
func TestWycheproofECDH(t *testing.T) {
	t.Parallel()
	cases := wycheproof(t, "ecdh_secp256r1_test")
	r, tok := newRaw(t), token(t)
	canonical := func(c wycheproofCase) bool {
		p, _ := spkiPoint(unhex(t, c.Public))
		return hsm.CheckPoint(p) == nil
	}
	v := judge(t,
		deviation{func(c wycheproofCase) bool { _, named := spkiPoint(unhex(t, c.Public)); return !named && canonical(c) },
			"the fault is in the structure around a good point, which travels without one here"},
	)
	agreements := 0
	for _, c := range cases {
		point, _ := spkiPoint(unhex(t, c.Public))
		scalar := make([]byte, 32)
		d := bytes.TrimLeft(unhex(t, c.Private), "\x00")
		copy(scalar[32-len(d):], d)
		if len(point) > 0 { // miekg takes the first byte's address
			private, err := r.private(scalar)
			r.must(err)
			got, err := r.agree(private, slices.Clone(point))
			v.token(c, err == nil && bytes.Equal(got, unhex(t, c.Shared)))
			r.destroy(private)
		}
		own := imported(t, tok, hsm.Spec{Kind: hsm.EphemeralKey}, scalar)
		agreed, err := tok.Agree(t.Context(), own, point, hsm.Spec{Kind: hsm.AgreedKey})
		switch {
		case canonical(c) != (err == nil) || err != nil && !errors.Is(err, hsm.ErrData):
			t.Errorf("case %d (%s, %s), a point of %d bytes, through this package: %v", c.ID, c.Comment, c.Result, len(point), err)
		case err == nil:
			agreements++
			if c.Result != "invalid" && !sharedIs(t, tok, agreed, unhex(t, c.Shared)) {
				t.Errorf("case %d (%s): another secret", c.ID, c.Comment)
			}
			destroyed(t, agreed)
		case c.Result == "valid":
			t.Errorf("case %d (%s): refused: %v", c.ID, c.Comment, err)
		}
		destroyed(t, own)
	}
	if agreements < 330 {
		t.Errorf("%d agreements, at least 330 are expected", agreements)
	}
	v.report(500)
}
