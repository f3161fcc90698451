package interop_test

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/hsm/maker"
	"github.com/devicekeys/devicekeys/softhsm"
)

// TestNoKeyLeavesAToken: with the PIN, pkcs11-tool lists in a token of each kind what the product says is there, and
// neither it nor the module itself gives any key out. The same attempts succeed on keys that were made to leave, so that
// the refusals are the keys'.
func TestNoKeyLeavesAToken(t *testing.T) {
	t.Parallel()
	tool(t, "pkcs11-tool")
	for name, k := range newTokens(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pristine := t.TempDir()
			must(t, os.CopyFS(pristine, os.DirFS(filepath.Join(k.tokens.Path(), "tokens"))))
			p := newPKCS11(t, k)
			listed := p.must("--list-objects")
			t.Run("list", func(t *testing.T) { compare(t, listed, k) })
			t.Run("publish", func(t *testing.T) { publicKeys(t, p, k) })
			t.Run("attempt", func(t *testing.T) { attempt(t, k) })
			// From here on the token holds the thief's keys too.
			t.Run("read", func(t *testing.T) { readKeys(t, p, k) })
			t.Run("derive", func(t *testing.T) { derive(t, p, listed, k) })
			t.Run("wrap", func(t *testing.T) { wrap(t, pristine, k) })
		})
	}
}

// usages are pkcs11-tool's words for what a secret or private key may do.
var usages = []struct{ attribute, word string }{
	{"CKA_ENCRYPT", "encrypt"}, {"CKA_DECRYPT", "decrypt"}, {"CKA_SIGN", "sign"}, {"CKA_SIGN_RECOVER", "signRecover"},
	{"CKA_VERIFY", "verify"}, {"CKA_WRAP", "wrap"}, {"CKA_UNWRAP", "unwrap"}, {"CKA_DERIVE", "derive"},
}

// usage is what the inventory says that a key may do, in pkcs11-tool's words.
func usage(i maker.Item) (words []string) {
	if i.KDF == hsm.KDF2 {
		return []string{"none"} // it signs, see docs/keys.md; of secret keys pkcs11-tool 0.23 doesn't tell that
	}
	for _, u := range usages {
		if i.Value(u.attribute) == "true" {
			words = append(words, u.word)
		}
	}
	return words
}

// listedKey is a key as the list has it, and as it should.
type listedKey struct {
	Class, Label string
	Usage        []string
}

// compare holds pkcs11-tool's list against the inventory: these keys, with these usages, and no other.
func compare(t *testing.T, listed string, k token) {
	var got, want []listedKey
	for _, class := range []string{"Secret", "Private"} {
		for _, o := range objects(listed, class+" Key") {
			got = append(got, listedKey{class, field(o, "label"), strings.Split(field(o, "Usage"), ", ")})
			access := strings.Split(field(o, "Access"), ", ")
			if !slices.Contains(access, "sensitive") || slices.Contains(access, "extractable") || strings.Contains(o, "VALUE") {
				t.Errorf("it is listed so:\n%s", o)
			}
		}
	}
	for _, i := range k.keys {
		class, ok := map[string]string{"SECRET_KEY": "Secret", "PRIVATE_KEY": "Private"}[i.Value("CKA_CLASS")]
		if !ok {
			t.Fatalf("the inventory has %s of class %q", i.Label, i.Value("CKA_CLASS"))
		}
		want = append(want, listedKey{class, i.Label, usage(i)})
	}
	byLabel := func(a, b listedKey) int { return strings.Compare(a.Label, b.Label) }
	slices.SortFunc(got, byLabel)
	slices.SortFunc(want, byLabel)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("pkcs11-tool lists other keys than the inventory (-inventory +list):\n%s", diff)
	}
	others := len(objects(listed, "Public Key")) + len(objects(listed, "Data"))
	if all := len(objects(listed, "")); all != len(got)+others {
		t.Errorf("%d objects are listed, %d of them are keys and data:\n%s", all, len(got)+others, listed)
	}
}

// publicKeys reads the public half of every pair: it is the inventory's.
func publicKeys(t *testing.T, p *pkcs11Tool, k token) {
	for _, i := range k.keys {
		if i.Value("CKA_CLASS") != "PRIVATE_KEY" {
			continue
		}
		p.must("--read-object", "--type", "pubkey", "--label", i.Label, "--output-file", "public.der")
		der := read(t, filepath.Join(p.dir, "public.der"))
		if block, _ := pem.Decode(der); block != nil {
			der = block.Bytes // pkcs11-tool writes Ed25519 so
		}
		public, err := x509.ParsePKIXPublicKey(der)
		if err != nil {
			t.Errorf("%s: the public half is no public key: %v", i.Label, err)
			continue
		}
		if i.Kind == hsm.CheckpointKey.String() {
			if !k.checkpoint.Equal(public) {
				t.Errorf("%s: the public half is %x, the custodian published %x", i.Label, public, k.checkpoint)
			}
			continue
		}
		digest := sha256.Sum256(der)
		if id := hex.EncodeToString(digest[:8]); i.PublicKey != "" && id != i.PublicKey { // docs/formats.md §3
			t.Errorf("%s: the public half is %s, the inventory's %s", i.Label, id, i.PublicKey)
		}
	}
}

