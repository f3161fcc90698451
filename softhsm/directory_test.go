package softhsm_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/devicekeys/devicekeys/secret"
	"github.com/devicekeys/devicekeys/softhsm"
	"github.com/google/go-cmp/cmp"
)

// settings are the lines of a configuration, as SoftHSM reads them.
func settings(t *testing.T, d *softhsm.Directory) map[string]string {
	t.Helper()
	conf, err := os.ReadFile(d.Conf())
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for line := range strings.Lines(string(conf)) {
		line, _, _ = strings.Cut(line, "#")
		if name, value, ok := strings.Cut(line, "="); ok {
			got[strings.TrimSpace(name)] = strings.TrimSpace(value)
		}
	}
	return got
}

func TestDirectory(t *testing.T) {
	t.Parallel()
	softhsm.New(t) // or skip
	path := filepath.Join(t.TempDir(), "with space", "ünïcode, 'quotes' and more")
	d, err := softhsm.NewDirectory(path)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"directories.tokendir":  filepath.Join(path, "tokens"),
		"objectstore.backend":   "file",
		"log.level":             "ERROR",
		"slots.removable":       "false",
		"slots.mechanisms":      "ALL",
		"library.reset_on_fork": "false",
	}
	if diff := cmp.Diff(want, settings(t, d)); diff != "" {
		t.Errorf("configuration (-want +got):\n%s", diff)
	}
	for name, mode := range map[string]os.FileMode{d.Path(): 0o700, filepath.Join(path, "tokens"): 0o700, d.Conf(): 0o600} {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != mode {
			t.Errorf("%s has mode %v", name, info.Mode())
		}
	}
	token := d.Token(t, "first token")

	// Opened again it is the same, with what somebody changed in the configuration.
	conf, err := os.ReadFile(d.Conf())
	if err != nil {
		t.Fatal(err)
	}
	conf = bytes.Replace(conf, []byte("ERROR"), []byte("WARNING"), 1)
	if err := os.WriteFile(d.Conf(), conf, 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := softhsm.NewDirectory(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := settings(t, again)["log.level"]; got != "WARNING" {
		t.Errorf("the configuration was overwritten: %s", got)
	}
	if out := show(t, again); !strings.Contains(out, token.Serial) || !strings.Contains(out, "first token") {
		t.Errorf("the token is not in:\n%s", out)
	}

	// Moved, its configuration would lead to the old place.
	moved := filepath.Join(t.TempDir(), "moved")
	if err := os.Rename(path, moved); err != nil {
		t.Fatal(err)
	}
	if _, err := softhsm.NewDirectory(moved); err == nil || !strings.Contains(err.Error(), "remove") {
		t.Errorf("a moved directory: %v", err)
	}
	if err := os.Remove(filepath.Join(moved, "softhsm2.conf")); err != nil {
		t.Fatal(err)
	}
	d, err = softhsm.NewDirectory(moved)
	if err != nil {
		t.Fatal(err)
	}
	if out := show(t, d); !strings.Contains(out, token.Serial) {
		t.Errorf("after the move the token is not in:\n%s", out)
	}
}

// show is what a child process sees of a directory.
func show(t *testing.T, d *softhsm.Directory) string {
	t.Helper()
	cmd := exec.Command("softhsm2-util", "--show-slots", "--module", d.Module())
	cmd.Env = d.Env()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}

func TestDirectoryRefuses(t *testing.T) {
	t.Parallel()
	softhsm.New(t)
	for name, path := range map[string]string{
		"none":       "",
		"comment":    filepath.Join(t.TempDir(), "a#b"),
		"equal sign": filepath.Join(t.TempDir(), "a=b"),
		"newline":    filepath.Join(t.TempDir(), "a\nb"),
		"long":       filepath.Join(t.TempDir(), strings.Repeat(strings.Repeat("x", 99)+"/", 10)),
	} {
		if _, err := softhsm.NewDirectory(path); err == nil {
			t.Errorf("%s: made", name)
		}
		if path != "" {
			if _, err := os.Stat(path); err == nil {
				t.Errorf("%s: refused and made", name)
			}
		}
	}
}

func TestInitTokenRefuses(t *testing.T) {
	t.Parallel()
	h := softhsm.New(t)
	d := h.NewDirectory(t)
	pin := secret.Random(15)
	d.Token(t, "taken")
	for name, c := range map[string]struct {
		label     string
		so, user  secret.Secret
		complaint string
	}{
		"taken":        {"taken", pin, pin, "exists"},
		"empty":        {"", pin, pin, "1 to 32"},
		"long":         {strings.Repeat("x", 33), pin, pin, "1 to 32"},
		"space at end": {"x ", pin, pin, "no space"},
		"not ASCII":    {"ü", pin, pin, "ASCII"},
		"newline":      {"a\nb", pin, pin, "ASCII"},
		"no PIN":       {"a", pin, secret.Secret{}, "PIN"},
		"no SO PIN":    {"a", secret.Secret{}, pin, "PIN"},
		"short PIN":    {"a", pin, secret.New([]byte("123")), "softhsm2-util"},
	} {
		_, err := d.InitToken(c.label, c.so, c.user)
		if err == nil || !strings.Contains(err.Error(), c.complaint) {
			t.Errorf("%s: %v, want %q", name, err, c.complaint)
		} else if strings.Contains(err.Error(), string(pin.Bytes())) {
			t.Errorf("%s: the error shows a PIN", name)
		}
	}
	if n := strings.Count(show(t, d), "Initialized:      yes"); n != 1 {
		t.Errorf("%d tokens, want 1", n)
	}
}

// TestInitTokenTogether: several at once in one directory, all different.
func TestInitTokenTogether(t *testing.T) {
	t.Parallel()
	h := softhsm.New(t)
	d := h.NewDirectory(t)
	var wait sync.WaitGroup
	var mu sync.Mutex
	made, refused := map[string]bool{}, 0
	for i := range 6 {
		label := []string{"a", "b", "c"}[i%3]
		wait.Go(func() {
			token, err := d.InitToken(label, secret.Random(15), secret.Random(15))
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				refused++
				return
			}
			made[token.Serial] = true
		})
	}
	wait.Wait()
	if len(made) != 3 || refused != 3 {
		t.Errorf("%d tokens, %d refusals", len(made), refused)
	}
	if n := strings.Count(show(t, d), "Initialized:      yes"); n != 3 {
		t.Errorf("%d tokens in the directory", n)
	}
}

