// Package formats_test runs the second implementation of the formats, which is
// written in Python from docs/formats.md alone, over the golden values and over
// what the product makes: what it writes must be readable by anyone who has
// that page.
package formats_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/softhsm"
	"github.com/devicekeys/devicekeys/untested"
)

func TestMain(m *testing.M) { os.Exit(softhsm.Main(m)) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// pythonTime bounds one run on a loaded machine; a run takes a fraction of a
// second.
const pythonTime = time.Minute

// interpreter is a Python that has the packages. A python3 that stands before
// the distribution's in PATH often hasn't.
var interpreter = sync.OnceValue(func() string {
	for _, python := range []string{"python3", "/usr/bin/python3"} {
		ctx, cancel := context.WithTimeout(context.Background(), pythonTime)
		err := exec.CommandContext(ctx, python, "-B", "-c", "import cbor2, cryptography").Run()
		cancel()
		if err == nil {
			return python
		}
	}
	return ""
})

// python gives the Python to use. Without one a test is skipped, or fails in CI.
func python(t testing.TB) string {
	t.Helper()
	p := interpreter()
	if p == "" {
		untested.Skip(t, "the second implementation of the formats: there is no python3 with the modules cbor2 and cryptography; on Debian: apt-get install python3-cbor2 python3-cryptography")
	}
	return p
}

// result is what a run left.
type result struct {
	code            int
	output, trouble string
}

// run runs the program with its arguments in a folder.
func run(t testing.TB, folder string, args ...string) result {
	t.Helper()
	program, err := filepath.Abs("devicekeys.py")
	must(t, err)
	return runProgram(t, program, folder, args...)
}

func runProgram(t testing.TB, program, folder string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), pythonTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, python(t), append([]string{"-B", program}, args...)...)
	cmd.Dir = folder
	var out, trouble strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &trouble
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() < 0) {
		t.Fatalf("devicekeys.py %s: %v\n%s", strings.Join(args, " "), err, trouble.String())
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), trouble.String()}
}

// accepts runs the program, which must find nothing wrong, and gives its output.
func accepts(t testing.TB, folder string, args ...string) string {
	t.Helper()
	r := run(t, folder, args...)
	if r.code != 0 || r.trouble != "" {
		t.Fatalf("devicekeys.py %s: code %d\n%s%s", strings.Join(args, " "), r.code, r.output, r.trouble)
	}
	return r.output
}

// refuses runs the program, which must end with this code and say this.
func refuses(t testing.TB, folder string, code int, message string, args ...string) {
	t.Helper()
	r := run(t, folder, args...)
	if r.code != code || !strings.Contains(r.trouble, message) || strings.Contains(r.trouble, "Traceback") {
		t.Errorf("devicekeys.py %s: code %d, want %d and %q\n%s%s", strings.Join(args, " "), r.code, code, message, r.output, r.trouble)
	}
}

func write(t testing.TB, folder, name string, b []byte) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(folder, name), b, 0o600))
}

func read(t testing.TB, path ...string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(path...))
	must(t, err)
	return b
}

// goldenParts are the packages whose golden values are made again.
var goldenParts = []string{"identity", "keypackage", "registry", "devicecert", "channel", "message"}

// TestVectors: every golden value is made again in Python.
func TestVectors(t *testing.T) {
	t.Parallel()
	out := accepts(t, ".", "vectors")
	for _, part := range goldenParts {
		if !strings.Contains(out, part+"/testdata/golden.json: ") {
			t.Errorf("no values of %s:\n%s", part, out)
		}
	}

	// A value that changed is found, and one that nobody makes again.
	for message, change := range map[string][2]string{
		"made again it is 2d0a2a":      {`"check_value": "2d0a2a`, `"check_value": "2d0a2b`},
		"made again it is 29df16":      {`"kdf2_device_key": "29df16`, `"kdf2_device_key": "29df17`},
		"it was sent in another realm": {`"transport_blob": "860101`, `"transport_blob": "860102`},
		"not accounted for: x":         {`"master_key"`, `"x": "00", "master_key"`},
		"value transcript is missing":  {`"transcript"`, `"transkript"`},
	} {
		root := t.TempDir()
		for _, part := range goldenParts {
			folder := filepath.Join(root, part, "testdata")
			must(t, os.MkdirAll(folder, 0o700))
			golden := read(t, "..", "..", part, "testdata", "golden.json")
			if part == "keypackage" {
				if !bytes.Contains(golden, []byte(change[0])) {
					t.Fatalf("%q is not in the file", change[0])
				}
				golden = bytes.Replace(golden, []byte(change[0]), []byte(change[1]), 1)
			}
			write(t, folder, "golden.json", golden)
		}
		refuses(t, root, 1, message, "vectors", root)
	}
	refuses(t, t.TempDir(), 2, "golden.json", "vectors", "elsewhere")
}

