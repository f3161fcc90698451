package main_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/devicekeys/devicekeys/secret"
	"github.com/devicekeys/devicekeys/softhsm"
	"github.com/devicekeys/devicekeys/softhsm/raw"
)

// A process of this test with the control's variable is the control: it makes devices' PKCS#11 calls raw, and then rests.
const (
	controlPIN     = "DEMO_TEST_CONTROL_PIN"
	controlModule  = "DEMO_TEST_CONTROL_MODULE"
	controlDevices = 50
	controlWait    = time.Minute
)

func TestMain(m *testing.M) {
	if pin := os.Getenv(controlPIN); pin != "" {
		if err := controlProcess(pin, os.Getenv(controlModule)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// controlProcess says when it has made its calls and rests until its input ends.
func controlProcess(pin, module string) (err error) {
	p, err := secret.ReadFile(pin)
	if err != nil {
		return err
	}
	l, err := raw.Open(raw.Config{Module: module, Token: "dev-spp", PIN: p,
		Purpose: "dev-purpose-channel-1", Seal: "dev-pool-seal", Identity: "dev-identity-signing", Submission: "dev-submission"})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	for range controlDevices {
		if err := l.Device(true); err != nil {
			return err
		}
	}
	fmt.Println("made")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// residue gives which keys lie in the memory of the control, at rest: what the module itself leaves there. It works on
// a copy of the SPP's token; the device key that it derives is the one needle that is its own.
func (h *haystack) residue(dir string, purposeKey []byte) map[string]bool {
	h.t.Helper()
	d, err := softhsm.NewDirectory(filepath.Join(h.t.TempDir(), "control"))
	if err != nil {
		h.t.Fatal(err)
	}
	tokens := filepath.Join(d.Path(), "tokens")
	if err := errors.Join(os.Remove(tokens), os.CopyFS(tokens, os.DirFS(filepath.Join(dir, "hsm", "spp", "tokens")))); err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(h.t.Context(), controlWait)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(d.Env(), controlPIN+"="+filepath.Join(dir, "etc", "spp.pin"), controlModule+"="+d.Module())
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	defer func() {
		_ = in.Close()
		if err := cmd.Wait(); err != nil {
			h.t.Errorf("the control: %v", err)
		}
	}()
	if _, err := io.ReadFull(out, make([]byte, len("made\n"))); err != nil {
		h.t.Fatalf("the control made no calls: %v", err)
	}
	c := &haystack{t: h.t}
	for _, n := range h.needles {
		if !strings.HasPrefix(n.name, "the secret of ") {
			c.needles = append(c.needles, n)
		}
	}
	c.needles = append(c.needles, newNeedle("device key of the control", kdf1FromDigest(h.t, purposeKey, make([]byte, 32))))
	if err := c.memory("the control", cmd.Process.Pid); err != nil {
		h.t.Fatal(err)
	}
	left := map[string]bool{}
	for _, f := range c.found {
		name, _, _ := strings.Cut(f, " in the memory")
		left[kind(name)] = true
	}
	return left
}

// kind is a needle's name without what tells it from others of its kind.
func kind(name string) string {
	if strings.HasPrefix(name, "device key") {
		return "device key"
	}
	return name
}