// TestAttach: one directory per process; the environment of children names the other.
func TestAttach(t *testing.T) {
	t.Parallel()
	h := softhsm.New(t)
	d := h.NewDirectory(t)
	if err := d.Attach(); err == nil || !strings.Contains(err.Error(), "detach that first") {
		t.Errorf("a second directory was attached: %v", err)
	}
	if err := d.Detach(); err != nil { // isn't attached: nothing happens
		t.Error(err)
	}
	if err := h.Directory.Attach(); err != nil { // again
		t.Error(err)
	}
	if got := os.Getenv("SOFTHSM2_CONF"); got != h.Directory.Conf() {
		t.Errorf("SOFTHSM2_CONF is %q", got)
	}
	var confs []string
	for _, v := range d.Env() {
		if conf, ok := strings.CutPrefix(v, "SOFTHSM2_CONF="); ok {
			confs = append(confs, conf)
		}
	}
	if diff := cmp.Diff([]string{d.Conf()}, confs); diff != "" {
		t.Errorf("environment of children (-want +got):\n%s", diff)
	}
	here, there := h.Token(t, "here"), d.Token(t, "there")
	if out := show(t, d); !strings.Contains(out, there.Serial) || strings.Contains(out, here.Serial) {
		t.Errorf("the other directory holds:\n%s", out)
	}
	tokens, err := h.Hsm.Tokens(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range tokens {
		if i.Serial == there.Serial {
			t.Error("this process sees the other directory's token")
		}
	}
}

func FuzzParseSlots(f *testing.F) {
	f.Add([]byte(""))
	f.Add([]byte("Slot 1\n Serial number: 0123456789abcdef\n Initialized: yes\n Label: a b\n"))
	f.Add([]byte("Serial number:\nInitialized: no\nLabel:\n"))
	f.Add([]byte("Label: a\nInitialized: yes\nSerial number: 1\n"))
	f.Fuzz(func(t *testing.T, out []byte) {
		for label, serials := range softhsm.ParseSlots(out) {
			for _, s := range serials {
				if s == "" || label == "" || !bytes.Contains(out, []byte(s)) {
					t.Errorf("label %q, serial %q from %q", label, s, out)
				}
			}
		}
	})
}
