package interop_test

import (
	"bytes"
	"encoding/asn1"
	"encoding/hex"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/devicekeys/devicekeys/audit"
	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/hsm/maker"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning/records/recordstest"
	"github.com/devicekeys/devicekeys/secret"
	"github.com/devicekeys/devicekeys/softhsm"
	"github.com/devicekeys/devicekeys/statement"
	"github.com/devicekeys/devicekeys/untested"
)

// openssl runs the openssl program in a folder of the test's own.
type openssl struct {
	t    testing.TB
	path string
	dir  string
}

func newOpenssl(t testing.TB) *openssl {
	t.Helper()
	o := &openssl{t, tool(t, "openssl"), t.TempDir()}
	if version := string(o.run(nil, "version")); !strings.HasPrefix(version, "OpenSSL 3.") && !strings.HasPrefix(version, "OpenSSL 4.") {
		untested.Skip(t, "openssl kdf and mac, which need OpenSSL 3: this is %s", version)
	}
	return o
}

// run gives standard output of a run that must succeed.
func (o *openssl) run(stdin []byte, args ...string) []byte {
	o.t.Helper()
	r := execute(o.t, nil, stdin, o.path, args...)
	if r.code != 0 {
		o.t.Fatalf("openssl %s: %v", args[0], r)
	}
	return []byte(r.out)
}

func (o *openssl) file(name string, b []byte) string {
	o.t.Helper()
	path := filepath.Join(o.dir, name)
	must(o.t, os.WriteFile(path, b, 0o600))
	return path
}

func (o *openssl) sha256(b []byte) []byte {
	o.t.Helper()
	return o.run(b, "dgst", "-sha256", "-binary")
}

// kdf1 is KDF 1 of docs/formats.md §7.
func (o *openssl) kdf1(key, context []byte) []byte {
	o.t.Helper()
	return o.run(o.sha256(context), "enc", "-aes-256-cbc", "-nopad", "-K", hex.EncodeToString(key), "-iv", strings.Repeat("0", 32))
}

// kdf2 is KDF 2, by openssl's own SP 800-108 and by single CMACs, which must agree.
func (o *openssl) kdf2(key, context []byte) []byte {
	o.t.Helper()
	whole := o.run(nil, "kdf", "-binary", "-keylen", "32", "-kdfopt", "mac:CMAC", "-kdfopt", "cipher:AES-256-CBC", "-kdfopt", "mode:COUNTER",
		"-kdfopt", "hexkey:"+hex.EncodeToString(key), "-kdfopt", "salt:dk-kdf", "-kdfopt", "hexinfo:"+hex.EncodeToString(context), "KBKDF")
	var blocks []byte
	for i := byte(1); i <= 2; i++ {
		fixed := append([]byte{0, 0, 0, i}, "dk-kdf\x00"...)
		fixed = append(append(fixed, context...), 0, 0, 1, 0)
		blocks = append(blocks, o.run(fixed, "mac", "-binary", "-cipher", "AES-256-CBC", "-macopt", "hexkey:"+hex.EncodeToString(key), "-in", "-", "CMAC")...)
	}
	if !bytes.Equal(whole, blocks) {
		o.t.Fatalf("openssl's KBKDF gives %x, its CMACs give %x", whole, blocks)
	}
	return whole
}

func (o *openssl) hmac(key, msg []byte) []byte {
	o.t.Helper()
	return o.run(msg, "mac", "-binary", "-digest", "SHA256", "-macopt", "hexkey:"+hex.EncodeToString(key), "-in", "-", "HMAC")
}

// keyWrap is RFC 3394, to wrap or (d) to unwrap.
func (o *openssl) keyWrap(kek, b []byte, d ...string) []byte {
	o.t.Helper()
	return o.run(b, append([]string{"enc", "-id-aes256-wrap", "-K", hex.EncodeToString(kek), "-iv", "A6A6A6A6A6A6A6A6"}, d...)...)
}

