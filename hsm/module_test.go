package hsm_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/secret"
)

func TestLoadRefuses(t *testing.T) {
	t.Parallel()
	notModule := filepath.Join(t.TempDir(), "libnothing.so")
	if err := os.WriteFile(notModule, []byte("no module"), 0o600); err != nil {
		t.Fatal(err)
	}
	other := hsm.Credentials{Token: hsm.TokenRef{Label: "other"}, PIN: signToken.PIN}
	wrongPIN := hsm.Credentials{Token: signToken.Token, PIN: secret.New([]byte("wrong-wrong"))}
	for name, c := range map[string]struct {
		cfg  hsm.Config
		want string
	}{
		"no path":            {hsm.Config{}, "softhsm2"},
		"no file":            {hsm.Config{Path: "/nonexistent/lib.so"}, "no such file"},
		"a directory":        {hsm.Config{Path: t.TempDir()}, "not a file"},
		"another module":     {hsm.Config{Path: notModule}, "one PKCS#11 module"},
		"another sign token": {hsm.Config{Path: modulePath, SignToken: &other}, "already signs"},
		"another sign PIN":   {hsm.Config{Path: modulePath, SignToken: &wrongPIN}, "PIN refused"},
	} {
		m, err := hsm.Load(t.Context(), c.cfg)
		if err == nil {
			m.Close()
			t.Errorf("%s: loaded", name)
			continue
		}
		if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestModuleIsShared(t *testing.T) {
	t.Parallel()
	link := filepath.Join(t.TempDir(), "link.so")
	if err := os.Symlink(modulePath, link); err != nil {
		t.Fatal(err)
	}
	m, err := hsm.Load(t.Context(), hsm.Config{Path: link}) // the same file by another name
	if err != nil {
		t.Fatal(err)
	}
	c := fresh(t)
	tok, err := m.Open(t.Context(), c, hsm.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err != nil {
		t.Errorf("closed twice: %v", err)
	}
	if err := tok.Check(t.Context()); !errors.Is(err, hsm.ErrClosed) {
		t.Errorf("a token outlived its module handle: %v", err)
	}
	if _, err := m.Open(t.Context(), c, hsm.Options{}); !errors.Is(err, hsm.ErrClosed) {
		t.Errorf("opened through a closed handle: %v", err)
	}
	if err := open(t, c, hsm.Options{}).Check(t.Context()); err != nil {
		t.Errorf("the other handle: %v", err)
	}
}

func TestTokens(t *testing.T) {
	t.Parallel()
	c := fresh(t)
	all, err := module.Tokens(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var found hsm.TokenInfo
	for _, i := range all {
		if !i.Initialised {
			t.Errorf("a free slot is listed: %+v", i)
		}
		if i.Label == c.Token.Label {
			found = i
		}
	}
	if found.Serial == "" || found.Manufacturer != "SoftHSM project" {
		t.Fatalf("%+v", found)
	}
	for name, r := range map[string]hsm.TokenRef{
		"by label": {Label: found.Label}, "by serial": {Serial: found.Serial}, "by both": {Label: found.Label, Serial: found.Serial},
	} {
		if got := open(t, hsm.Credentials{Token: r, PIN: c.PIN}, hsm.Options{}).Info(); got.Serial != found.Serial {
			t.Errorf("%s: %+v", name, got)
		}
	}
	for name, r := range map[string]hsm.TokenRef{
		"no such label": {Label: "nobody"}, "no such serial": {Serial: "ffffffffffffffff"},
		"label of one, serial of another": {Label: "dev-signing", Serial: found.Serial},
	} {
		_, err := module.Open(t.Context(), hsm.Credentials{Token: r, PIN: c.PIN}, hsm.Options{})
		if !errors.Is(err, hsm.ErrNoToken) || hsm.Classify(err) != hsm.Stop {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, r := range map[string]hsm.TokenRef{"nothing": {}, "a long label": {Label: strings.Repeat("x", 33)}, "a long serial": {Serial: strings.Repeat("1", 17)}} {
		if _, err := module.Open(t.Context(), hsm.Credentials{Token: r, PIN: c.PIN}, hsm.Options{}); err == nil {
			t.Errorf("opened by %s", name)
		}
	}
	if _, err := module.Open(t.Context(), c, hsm.Options{Sessions: -1}); err == nil {
		t.Error("opened with -1 sessions")
	}
}

func TestInitTokenRefuses(t *testing.T) {
	t.Parallel()
	c := fresh(t)
	pin := secret.Random(10)
	for name, try := range map[string]struct {
		label string
		pin   secret.Secret
	}{
		"a label in use": {c.Token.Label, pin}, "no label": {"", pin}, "33 bytes": {strings.Repeat("a", 33), pin},
		"blanks": {" a", pin}, "a control character": {"a\n", pin}, "no PIN": {"dev-x", secret.Secret{}},
		"three characters": {"dev-x", secret.New([]byte("123"))}, "256 characters": {"dev-x", secret.New(bytes.Repeat([]byte("1"), 256))},
	} {
		if _, err := module.InitToken(t.Context(), try.label, pin, try.pin); err == nil {
			t.Errorf("made a token with %s", name)
		}
	}
}

// A crash inside InitToken leaves a token that can't be opened and that the same call
// finishes.
func TestInitTokenAfterCrash(t *testing.T) {
	t.Parallel()
	label := fmt.Sprintf("dev-half-made-%d", tokens.Add(1))
	so, pin := secret.Random(10), secret.Random(10)
	if err := module.HalfToken(label, so.Bytes()); err != nil {
		t.Fatal(err)
	}
	c := hsm.Credentials{Token: hsm.TokenRef{Label: label}, PIN: pin}
	if _, err := module.Open(t.Context(), c, hsm.Options{}); !errors.Is(err, hsm.ErrPIN) || !strings.Contains(err.Error(), "initialise it again") {
		t.Errorf("opened half a token: %v", err)
	}
	if _, err := module.InitToken(t.Context(), label, secret.Random(10), pin); !errors.Is(err, hsm.ErrPIN) {
		t.Errorf("finished with another SO PIN: %v", err)
	}
	if _, err := module.InitToken(t.Context(), label, so, pin); err != nil {
		t.Fatal(err)
	}
	generate(t, open(t, c, hsm.Options{}), hsm.Spec{Kind: hsm.ChipKey, Label: "chip", Token: true})
}

func TestTwoTokensOfOneLabel(t *testing.T) {
	t.Parallel()
	c := fresh(t)
	serial := open(t, c, hsm.Options{}).Info().Serial
	if err := module.HalfToken(c.Token.Label, secret.Random(10).Bytes()); err != nil {
		t.Fatal(err)
	}
	if _, err := module.Open(t.Context(), c, hsm.Options{}); err == nil || !strings.Contains(err.Error(), serial) {
		t.Errorf("opened one of two: %v", err)
	}
	c.Token.Serial = serial
	open(t, c, hsm.Options{})
}

// SoftHSM goes on as if nothing had happened when its token's directory is gone; the
// health check doesn't.
func TestTokenDirectoryVanishes(t *testing.T) {
	t.Parallel()
	tok := token(t)
	chip := generate(t, tok, hsm.Spec{Kind: hsm.ChipKey, Label: "chip", Token: true})
	k := derive(t, tok, chip, "x", hsm.ResidentKey)
	if err := tok.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Moved, as another process that starts just now may be writing its lock files there.
	if err := os.Rename(filepath.Dir(objects(t, tok)[0]), filepath.Join(t.TempDir(), "away")); err != nil {
		t.Fatal(err)
	}
	if err := tok.Check(t.Context()); err == nil || hsm.Classify(err) == hsm.None {
		t.Error("healthy without its directory")
	}
	_, err := tok.Derive(t.Context(), chip, hsm.KDF1, []byte("x"), hsm.Spec{Kind: hsm.ResidentKey})
	if err == nil || hsm.Classify(err) == hsm.DataFault {
		t.Errorf("derived from a key that is gone: %v", err)
	}
	// From the first failure on the token is looked at, and then shut for everybody.
	for until := time.Now().Add(30 * time.Second); !errors.Is(tok.Check(t.Context()), hsm.ErrAway); time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			t.Fatal("nobody notices that the token is lost")
		}
	}
	if _, err := k.MAC(t.Context(), []byte("x")); !errors.Is(err, hsm.ErrAway) || hsm.Classify(err) != hsm.Retry {
		t.Errorf("a session key while the token is away: %v", err)
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	tok := token(t)
	give, err := tok.TakeSession(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer give()
	reg := prometheus.NewPedanticRegistry()
	if err := reg.Register(module.Collector()); err != nil {
		t.Fatal(err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	text := ""
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				text += fmt.Sprintf("%s{%s=%q} %v\n", f.GetName(), l.GetName(), l.GetValue(), m.GetGauge().GetValue()+m.GetCounter().GetValue())
			}
		}
	}
	for _, want := range []string{
		`devicekeys_pkcs11_calls_total{function="C_OpenSession"}`, `devicekeys_pkcs11_errors_total{class="retry"}`,
		`devicekeys_pkcs11_errors_total{class="new_session"}`, `devicekeys_pkcs11_errors_total{class="reinitialise"}`,
		`devicekeys_pkcs11_errors_total{class="stop"}`, `devicekeys_pkcs11_errors_total{class="data"}`,
		fmt.Sprintf("devicekeys_pkcs11_sessions_in_use{token=%q} 1\n", tok.Info().Label),
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
}

// A wrong PIN is refused by the token, and by us where the process is logged in and
// the module would take any.
func TestWrongPIN(t *testing.T) {
	t.Parallel()
	c := fresh(t)
	wrong := hsm.Credentials{Token: c.Token, PIN: secret.New([]byte("not-the-pin"))}
	refused := func(when string, c hsm.Credentials) {
		t.Helper()
		_, err := module.Open(t.Context(), c, hsm.Options{})
		if !errors.Is(err, hsm.ErrPIN) || hsm.Classify(err) != hsm.Stop {
			t.Errorf("%s: %v", when, err)
		}
		if strings.Contains(err.Error(), "not-the-pin") {
			t.Errorf("%s: the error shows the PIN", when)
		}
	}
	refused("not logged in", wrong)
	refused("no PIN", hsm.Credentials{Token: c.Token})
	tok := open(t, c, hsm.Options{})
	refused("logged in", wrong)
	second := open(t, c, hsm.Options{})
	if err := tok.Close(); err != nil {
		t.Fatal(err)
	}
	refused("logged in by the second Token", wrong)
	if err := second.Check(t.Context()); err != nil {
		t.Error(err)
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	refused("logged out again", wrong)
	open(t, c, hsm.Options{})
	// crypto11 is logged in to this one all the time.
	refused("logged in through crypto11", hsm.Credentials{Token: signToken.Token, PIN: wrong.PIN})
}

func TestProduction(t *testing.T) {
	t.Parallel()
	m, err := hsm.Load(t.Context(), hsm.Config{Path: modulePath, Production: true})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if _, err := hsm.Load(t.Context(), hsm.Config{Path: modulePath, Production: true, SignToken: &signToken}); !errors.Is(err, hsm.ErrProduction) {
		t.Errorf("TLS keys in SoftHSM in production: %v", err)
	}
	if _, err := m.Open(t.Context(), fresh(t), hsm.Options{}); !errors.Is(err, hsm.ErrProduction) {
		t.Errorf("SoftHSM in production: %v", err)
	}
	for name, c := range map[string]struct{ label, pin string }{
		"a development label": {"dev-x", "a-good-long-pin"}, "a default PIN": {"spp", "12345678"},
		"one character": {"spp", "aaaaaaaaaa"}, "a short PIN": {"spp", "x7!q"}, "SoftHSM": {"spp", "a-good-long-pin"},
	} {
		_, err := m.InitToken(t.Context(), c.label, secret.Random(10), secret.New([]byte(c.pin)))
		if !errors.Is(err, hsm.ErrProduction) {
			t.Errorf("made a token with %s: %v", name, err)
		}
	}
}

func TestLockFileIsBounded(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := hsm.LockFile(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := hsm.LockFile(ctx, path); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a held lock: %v", err)
	}
	unlock()
	again, err := hsm.LockFile(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	again()
	if _, err := hsm.LockFile(t.Context(), filepath.Join(path, "under-a-file")); err == nil {
		t.Error("locked nothing")
	}
}

// The signing token serves crypto11 and this package side by side.
func TestSigner(t *testing.T) {
	t.Parallel()
	tok := open(t, signToken, hsm.Options{})
	label := fmt.Sprintf("tls-%d", tokens.Add(1)) // this token is shared
	k := generate(t, tok, hsm.Spec{Kind: hsm.TLSKey, Label: label, Token: true})
	signer, err := tok.Signer(label)
	if err != nil {
		t.Fatal(err)
	}
	pub := signer.Public().(*ecdsa.PublicKey)
	if raw, err := pub.Bytes(); err != nil || !bytes.Equal(raw, k.Public()) {
		t.Errorf("another public key: %v", err)
	}
	digest := sha256.Sum256([]byte("x"))
	before := module.Calls()["C_Sign"]
	sig, err := signer.Sign(rand.Reader, digest[:], nil)
	if err != nil || !ecdsa.VerifyASN1(pub, digest[:], sig) {
		t.Errorf("signature: %v", err)
	}
	if module.Calls()["C_Sign"] < before+2 {
		t.Error("crypto11's signature isn't counted")
	}
	self := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "spp"}, NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"spp"}}
	der, err := x509.CreateCertificate(rand.Reader, self, self, pub, signer)
	if err != nil {
		t.Fatal(err)
	}
	handshake(t, tls.Certificate{Certificate: [][]byte{der}, PrivateKey: signer})
	if _, err := tok.Signer("nobody"); !errors.Is(err, hsm.ErrNoKey) {
		t.Errorf("no such signer: %v", err)
	}
	if _, err := tok.Signer(""); err == nil {
		t.Error("a signer without a label")
	}
	if _, err := token(t).Signer(label); err == nil {
		t.Error("a signer on another token")
	}
}

func handshake(t *testing.T, cert tls.Certificate) {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			_, err = c.Write([]byte("hello"))
			c.Close()
		}
		done <- err
	}()
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	c, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{RootCAs: roots, ServerName: "spp", MinVersion: tls.VersionTLS13})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	got := make([]byte, 5)
	if _, err := c.Read(got); err != nil || string(got) != "hello" {
		t.Errorf("read %q, %v", got, err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestCodes(t *testing.T) {
	t.Parallel()
	for code, want := range map[hsm.Code]string{
		0x1B: "CKR_ACTION_PROHIBITED", 0x5: "CKR_GENERAL_ERROR", 0x140: "CKR_CURVE_NOT_SUPPORTED",
		0x1B8: "CKR_PIN_TOO_WEAK", 0x4321: "unknown code", 0x80000001: "vendor's own code",
	} {
		if got := code.String(); got != want {
			t.Errorf("%#x is %q, want %q", uint(code), got, want)
		}
		if !strings.Contains(code.Error(), "0x") {
			t.Errorf("%q lacks its number", code.Error())
		}
	}
	for class, codes := range map[hsm.Class][]hsm.Code{
		hsm.Retry:        {0x2, 0x6, 0x31, 0xB1},
		hsm.NewSession:   {0x30, 0x82, 0x60, 0x90, 0xB0, 0xB3},
		hsm.Reinitialise: {0x5, 0x32, 0xE0, 0x101, 0x190},
		hsm.Stop:         {0x1B, 0x68, 0x70, 0xA0, 0xA4, 0xD1, 0x4321},
		hsm.DataFault:    {0x40, 0xC0, 0xC1, 0x110, 0x1B9},
		hsm.None:         {0},
	} {
		for _, c := range codes {
			if got := hsm.Classify(c); got != class {
				t.Errorf("%v is %v, want %v", c, got, class)
			}
		}
	}
	if hsm.Classify(nil) != hsm.None || hsm.Classify(errors.New("x")) != hsm.Stop || hsm.Classify(context.DeadlineExceeded) != hsm.Retry {
		t.Error("errors of others")
	}
}
