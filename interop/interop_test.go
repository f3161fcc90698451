package interop_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/softhsm"
	"github.com/devicekeys/devicekeys/untested"
)

const dev = identity.Development

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	defer func() { _ = os.RemoveAll(built.dir) }() // "" removes nothing
	return softhsm.Main(m)
}

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

// built are programs that tests build once.
var built struct {
	sync.Mutex
	dir  string
	made map[string]error
}

// build builds a program with go build's arguments, once by its name, and gives its path.
func build(t testing.TB, name string, args ...string) string {
	t.Helper()
	built.Lock()
	defer built.Unlock()
	if built.dir == "" {
		var err error
		built.dir, err = os.MkdirTemp("", "interop-")
		must(t, err)
		built.made = map[string]error{}
	}
	path := built.dir + "/" + name
	err, ok := built.made[name]
	if !ok {
		var out []byte
		if out, err = exec.Command("go", append([]string{"build", "-o", path}, args...)...).CombinedOutput(); err != nil {
			err = errors.New("build " + name + ": " + err.Error() + "\n" + string(out))
		}
		built.made[name] = err
	}
	must(t, err)
	return path
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