// pair makes a P-256 key of openssl's and gives its point.
func (o *openssl) pair(name string) (file string, point statement.PublicKey) {
	o.t.Helper()
	file = filepath.Join(o.dir, name)
	o.run(nil, "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", file)
	point, err := statement.ParsePEM(o.run(nil, "pkey", "-in", file, "-pubout"))
	must(o.t, err)
	return file, point
}

// ecdh gives the x coordinate that openssl's key and a token's point agree on.
func (o *openssl) ecdh(file string, peer []byte) []byte {
	o.t.Helper()
	p, err := statement.ParsePoint(peer)
	must(o.t, err)
	return o.run(nil, "pkeyutl", "-derive", "-inkey", file, "-peerkey", o.file("peer.pem", p.PEM()))
}

// keys gives the maker's keys in a fresh token that maker.Create filled.
func keys(t testing.TB) (softhsm.Token, *maker.Keys) {
	t.Helper()
	h := softhsm.New(t)
	place := h.Token(t, "spp")
	tok := open(t, h, place.Credentials())
	must(t, maker.Create(t.Context(), tok, maker.Plan{Realm: dev, Masters: []maker.Master{{Version: 1, KDF: hsm.KDF1}, {Version: 2, KDF: hsm.KDF2}}, Purposes: []string{"channel", "drm"}}))
	k, err := maker.Open(t.Context(), tok, dev)
	must(t, err)
	return place, k
}

func open(t testing.TB, h *softhsm.HSM, c hsm.Credentials) *hsm.Token {
	t.Helper()
	tok, err := h.Hsm.Open(t.Context(), c, hsm.Options{KDF2Host: true})
	must(t, err)
	t.Cleanup(func() {
		if err := tok.Close(); err != nil {
			t.Error(err)
		}
	})
	return tok
}

// knownKeys gives the maker's keys in a token to which the custodian's program of the build with the tag
// devicekeys_import brought master keys of known bytes, by label. This process's build has no such way in.
func knownKeys(t testing.TB, masters map[string][]byte) *maker.Keys {
	t.Helper()
	h := softhsm.New(t)
	folder := t.TempDir()
	for label, value := range masters {
		must(t, os.WriteFile(filepath.Join(folder, label), []byte(hex.EncodeToString(value)), 0o600))
	}
	// The token is made here: a token of another process is seen after a restart only.
	token := h.Token(t, "dev-known")
	p := newPlace(t, h.Directory, token.Label)
	must(t, secret.WriteFile(p.path("spp.pin"), token.PIN))
	must(t, secret.WriteFile(p.path("spp-so.pin"), token.SOPIN))
	p.db = recordstest.New(t).Database
	p.custodian("DEVICEKEYS_IMPORT=" + folder)
	k, err := maker.Open(t.Context(), open(t, h, token.Credentials()), dev)
	must(t, err)
	return k
}

func identities(t testing.TB) []identity.Identity {
	t.Helper()
	var all []identity.Identity
	for _, v := range []struct {
		typ   identity.Type
		value string
	}{{identity.TypeIMEI, "00440245000001"}, {identity.TypeIMEI, "00440245999999"}, {identity.TypeEUI48, "0200000000a1"}} {
		id, err := identity.FromValue(v.typ, v.value)
		must(t, err)
		all = append(all, id)
	}
	return all
}

