package interop_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/softhsm"
	"github.com/devicekeys/devicekeys/untested"
)

const dev = identity.Development

func TestMain(m *testing.M) { os.Exit(softhsm.Main(m)) }

// packages are the programs' Debian packages.
var packages = map[string]string{"openssl": "openssl", "pkcs11-tool": "opensc", "psql": "postgresql-client", "curl": "curl"}

// toolTime bounds one run of a program: each takes milliseconds.
const toolTime = time.Minute

// tool finds a program. Without it the test is skipped, and fails where CI=true.
func tool(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		untested.Skip(t, "%s, which is not installed: install package %s", name, packages[name])
	}
	return path
}

// result is what a program did.
type result struct {
	out, errs string
	code      int // its exit code
}

func (r result) String() string { return "exit code " + strconv.Itoa(r.code) + "\n" + r.out + r.errs }

// execute runs a program with what it reads, in an environment; nil is this process's.
func execute(t testing.TB, env []string, stdin []byte, name string, args ...string) result {
	t.Helper()
	return executeIn(t, "", env, stdin, name, args...)
}

// executeIn does it in a folder.
func executeIn(t testing.TB, dir string, env []string, stdin []byte, name string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), toolTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var out, errs bytes.Buffer
	cmd.Dir, cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = dir, env, bytes.NewReader(stdin), &out, &errs
	err := cmd.Run()
	if e := (*exec.ExitError)(nil); err != nil && !errors.As(err, &e) || ctx.Err() != nil {
		t.Fatalf("%s: %v\n%s", name, err, errs.String())
	}
	return result{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

func read(t testing.TB, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	must(t, err)
	return b
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