// attempt has the module itself try to give out every key: its value, or wrapped under a fresh AES key.
func attempt(t *testing.T, k token) {
	var got, want []attempts
	got = cryptoki(t, k)
	for class, labels := range map[string][]string{"Secret": k.of("SECRET_KEY"), "Private": k.of("PRIVATE_KEY")} {
		want = append(want, attempts{Class: class, Label: plantedKey})
		for _, label := range labels {
			want = append(want, attempts{class, label, "CKR_ATTRIBUTE_SENSITIVE", "CKR_KEY_UNEXTRACTABLE"})
		}
	}
	order := func(a, b attempts) int { return strings.Compare(a.Class+a.Label, b.Class+b.Label) }
	slices.SortFunc(got, order)
	slices.SortFunc(want, order)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the module gives other answers (-want +got):\n%s", diff)
	}
}

// readKeys asks for every secret key's value. Of private keys pkcs11-tool asks none.
func readKeys(t *testing.T, p *pkcs11Tool, k token) {
	p.must("--keygen", "--key-type", "AES:32", "--label", "open", "--id", "f1", "--extractable")
	read := func(label string) string {
		return p.attempt("--read-object", "--type", "secrkey", "--label", label, "--output-file", "value")
	}
	if code := read("open"); code != "" {
		t.Fatalf("the control fails with %s", code)
	}
	for _, label := range k.of("SECRET_KEY") {
		if code := read(label); code != "CKR_ATTRIBUTE_SENSITIVE" {
			t.Errorf("%s: %q", label, code)
		}
	}
}

// derive asks every private key for an agreement.
func derive(t *testing.T, p *pkcs11Tool, listed string, k token) {
	p.must("--keypairgen", "--key-type", "EC:prime256v1", "--label", "agrees", "--id", "f2", "--usage-derive")
	p.must("--read-object", "--type", "pubkey", "--id", "f2", "--output-file", "peer.der")
	derive := func(id string) string {
		return p.attempt("--derive", "--mechanism", "ECDH1-DERIVE", "--id", id, "--input-file", "peer.der", "--output-file", "shared")
	}
	if code := derive("f2"); code != "" {
		t.Fatalf("the control fails with %s", code)
	}
	for _, label := range k.of("PRIVATE_KEY") {
		if label == "dev-transport" || label == "dev-checkpoint" {
			continue // the one agrees with anyone: what it unwraps stays in the token; the other is of another curve
		}
		if code := derive(field(object(t, listed, "Private", label), "ID")); code != "CKR_KEY_FUNCTION_NOT_PERMITTED" {
			t.Errorf("%s: %q", label, code)
		}
	}
}

// wrap has pkcs11-tool wrap each secret key under the thief's public key. The tool can call a pair by its ID; secret
// keys have none, so one to be wrapped is left alone in a copy of the token.
func wrap(t *testing.T, pristine string, k token) {
	if len(k.of("SECRET_KEY")) == 0 {
		return
	}
	o := newOpenssl(t)
	private := filepath.Join(o.dir, "thief.pem")
	o.run(nil, "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", private)
	public := o.file("thief.der", o.run(nil, "pkey", "-in", private, "-pubout", "-outform", "DER"))
	const leaves = "leaves"
	wrap := func(t *testing.T, label string) (code string, file string) {
		tokens, err := softhsm.NewDirectory(filepath.Join(t.TempDir(), "softhsm"))
		must(t, err)
		must(t, os.CopyFS(filepath.Join(tokens.Path(), "tokens"), os.DirFS(pristine)))
		k := token{tokens: tokens, label: k.label, pin: k.pin}
		keep(t, k, label)
		p := newPKCS11(t, k)
		if label == leaves {
			p.must("--keygen", "--key-type", "AES:32", "--label", label, "--sensitive", "--extractable")
		}
		if left := p.must("--list-objects", "--type", "secrkey"); len(objects(left, "Secret Key")) != 1 || field(object(t, left, "Secret", label), "Access") == "" {
			t.Fatalf("more than %s is left:\n%s", label, left)
		}
		p.must("--write-object", public, "--type", "pubkey", "--label", "thief", "--id", "f3")
		return p.attempt("--wrap", "--mechanism", "RSA-PKCS", "--id", "f3", "--application-id", "", "--output-file", "out"), filepath.Join(p.dir, "out")
	}
	t.Run("control", func(t *testing.T) {
		t.Parallel()
		code, file := wrap(t, leaves)
		if code != "" {
			t.Fatalf("it fails with %s", code)
		}
		if value := o.run(nil, "pkeyutl", "-decrypt", "-inkey", private, "-in", file); len(value) != 32 {
			t.Errorf("the thief gets %d bytes, and should get a key of 32", len(value))
		}
	})
	for _, label := range k.of("SECRET_KEY") {
		t.Run(label, func(t *testing.T) {
			t.Parallel()
			if code, _ := wrap(t, label); code != "CKR_KEY_UNEXTRACTABLE" {
				t.Errorf("%q", code)
			}
		})
	}
}