// TestOpensslDerivesDeviceKeys: from master keys that both know, the token and openssl have the same device keys.
// openssl sees the token's key three ways: its MACs, its check value, and its bytes, as the SPP wraps them to a device
// whose chip is openssl.
func TestOpensslDerivesDeviceKeys(t *testing.T) {
	t.Parallel()
	o := newOpenssl(t)
	masters := map[string][]byte{
		maker.MasterLabel(dev, 1): o.sha256([]byte("first master key of this test")),
		maker.MasterLabel(dev, 2): o.sha256([]byte("second master key of this test")),
	}
	k := knownKeys(t, masters)
	chip, err := identity.ParseChipID([]byte("a chip ID of 24 bytes..."))
	must(t, err)
	seen := map[string]bool{}
	for _, c := range []struct {
		key keypackage.KeyID
		kdf func(key, context []byte) []byte
	}{
		{keypackage.KeyID{Name: "channel", KDF: 1, Version: 1}, o.kdf1}, {keypackage.KeyID{Name: "drm", KDF: 1, Version: 1}, o.kdf1},
		{keypackage.KeyID{Name: "channel", KDF: 2, Version: 2}, o.kdf2}, {keypackage.KeyID{Name: "drm", KDF: 2, Version: 2}, o.kdf2},
	} {
		purpose := c.kdf(masters[maker.MasterLabel(dev, c.key.Version)], detcbor.Array("dk-purpose", 1, 1, c.key.KDF, c.key.Version, c.key.Name, 256))
		for i, id := range identities(t) {
			generation := identity.Generation(i + 1)
			record := chip.RecordID()
			want := c.kdf(purpose, detcbor.Array("dk-kdf", 1, 1, c.key.KDF, c.key.Version, c.key.Name, 256, uint8(id.Type()), id.Value(), uint32(generation), record[:]))
			key, err := k.DeviceKey(t.Context(), c.key, keypackage.DeviceKeyContext(dev, c.key, id, generation, record))
			must(t, err)
			// The check value that stands in the manifest, docs/formats.md §6.
			check := detcbor.Array("dk-check", 1, 1, []any{c.key.Name, c.key.KDF, c.key.Version}, chip.Bytes(), id.URN(), uint32(generation))
			for _, msg := range [][]byte{check, []byte("message")} {
				mac, err := key.MAC(t.Context(), msg)
				must(t, err)
				if got := o.hmac(want, msg); !bytes.Equal(got, mac) {
					t.Errorf("key %v of %s: the token's MAC is %x, openssl's %x", c.key, id, mac, got)
				}
			}
			if got := o.travels(k, key); !bytes.Equal(got, want) {
				t.Errorf("key %v of %s: openssl unwraps %x and derives %x", c.key, id, got, want)
			}
			must(t, key.Destroy(t.Context()))
			seen[string(want)] = true
		}
	}
	if len(seen) != 12 {
		t.Errorf("%d different device keys, 12 are expected", len(seen))
	}
}

// travels has the SPP's side wrap a device key to a device whose side openssl computes, and gives the key's bytes.
func (o *openssl) travels(k *maker.Keys, key keypackage.MACKey) []byte {
	t := o.t
	t.Helper()
	ctx := t.Context()
	file, point := o.pair("device.pem")
	s, err := k.NewSender(ctx, point)
	must(t, err)
	transcript := keypackage.Transcript([]byte("hello"), s.Point().Point(), []byte("claims"))
	must(t, s.Bind(ctx, keypackage.SuiteAttested, transcript, false))
	blob, err := s.Wrap(ctx, key)
	must(t, err)
	must(t, s.Close(ctx))
	kek := o.kdf1(o.ecdh(file, s.Point().Point()), detcbor.Array("dk-transfer", 1, 1, "kek", transcript[:]))
	return o.keyWrap(kek, blob, "-d")
}

