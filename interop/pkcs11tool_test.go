package interop_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/devicekeys/devicekeys/provisioning/records/recordstest"
	"github.com/devicekeys/devicekeys/secret"
	"github.com/devicekeys/devicekeys/softhsm"
)

// pkcs11 runs OpenSC's pkcs11-tool on a token, logged in with the user's PIN: a thief with the best of starts.
type pkcs11 struct {
	t     testing.TB
	path  string
	dir   string
	env   []string
	fixed []string
}

func newPKCS11(t testing.TB, tokens *softhsm.Directory, label string, pin secret.Secret) *pkcs11 {
	t.Helper()
	return &pkcs11{t, tool(t, "pkcs11-tool"), t.TempDir(), append(tokens.Env(), "TOKEN_PIN="+string(pin.Bytes())),
		[]string{"--module", tokens.Module(), "--token-label", label, "--login", "--pin", "env:TOKEN_PIN"}}
}

func (p *pkcs11) run(args ...string) result {
	p.t.Helper()
	return executeIn(p.t, p.dir, p.env, nil, p.path, append(slices.Clone(p.fixed), args...)...)
}

func (p *pkcs11) must(args ...string) string {
	p.t.Helper()
	r := p.run(args...)
	if r.code != 0 {
		p.t.Fatalf("pkcs11-tool %v: %v", args, r)
	}
	return r.out
}

var ckr = regexp.MustCompile(`CKR_[A-Z_]+`)

// attempt gives the module's answer to an attempt: the last code that the tool tells, "" where it succeeded.
func (p *pkcs11) attempt(args ...string) string {
	p.t.Helper()
	r := p.run(args...)
	codes := ckr.FindAllString(r.errs, -1)
	switch {
	case r.code == 0:
		return ""
	case len(codes) == 0:
		p.t.Fatalf("pkcs11-tool %v fails, and not because the module says so: %v", args, r)
	}
	return codes[len(codes)-1]
}

// The maker's keys. The tool can call a pair by its ID; secret keys have none, so one to be wrapped is left alone in
// a copy of the token.
var (
	fixedKeys = []string{"dev-master-1", "dev-master-2", "dev-purpose-channel-1", "dev-purpose-drm-1", "dev-purpose-channel-2", "dev-purpose-drm-2"}
	poolKeys  = []string{"dev-pool-unwrap-symmetric", "dev-pool-unwrap-pair", "dev-pool-wrap-symmetric", "dev-pool-wrap-pair", "dev-pool-seal"}
	pairs     = []string{"dev-transport", "dev-identity-signing", "dev-device-ca", "dev-station-ca", "dev-submission", "dev-audit"}
)

// object finds a key's paragraph in pkcs11-tool's list.
func object(t testing.TB, listed, class, label string) string {
	t.Helper()
	for _, b := range regexp.MustCompile(`(?m)^`+class+` Key Object[^\n]*\n(?:  [^\n]*\n)*`).FindAllString(listed, -1) {
		if regexp.MustCompile(`(?m)^  label: +` + label + `$`).MatchString(b) {
			return b
		}
	}
	t.Fatalf("%s is not listed:\n%s", label, listed)
	return ""
}

func field(paragraph, name string) string {
	m := regexp.MustCompile(`(?m)^  ` + name + `: +(.*)$`).FindStringSubmatch(paragraph)
	if m == nil {
		return ""
	}
	return m[1]
}

