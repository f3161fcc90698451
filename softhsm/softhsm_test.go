package softhsm_test

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/softhsm"
)

// macKey makes a key in a token and uses it.
func macKey(t *testing.T, token *hsm.Token) {
	t.Helper()
	key, err := token.Generate(t.Context(), hsm.Spec{Kind: hsm.ChipKey, Label: "chip", Token: true})
	if err != nil {
		t.Fatal(err)
	}
	derived, err := token.Derive(t.Context(), key, hsm.KDF1, []byte("softhsm test"), hsm.Spec{Kind: hsm.ChipSealKey})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := derived.Seal(t.Context(), []byte("aad"), []byte("text")); err != nil {
		t.Fatal(err)
	}
}

func TestModule(t *testing.T) {
	softhsm.New(t) // or skip
	path, err := softhsm.Module()
	if err != nil || !strings.HasSuffix(path, "libsofthsm2.so") {
		t.Errorf("%q, %v", path, err)
	}
	for name, ok := range map[string]bool{path: true, "/nowhere/libsofthsm2.so": false, t.TempDir(): false} {
		t.Setenv("SOFTHSM2_MODULE", name)
		got, err := softhsm.Module()
		if ok && (err != nil || got != name) {
			t.Errorf("%q: %q, %v", name, got, err)
		}
		if !ok && (!errors.Is(err, softhsm.ErrNotInstalled) || !strings.Contains(err.Error(), "SOFTHSM2_MODULE")) {
			t.Errorf("%q: %q, %v", name, got, err)
		}
	}
}

// TestParallel: tests at once have tokens of their own in one directory.
func TestParallel(t *testing.T) {
	t.Parallel()
	var seen sync.Map
	for i := range 4 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			h := softhsm.New(t)
			for range 3 {
				made := h.Token(t, "device")
				if before, twice := seen.LoadOrStore(made.Serial, made.Label); twice {
					t.Errorf("%s and %s are one token", made.Label, before)
				}
				if before, twice := seen.LoadOrStore(made.Label, true); twice {
					t.Errorf("label %s twice (%v)", made.Label, before)
				}
				if before, twice := seen.LoadOrStore(string(made.PIN.Bytes()), true); twice {
					t.Errorf("one PIN twice (%v)", before)
				}
				token := h.Open(t, made)
				if info := token.Info(); info.Label != made.Label || info.Serial != made.Serial {
					t.Errorf("opened %v, made %s %s", info, made.Label, made.Serial)
				}
				macKey(t, token)
			}
		})
	}
}

func TestSlots(t *testing.T) {
	t.Parallel()
	h := softhsm.New(t)
	const n = 100
	var told []int
	began := time.Now()
	slots := h.Slots(t, n, func(made int) { told = append(told, made) })
	t.Logf("%v per slot", time.Since(began)/n)
	if len(slots) != n || len(told) != n || told[0] != 1 || told[n-1] != n {
		t.Fatalf("%d slots, progress %v", len(slots), told)
	}
	tokens, err := h.Hsm.Tokens(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]string{}
	for _, i := range tokens {
		there[i.Serial] = i.Label
	}
	for _, s := range slots {
		if there[s.Serial] != s.Label {
			t.Errorf("slot %s (%s) is %q in the module", s.Label, s.Serial, there[s.Serial])
		}
	}
	macKey(t, h.Open(t, slots[0]))
	macKey(t, h.Open(t, slots[n-1]))
}

// TestWrongPIN: the PIN given out is the token's.
func TestWrongPIN(t *testing.T) {
	t.Parallel()
	h := softhsm.New(t)
	made := h.Token(t, "pin")
	c := made.Credentials()
	c.PIN = made.SOPIN
	if token, err := h.Hsm.Open(t.Context(), c, hsm.Options{}); !errors.Is(err, hsm.ErrPIN) {
		t.Errorf("opened with another PIN: %v", err)
		if err == nil {
			token.Close()
		}
	}
	h.Open(t, made)
}

// TestSignToken: crypto11 works beside the rest.
func TestSignToken(t *testing.T) {
	t.Parallel()
	h := softhsm.New(t)
	token := h.Open(t, h.SignToken)
	label := "tls-" + rand.Text() // the token is shared
	if _, err := token.Generate(t.Context(), hsm.Spec{Kind: hsm.TLSKey, Label: label, Token: true}); err != nil {
		t.Fatal(err)
	}
	signer, err := token.Signer(label)
	if err != nil {
		t.Fatal(err)
	}
	if signer.Public() == nil {
		t.Error("no public key")
	}
}