// verifies follows docs/formats.md §4 with openssl's verifier: the bytes that are signed are put together from the
// statement's by their offsets.
func (o *openssl) verifies(raw []byte, contentType string, key statement.PublicKey) bool {
	o.t.Helper()
	next := func(b []byte) (head, content, rest []byte) {
		switch n := int(b[1]); {
		case b[0]&0xe0 != 0x40:
			o.t.Fatalf("%x is no byte string", b)
		case b[0] < 0x58:
			n = int(b[0] & 0x1f)
			return b[:1], b[1 : 1+n], b[1+n:]
		case b[0] == 0x58:
			return b[:2], b[2 : 2+n], b[2+n:]
		case b[0] == 0x59:
			n = n<<8 | int(b[2])
			return b[:3], b[3 : 3+n], b[3+n:]
		}
		o.t.Fatalf("%x is no short byte string", b[:3])
		return nil, nil, nil
	}
	if !bytes.HasPrefix(raw, []byte{0xd2, 0x84}) {
		o.t.Fatalf("%x is no COSE_Sign1", raw)
	}
	head, protected, rest := next(raw[2:])
	signed := bytes.Join([][]byte{[]byte("\x84\x6aSignature1"), head, protected, {0x40}}, nil)
	if rest[0] != 0xa0 || !bytes.Contains(protected, []byte("application/vnd.devicekeys."+contentType)) {
		o.t.Fatalf("%x is no statement of type %s", raw, contentType)
	}
	head, payload, rest := next(rest[1:])
	signed = append(append(signed, head...), payload...)
	_, rs, rest := next(rest)
	if len(rs) != 64 || len(rest) != 0 {
		o.t.Fatalf("%x does not end in a signature", raw)
	}
	der, err := asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(rs[:32]), new(big.Int).SetBytes(rs[32:])})
	must(o.t, err)
	r := execute(o.t, nil, nil, o.path, "dgst", "-sha256", "-verify", o.file("key.pem", key.PEM()),
		"-signature", o.file("signature.der", der), o.file("signed.bin", signed))
	if yes := strings.Contains(r.out, "Verified OK"); yes != (r.code == 0) {
		o.t.Fatalf("openssl dgst: %v", r)
	}
	return r.code == 0
}

// TestOpensslVerifiesStatements: whatever statement the token signs, openssl verifies, and does not when a byte of it
// is another or the key is.
func TestOpensslVerifiesStatements(t *testing.T) {
	t.Parallel()
	o := newOpenssl(t)
	_, k := keys(t)
	ctx := t.Context()
	chip, err := identity.ParseChipID([]byte("a chip ID of 24 bytes..."))
	must(t, err)
	record := chip.RecordID()
	claims, err := identity.Claims{Subject: identities(t)[0], IssuedAt: 1_800_000_000, ChipID: chip, Realm: dev, Generation: 1, Manifest: [32]byte{1, 2, 3}}.Encode()
	must(t, err)
	certificate, err := k.SignCertificate(ctx, claims)
	must(t, err)
	unlock, err := k.SignUnlock(ctx, identity.Unlock{Realm: dev, Record: record, Next: 2})
	must(t, err)
	scrap, err := k.SignRegistryStatement(ctx, detcbor.Array(1, 1, 3, record[:], 1, make([]byte, 32)))
	must(t, err)
	submission, err := k.SignSubmission(ctx, detcbor.Array(1, 1, "spp-1", [][]byte{[]byte("entry")}))
	must(t, err)
	payload, err := audit.Head{Realm: dev, Seq: 7, At: time.Unix(1_800_000_000, 0), Hash: [32]byte{7}}.Payload()
	must(t, err)
	head, err := k.SignAuditHead(ctx, payload)
	must(t, err)
	for _, s := range []struct {
		contentType string
		raw         []byte
		key, other  statement.PublicKey
	}{
		{"identity+cwt", certificate.Bytes(), k.ROMKey(), k.AuditKey()},
		{"unlock+cbor", unlock, k.ROMKey(), k.AuditKey()},
		{"registry+cbor", scrap, k.ROMKey(), k.SubmissionKey()},
		{"submission+cbor", submission, k.SubmissionKey(), k.ROMKey()},
		{"audit-head+cbor", head, k.AuditKey(), k.ROMKey()},
	} {
		if !o.verifies(s.raw, s.contentType, s.key) {
			t.Errorf("openssl refuses the statement of type %s", s.contentType)
		}
		if o.verifies(s.raw, s.contentType, s.other) {
			t.Errorf("openssl takes the statement of type %s for another key's", s.contentType)
		}
		changed := bytes.Clone(s.raw)
		changed[len(changed)-64-2-1] ^= 1 // the payload's last byte
		if o.verifies(changed, s.contentType, s.key) {
			t.Errorf("openssl takes a changed statement of type %s", s.contentType)
		}
	}
}
