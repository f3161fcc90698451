package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/devicekeys/devicekeys/provisioning/records/recordstest"
	"github.com/devicekeys/devicekeys/softhsm"
)

// TestBesideHalfMadeTokens lays what kills inside C_InitToken leave beside the token: files of a few bytes, of which
// two make SoftHSM abort and one keeps crypto11 from every token. The next start of any command removes them. A
// damaged token that holds something is no command's to remove, and the error says what to do.
func TestBesideHalfMadeTokens(t *testing.T) {
	t.Parallel()
	if _, err := softhsm.Module(); err != nil {
		softhsm.New(t)
	}
	p, err := newPlace(t.TempDir(), recordstest.New(t))
	if err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), "custodian", append(args, "--config", "custodian.yaml")...)
		cmd.Dir, cmd.Env = p.dir, p.tokens.Env()
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := run("setup"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	tokens := filepath.Join(p.tokens.Path(), "tokens")
	file, err := filepath.Glob(filepath.Join(tokens, "*", "token.object"))
	if err != nil || len(file) != 1 {
		t.Fatalf("token files: %v, %v", file, err)
	}
	content, err := os.ReadFile(file[0])
	if err != nil {
		t.Fatal(err)
	}
	plant := func(name string, content []byte, more ...string) string {
		folder := filepath.Join(tokens, name)
		if err := os.Mkdir(folder, 0o700); err != nil {
			t.Fatal(err)
		}
		for _, f := range append(more, "token.object") {
			if err := os.WriteFile(filepath.Join(folder, f), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return folder
	}
	half := func() (folders []string) {
		for _, n := range []int{0, 8, 8, 64} {
			folders = append(folders, plant(fmt.Sprintf("half-%d", len(folders)), content[:n]))
		}
		return folders
	}
	for _, command := range []string{"setup", "show"} {
		folders := half()
		if out, err := run(command); err != nil {
			t.Errorf("%s: %v: %s", command, err, out)
		}
		for _, f := range folders {
			if _, err := os.Stat(f); !os.IsNotExist(err) {
				t.Errorf("%s left %q: %v", command, f, err)
			}
		}
	}
	held := plant("held", content[:8], "3d4b2a1c-0000-0000-0000-000000000000.object")
	out, err := run("setup")
	if err == nil || !strings.Contains(out, "slot 0") || !strings.Contains(out, "backup") {
		t.Errorf("beside a damaged token: %v: %s", err, out)
	}
	if left, err := os.ReadFile(filepath.Join(held, "token.object")); err != nil || !bytes.Equal(left, content[:8]) {
		t.Errorf("the damaged token was touched: %v", err)
	}
}