// TestNothingLeft runs this package's tests in a child with a folder for temporary files
// of its own, and looks at what is in there afterwards.
func TestNothingLeft(t *testing.T) {
	t.Parallel()
	softhsm.New(t)
	for how, left := range map[string]int{"end": 0, "fail": 0, "die": 1} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			out, err := child(t, how, dir).CombinedOutput()
			if (how == "end") != (err == nil) {
				t.Fatalf("child: %v\n%s", err, out)
			}
			if !strings.Contains(string(out), "child is "+how) {
				t.Fatalf("child did not get there:\n%s", out)
			}
			found := entries(t, dir)
			if len(found) != left {
				t.Fatalf("left: %q\n%s", found, out)
			}
			if left == 0 {
				return
			}
			// Too young to be taken for abandoned, then old enough.
			for _, gone := range []bool{false, true} {
				if gone {
					old := time.Now().Add(-time.Hour)
					if err := os.Chtimes(filepath.Join(found[0], "alive"), old, old); err != nil {
						t.Fatal(err)
					}
				}
				if out, err := child(t, "end", dir).CombinedOutput(); err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				_, err := os.Stat(found[0])
				if errors.Is(err, fs.ErrNotExist) != gone {
					t.Errorf("want it gone: %v, but: %v", gone, err)
				}
			}
		})
	}
}

// TestTwoProcesses runs two test processes at once, with the folder for temporary files in
// common; each sees the tokens it made and no others.
func TestTwoProcesses(t *testing.T) {
	t.Parallel()
	softhsm.New(t)
	dir := t.TempDir()
	var wait sync.WaitGroup
	var ended atomic.Int32
	for range 2 {
		wait.Go(func() {
			if out, err := child(t, "many", dir).CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
			ended.Add(1)
		})
	}
	wait.Wait()
	if found := entries(t, dir); len(found) > 0 {
		t.Errorf("left: %q", found)
	}
}

// TestMissing: without SoftHSM tests are skipped on a laptop and fail in CI.
func TestMissing(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		env  []string
		how  string
		says string
		ok   bool
	}{
		"laptop":   {[]string{"CI="}, "end", "--- SKIP: TestChild", true},
		"ci":       {[]string{"CI=true"}, "end", "--- FAIL: TestChild", false},
		"required": {[]string{"CI="}, "required", "--- FAIL: TestChild", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := child(t, c.how, t.TempDir())
			cmd.Env = append(append(cmd.Env, "SOFTHSM2_MODULE=/nowhere/libsofthsm2.so"), c.env...)
			out, err := cmd.CombinedOutput()
			if (err == nil) != c.ok || !strings.Contains(string(out), c.says) || !strings.Contains(string(out), "not installed") {
				t.Errorf("%v, want %q in:\n%s", err, c.says, out)
			}
		})
	}
}

func entries(t *testing.T, dir string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func child(t *testing.T, how, tmp string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, "-test.run=^TestChild$", "-test.v")
	cmd.Env = append(os.Environ(), "SOFTHSM_TEST_CHILD="+how, "TMPDIR="+tmp)
	return cmd
}

// TestChild is the child process of other tests.
func TestChild(t *testing.T) {
	how := os.Getenv("SOFTHSM_TEST_CHILD")
	if how == "" {
		return
	}
	var opts []softhsm.Option
	if how == "required" {
		opts = append(opts, softhsm.Required())
	}
	h := softhsm.New(t, opts...)
	fmt.Println("child is", how)
	switch how {
	case "end":
		macKey(t, h.Open(t, h.Token(t, "a")))
	case "fail":
		h.Open(t, h.Token(t, "a"))
		t.Fatal("as asked")
	case "die":
		h.Open(t, h.Token(t, "a"))
		os.Exit(3)
	case "many":
		const n = 20
		for _, made := range h.Slots(t, n) {
			macKey(t, h.Open(t, made))
		}
		tokens, err := h.Hsm.Tokens(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(tokens) != n+1 { // and the one for signing
			t.Errorf("%d tokens, %d made", len(tokens), n+1)
		}
	}
}

func TestMain(m *testing.M) {
	// The children show what happens without Main.
	if os.Getenv("SOFTHSM_TEST_CHILD") != "" {
		os.Exit(m.Run())
	}
	os.Exit(softhsm.Main(m))
}
