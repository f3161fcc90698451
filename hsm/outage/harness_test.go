package outage_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/secret"
	"github.com/devicekeys/devicekeys/softhsm"
)

var (
	module    *hsm.Module
	shim      *softhsm.Shim
	directory *softhsm.Directory
	signToken hsm.Credentials
	tokens    atomic.Int64
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) (code int) {
	path, err := os.MkdirTemp("", "hsm-outage-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(path)
	if err := setUp(path); err != nil {
		fmt.Fprintln(os.Stderr, "the tests of outage need SoftHSM and a C compiler:", err)
		return 1
	}
	code = m.Run()
	shim.Clear()
	if err := module.Close(); err != nil {
		fmt.Fprintln(os.Stderr, "close the module:", err)
		return 1
	}
	return code
}

func setUp(path string) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if directory, err = softhsm.NewDirectory(filepath.Join(path, "softhsm")); err != nil {
		return err
	}
	if shim, err = softhsm.BuildShim(ctx, path); err != nil {
		return err
	}
	if err := directory.Attach(); err != nil {
		return err
	}
	if err := shim.Attach(); err != nil {
		return err
	}
	signToken = hsm.Credentials{Token: hsm.TokenRef{Label: "dev-sign"}, PIN: secret.Random(15)}
	cfg := hsm.Config{Path: shim.Module(), LockFile: directory.LockFile()}
	first, err := hsm.Load(ctx, cfg)
	if err != nil {
		return err
	}
	if _, err := first.InitToken(ctx, signToken.Token.Label, secret.Random(15), signToken.PIN); err != nil {
		return err
	}
	if err := first.Close(); err != nil {
		return err
	}
	cfg.SignToken = &signToken
	module, err = hsm.Load(ctx, cfg)
	return err
}

// fresh makes a token of the test's own. Whatever the test does to the module ends with
// it.
func fresh(t testing.TB) hsm.Credentials {
	t.Helper()
	t.Cleanup(shim.Clear)
	c := hsm.Credentials{Token: hsm.TokenRef{Label: fmt.Sprintf("dev-outage-%d", tokens.Add(1))}, PIN: secret.Random(15)}
	if _, err := module.InitToken(t.Context(), c.Token.Label, secret.Random(15), c.PIN); err != nil {
		t.Fatal(err)
	}
	return c
}

func open(t testing.TB, c hsm.Credentials, o hsm.Options) *hsm.Token {
	t.Helper()
	var tok *hsm.Token
	eventually(t, "open the token", func() (err error) { // a test before this one may have lost it
		tok, err = module.Open(t.Context(), c, o)
		return err
	})
	t.Cleanup(func() {
		shim.Clear()
		if err := tok.Close(); err != nil {
			t.Error(err)
		}
	})
	return tok
}

const (
	// patience bounds the wait for something that must happen: far more than it takes.
	patience = 30 * time.Second
	// glance is the time between two looks at whether it has.
	glance = 5 * time.Millisecond
)

// eventually runs f until it gives nil.
func eventually(t testing.TB, what string, f func() error) {
	t.Helper()
	for until := time.Now().Add(patience); ; time.Sleep(glance) {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(until) {
			t.Fatalf("%s: not within %v, and at last: %v", what, patience, err)
		}
	}
}

// fails has a function of the module fail.
func fails(t testing.TB, r softhsm.Rule) {
	t.Helper()
	if err := shim.Fail(r); err != nil {
		t.Fatal(err)
	}
}

func generate(t testing.TB, tok *hsm.Token, kind hsm.Kind, label string) *hsm.Key {
	t.Helper()
	k, err := tok.Generate(t.Context(), hsm.Spec{Kind: kind, Label: label, Token: true})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// gauges reads the module's metrics by name, and by name{token}.
func gauges(t testing.TB) map[string]float64 {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	if err := r.Register(module.Collector()); err != nil {
		t.Fatal(err)
	}
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += "{" + l.GetValue() + "}"
			}
			all[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return all
}

func reopened(t testing.TB) float64 {
	t.Helper()
	return gauges(t)["devicekeys_pkcs11_reopened_total"]
}

// delta is what a count grew by.
func delta(before, after map[string]uint64) map[string]uint64 {
	d := map[string]uint64{}
	for name, n := range after {
		if n > before[name] {
			d[name] = n - before[name]
		}
	}
	return d
}