// TestVectorsOfThePage: the values that stand in the page's text alone are made again too.
func TestVectorsOfThePage(t *testing.T) {
	t.Parallel()
	python(t)
	root, err := filepath.Abs(filepath.Join("..", ".."))
	must(t, err)
	copied := t.TempDir()
	must(t, os.CopyFS(filepath.Join(copied, "formats"), os.DirFS(".")))
	page := read(t, "..", "formats.md")
	const value, changed = "`84010203f4`", "`84010203f5`"
	if !bytes.Contains(page, []byte(value)) {
		t.Fatalf("%s is not in the page", value)
	}
	write(t, copied, "formats.md", bytes.Replace(page, []byte(value), []byte(changed), 1))
	r := runProgram(t, filepath.Join(copied, "formats", "devicekeys.py"), copied, "vectors", root)
	if r.code != 1 || !strings.Contains(r.trouble, "status 2 of 3, not active: made again it is 84010203f4") {
		t.Errorf("code %d\n%s%s", r.code, r.output, r.trouble)
	}
}

// TestCanonical: the product's reader and the Python's two judge alike what is
// deterministic CBOR.
func TestCanonical(t *testing.T) {
	t.Parallel()
	deep := func(n int) string { return strings.Repeat("81", n) + "00" }
	cases := []struct {
		name, hex string
		canonical bool
	}{
		{"number", "17", true},
		{"number of a byte", "1818", true},
		{"greatest number", "1bffffffffffffffff", true},
		{"least number", "3bffffffffffffffff", true},
		{"number in a byte too many", "1817", false},
		{"number in two bytes too many", "190017", false},
		{"number in four bytes too many", "1a0000ffff", false},
		{"number in eight bytes too many", "1b00000000ffffffff", false},
		{"negative number too long", "3800", false},
		{"length too long", "580100", false},
		{"count too long", "980100", false},
		{"reserved length", "1c", false},
		{"string", "43010203", true},
		{"string cut short", "430102", false},
		{"string of more than there is", "5bffffffffffffffff", false},
		{"indefinite string", "5f4101ff", false},
		{"indefinite array", "9f01ff", false},
		{"indefinite map", "bf0102ff", false},
		{"text", "63e282ac", true},
		{"text that is not UTF-8", "62c328", false},
		{"text of a surrogate", "63eda080", false},
		{"false, true, null", "83f4f5f6", true},
		{"undefined", "f7", false},
		{"map", "a3010203041903e800", true},
		{"negative key after positive", "a201002000", true},
		{"keys out of order", "a202000100", false},
		{"longer key first", "a2190100000a00", false},
		{"key twice", "a201000100", false},
		{"map without its last value", "a101", false},
		{"tag", "c100", false},
		{"two values", "0101", false},
		{"nothing", "", false},
		{"eight deep", deep(8), true},
		{"nine deep", deep(9), false},
		{"array of more than there is", "9b00ffffffffffffff", false},
	}
	folder := t.TempDir()
	args := []string{"canonical"}
	for _, c := range cases {
		b, err := hex.DecodeString(c.hex)
		must(t, err)
		write(t, folder, c.name, b)
		args = append(args, c.name)
		var v any
		if err := detcbor.Unmarshal(b, &v, detcbor.MaxArtefact); (err == nil) != c.canonical {
			t.Errorf("%s: this module's reader says %v", c.name, err)
		}
	}
	r := run(t, folder, args...)
	lines := strings.Split(strings.TrimSpace(r.output), "\n")
	if r.code != 1 || len(lines) != len(cases) || !strings.Contains(r.trouble, "are not canonical CBOR") {
		t.Fatalf("code %d\n%s%s", r.code, r.output, r.trouble)
	}
	for i, c := range cases {
		if (lines[i] == c.name+": canonical") != c.canonical {
			t.Errorf("%s: in Python: %s", c.name, lines[i])
		}
	}
	// Simple values and floats: no format has a place for one, and Python has no typed reader to say so.
	for _, s := range []string{"e0", "f820", "f90000", "fa00000000", "fb0000000000000000", "f97e00"} {
		b, err := hex.DecodeString(s)
		must(t, err)
		write(t, folder, s, b)
		refuses(t, folder, 1, "not canonical", "canonical", s)
	}
	refuses(t, folder, 1, "not canonical", "canonical", "--limit", "2", "text")
	refuses(t, folder, 2, "No such file", "canonical", "absent")
}

// TestUsage: what can't be tried ends with code 2.
func TestUsage(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	write(t, folder, "text", []byte("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"))
	for _, command := range []string{"check", "open", "restore", "package", "canonical", "vectors"} {
		if out := accepts(t, folder, command, "--help"); !strings.Contains(out, "usage: devicekeys.py "+command) {
			t.Errorf("%s --help:\n%s", command, out)
		}
	}
	refuses(t, folder, 2, "required", "check")
	refuses(t, folder, 2, "invalid choice", "prove")
	refuses(t, folder, 2, "unrecognized", "canonical", "text", "--fast")
	refuses(t, folder, 2, "No such file", "check", "absent", "--rom-key", "absent")
	refuses(t, folder, 2, "no public key", "check", "text", "--rom-key", "text")
	refuses(t, folder, 2, "16, 24 or 32 bytes", "open", "text", "--rom-key", "text", "--chip-id", "00")
	refuses(t, folder, 2, "16, 24 or 32 bytes", "open", "text", "--rom-key", "text", "--chip-id", strings.Repeat("0", 32))
}
