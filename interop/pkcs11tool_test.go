package interop_test

import (
	"regexp"
	"slices"
	"testing"
)

// pkcs11Tool runs OpenSC's pkcs11-tool on a token, logged in with the user's PIN: a thief with the best of starts.
type pkcs11Tool struct {
	t     testing.TB
	path  string
	dir   string
	env   []string
	fixed []string
}

func newPKCS11(t testing.TB, k token) *pkcs11Tool {
	t.Helper()
	return &pkcs11Tool{t, tool(t, "pkcs11-tool"), t.TempDir(), k.env(),
		[]string{"--module", k.tokens.Module(), "--token-label", k.label, "--login", "--pin", "env:" + envPIN}}
}

func (p *pkcs11Tool) run(args ...string) result {
	p.t.Helper()
	return executeIn(p.t, p.dir, p.env, nil, p.path, append(slices.Clone(p.fixed), args...)...)
}

func (p *pkcs11Tool) must(args ...string) string {
	p.t.Helper()
	r := p.run(args...)
	if r.code != 0 {
		p.t.Fatalf("pkcs11-tool %v: %v", args, r)
	}
	return r.out
}

var ckr = regexp.MustCompile(`CKR_[A-Z_]+`)

// attempt gives the module's answer to an attempt: the last code that the tool tells, "" where it succeeded.
func (p *pkcs11Tool) attempt(args ...string) string {
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

// objects gives the paragraphs of one class in pkcs11-tool's list, "" for all.
func objects(listed, class string) []string {
	return regexp.MustCompile(`(?m)^`+class+`[ \w]*[Oo]bject[^\n]*\n(?:  [^\n]*\n)*`).FindAllString(listed, -1)
}

// object finds a key's paragraph in pkcs11-tool's list.
func object(t testing.TB, listed, class, label string) string {
	t.Helper()
	for _, o := range objects(listed, class+" Key") {
		if field(o, "label") == label {
			return o
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