// TestPKCS11ToolGetsNoKey: with the PIN, pkcs11-tool lists the keys that the custodian made and gets none of them out.
// The same attempts succeed on keys that the tool made to leave, so that the refusals are the keys'.
func TestPKCS11ToolGetsNoKey(t *testing.T) {
	t.Parallel()
	tool(t, "pkcs11-tool")
	h := softhsm.New(t)
	place := newPlace(t, h.NewDirectory(t), "dev-spp")
	place.db = recordstest.New(t).Database
	place.custodian()
	pin, err := secret.ReadFile(place.path("spp.pin"))
	must(t, err)
	p := newPKCS11(t, place.tokens, place.token, pin)

	pristine := t.TempDir()
	must(t, os.CopyFS(pristine, os.DirFS(filepath.Join(place.tokens.Path(), "tokens"))))

	listed := p.must("--list-objects")
	for class, labels := range map[string][]string{"Secret": slices.Concat(fixedKeys, poolKeys), "Private": pairs} {
		if n := strings.Count(listed, class+" Key Object"); n != len(labels) {
			t.Errorf("%d keys of class %s are listed, %d are expected:\n%s", n, class, len(labels), listed)
		}
		for _, label := range labels {
			o := object(t, listed, class, label)
			access := strings.Split(field(o, "Access"), ", ")
			if !slices.Contains(access, "sensitive") || slices.Contains(access, "extractable") || strings.Contains(o, "VALUE") {
				t.Errorf("%s is listed so:\n%s", label, o)
			}
		}
	}

	t.Run("read", func(t *testing.T) {
		p.must("--keygen", "--key-type", "AES:32", "--label", "open", "--id", "f1", "--extractable")
		read := func(label string) string {
			return p.attempt("--read-object", "--type", "secrkey", "--label", label, "--output-file", "value")
		}
		if code := read("open"); code != "" {
			t.Fatalf("the control fails with %s", code)
		}
		for _, label := range slices.Concat(fixedKeys, poolKeys) {
			if code := read(label); code != "CKR_ATTRIBUTE_SENSITIVE" {
				t.Errorf("%s: %q", label, code)
			}
		}
	})

	t.Run("derive", func(t *testing.T) {
		p.must("--keypairgen", "--key-type", "EC:prime256v1", "--label", "agrees", "--id", "f2", "--usage-derive")
		p.must("--read-object", "--type", "pubkey", "--id", "f2", "--output-file", "peer.der")
		derive := func(id string) string {
			return p.attempt("--derive", "--mechanism", "ECDH1-DERIVE", "--id", id, "--input-file", "peer.der", "--output-file", "shared")
		}
		if code := derive("f2"); code != "" {
			t.Fatalf("the control fails with %s", code)
		}
		for _, label := range pairs {
			if label == "dev-transport" {
				continue // it agrees with anyone: what it unwraps stays in the token
			}
			if code := derive(field(object(t, listed, "Private", label), "ID")); code != "CKR_KEY_FUNCTION_NOT_PERMITTED" {
				t.Errorf("%s: %q", label, code)
			}
		}
	})

	t.Run("wrap", func(t *testing.T) {
		o := newOpenssl(t)
		private := filepath.Join(o.dir, "thief.pem")
		o.run(nil, "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", private)
		public := o.file("thief.der", o.run(nil, "pkey", "-in", private, "-pubout", "-outform", "DER"))
		// wrap copies the token, leaves one secret key in it, and has it wrapped under the thief's public key.
		wrap := func(t *testing.T, label string) (code string, file string) {
			tokens, err := softhsm.NewDirectory(filepath.Join(t.TempDir(), "softhsm"))
			must(t, err)
			must(t, os.CopyFS(filepath.Join(tokens.Path(), "tokens"), os.DirFS(pristine)))
			p := newPKCS11(t, tokens, place.token, pin)
			for _, other := range slices.Concat(fixedKeys, poolKeys) {
				if other != label {
					p.must("--delete-object", "--type", "secrkey", "--label", other)
				}
			}
			if label == "leaves" {
				p.must("--keygen", "--key-type", "AES:32", "--label", label, "--sensitive", "--extractable")
			}
			if left := p.must("--list-objects", "--type", "secrkey"); strings.Count(left, "Secret Key Object") != 1 || field(object(t, left, "Secret", label), "Access") == "" {
				t.Fatalf("more than %s is left:\n%s", label, left)
			}
			p.must("--write-object", public, "--type", "pubkey", "--label", "thief", "--id", "f3")
			return p.attempt("--wrap", "--mechanism", "RSA-PKCS", "--id", "f3", "--application-id", "", "--output-file", "out"), filepath.Join(p.dir, "out")
		}
		t.Run("control", func(t *testing.T) {
			t.Parallel()
			code, file := wrap(t, "leaves")
			if code != "" {
				t.Fatalf("it fails with %s", code)
			}
			if value := o.run(nil, "pkeyutl", "-decrypt", "-inkey", private, "-in", file); len(value) != 32 {
				t.Errorf("the thief gets %d bytes, and should get a key of 32", len(value))
			}
		})
		for _, label := range slices.Concat(fixedKeys, poolKeys) {
			t.Run(label, func(t *testing.T) {
				t.Parallel()
				if code, _ := wrap(t, label); code != "CKR_KEY_UNEXTRACTABLE" {
					t.Errorf("%q", code)
				}
			})
		}
	})
}
