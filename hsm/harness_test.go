package hsm_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/secret"
)

// The tests run on a real SoftHSM: one token directory for the test process, one module,
// a token of its own for each test. The directory is removed at the end.

var (
	module     *hsm.Module
	modulePath string
	tokenDir   string
	lockPath   string
	tokens     atomic.Int64
)

// places are where distributions put SoftHSM's module.
var places = []string{
	"/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/softhsm/libsofthsm.so", "/usr/lib64/pkcs11/libsofthsm2.so",
	"/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so", "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
	"/opt/homebrew/lib/softhsm/libsofthsm2.so", "/usr/local/lib/softhsm/libsofthsm2.so",
}

func findModule() string {
	if p := os.Getenv("SOFTHSM2_MODULE"); p != "" {
		return p
	}
	for _, p := range places {
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	return ""
}

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	modulePath = findModule()
	if modulePath == "" {
		fmt.Fprintln(os.Stderr, "the tests of hsm need SoftHSM: install package softhsm2, or set SOFTHSM2_MODULE")
		return 1
	}
	dir, err := os.MkdirTemp("", "hsm-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	tokenDir, lockPath = filepath.Join(dir, "tokens"), filepath.Join(dir, "lock")
	conf := filepath.Join(dir, "softhsm2.conf")
	text := fmt.Sprintf("directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n", tokenDir)
	if err := errors.Join(os.Mkdir(tokenDir, 0o700), os.WriteFile(conf, []byte(text), 0o600)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	os.Setenv("SOFTHSM2_CONF", conf)
	if role := os.Getenv("HSM_TEST_CHILD"); role != "" {
		return child(role)
	}
	// A first life of the module makes the signing token; the second, in which the tests
	// run, opens it through crypto11 and attaches raw beside it.
	if err := start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if err := module.Close(); err != nil {
		fmt.Fprintln(os.Stderr, "close the module:", err)
		return 1
	}
	return code
}

var signToken hsm.Credentials

func start() error {
	ctx := context.Background()
	first, err := hsm.Load(ctx, hsm.Config{Path: modulePath, LockFile: lockPath})
	if err != nil {
		return err
	}
	pin := secret.Random(10)
	info, err := first.InitToken(ctx, "dev-signing", secret.Random(10), pin)
	if err != nil {
		return err
	}
	if err := first.Close(); err != nil {
		return err
	}
	signToken = hsm.Credentials{Token: hsm.TokenRef{Label: info.Label}, PIN: pin}
	module, err = hsm.Load(ctx, hsm.Config{Path: modulePath, SignToken: &signToken, LockFile: lockPath})
	return err
}

// fresh makes a token of the test's own and gives its credentials.
func fresh(t testing.TB) hsm.Credentials {
	t.Helper()
	c := hsm.Credentials{Token: hsm.TokenRef{Label: fmt.Sprintf("dev-test-%d", tokens.Add(1))}, PIN: secret.Random(10)}
	info, err := module.InitToken(t.Context(), c.Token.Label, secret.Random(10), c.PIN)
	if err != nil {
		t.Fatal(err)
	}
	if info.Label != c.Token.Label || !info.UserPIN || !info.Initialised {
		t.Fatalf("made token says of itself %+v", info)
	}
	return c
}

func open(t testing.TB, c hsm.Credentials, o hsm.Options) *hsm.Token {
	t.Helper()
	tok, err := module.Open(t.Context(), c, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tok.Close(); err != nil {
			t.Error(err)
		}
	})
	return tok
}

// token is a fresh token, opened.
func token(t testing.TB) *hsm.Token {
	t.Helper()
	return open(t, fresh(t), hsm.Options{})
}

func generate(t testing.TB, tok *hsm.Token, s hsm.Spec) *hsm.Key {
	t.Helper()
	k, err := tok.Generate(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func derive(t testing.TB, tok *hsm.Token, base *hsm.Key, context string, k hsm.Kind) *hsm.Key {
	t.Helper()
	d, err := tok.Derive(t.Context(), base, hsm.KDF1, []byte(context), hsm.Spec{Kind: k})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func wrap(t testing.TB, tok *hsm.Token, kek, k *hsm.Key) []byte {
	t.Helper()
	b, err := tok.Wrap(t.Context(), kek, k)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func unwrap(t testing.TB, tok *hsm.Token, kek *hsm.Key, blob []byte, k hsm.Kind) *hsm.Key {
	t.Helper()
	u, err := tok.Unwrap(t.Context(), kek, blob, hsm.Spec{Kind: k})
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func mac(t testing.TB, k *hsm.Key, msg string) []byte {
	t.Helper()
	m, err := k.MAC(t.Context(), []byte(msg))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// known is a value whose bytes a test knows.
func known(b byte) []byte { return bytes.Repeat([]byte{b}, 32) }

func imported(t testing.TB, tok *hsm.Token, s hsm.Spec, value []byte) *hsm.Key {
	t.Helper()
	k, err := tok.Import(t.Context(), s, value)
	if err != nil {
		t.Fatal(err)
	}
	return k
}
