package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// module is a small module of every kind of package.
var module = map[string]string{
	"go.mod":       "module example.com/m\n\ngo 1.26\n",
	"none/none.go": "package none\n",
	"well/well_test.go": `package well

import (
	"fmt"
	"testing"
)

func TestWell(t *testing.T) { fmt.Println("past the tests"); t.Log("nobody reads this") }

func TestPart(t *testing.T) { t.Log("not tested: the half of it") }

func TestLeft(t *testing.T) {
	t.Log("first this")
	t.Skip("not tested: a thing: it is not installed")
}

func TestTable(t *testing.T) {
	t.Run("left", func(t *testing.T) { t.Skip("not tested: a thing: it is not installed") })
	t.Run("mute", func(t *testing.T) { t.SkipNow() })
	t.Run("other", func(t *testing.T) { t.Skip("said in another way") })
}
`,
	"bad/bad_test.go": `package bad

import (
	"fmt"
	"testing"
)

func TestBad(t *testing.T) {
	t.Run("sub", func(t *testing.T) { t.Error("this is wrong\nin two lines") })
	t.Run("fine", func(t *testing.T) { t.Log("of no interest") })
}

func TestFine(t *testing.T) { fmt.Println("a word past the tests"); t.Log("this neither") }

func TestPanic(t *testing.T) { panic("oh") }
`,
	"broken/broken_test.go": "package broken\n\nvar x int = undefined\n",
}

func writeModule(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range module {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

var (
	seconds  = regexp.MustCompile(`\t\d+\.\d+s|\(cached\)| \(\d+\.\d+s\)`)
	goroutes = regexp.MustCompile(`(?m)^(goroutine \d|\t|testing\.|created by|example\.com/m/bad|runtime|panic\(|\s*$).*\n`)
)

// TestRun: on a real module it prints what go test would, then what was left out, and gives its exit code.
func TestRun(t *testing.T) {
	t.Parallel()
	dir := writeModule(t)
	const left = `not tested: the half of it (well.TestPart)
not tested: a thing: it is not installed (well.TestLeft and 1 more)
not tested: no reason is given (well.TestTable/mute)
not tested: said in another way (well.TestTable/other)
`
	for name, c := range map[string]struct {
		args []string
		code int
		want string
	}{
		"well":    {[]string{"./well"}, 0, "ok  \texample.com/m/well\n" + left},
		"nothing": {[]string{"./none", "./well", "-run", "Well"}, 0, "?   \texample.com/m/none\t[no test files]\nok  \texample.com/m/well\ntested: everything; nothing was skipped\n"},
		"bad": {[]string{"./bad"}, 1, `--- FAIL: TestBad
    bad_test.go:9: this is wrong
        in two lines
--- FAIL: TestBad/sub
a word past the tests
--- FAIL: TestPanic
panic: oh [recovered, repanicked]
FAIL	example.com/m/bad
FAIL
`},
		"untested": {[]string{"./broken"}, 1, "undefined: undefined"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out, trouble bytes.Buffer
			code, err := run(c.args, dir, &out, &trouble)
			if err != nil || code != c.code {
				t.Fatalf("code %d, %v\n%s%s", code, err, out.String(), trouble.String())
			}
			got := seconds.ReplaceAllString(out.String(), "")
			if name == "untested" {
				if !strings.Contains(got, c.want) || !strings.Contains(got, "[build failed]") {
					t.Errorf("printed\n%s", got)
				}
				return
			}
			if name == "bad" { // without the stack
				got = goroutes.ReplaceAllString(got, "")
			}
			if got != c.want {
				t.Errorf("printed\n%s\nwant\n%s", got, c.want)
			}
		})
	}
}

// TestKilled: of a package that never ended, what its running tests said is printed.
func TestKilled(t *testing.T) {
	t.Parallel()
	var in, out bytes.Buffer
	for _, e := range []event{
		{"run", "m/a", "TestA", ""},
		{"output", "m/a", "TestA", "=== RUN   TestA\n"},
		{"output", "m/a", "TestA", "    a_test.go:3: I wait\n"},
		{"run", "m/a", "TestB", ""},
		{"output", "m/a", "TestB", "    a_test.go:4: done\n"},
		{"pass", "m/a", "TestB", ""},
	} {
		b, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		in.Write(append(b, '\n'))
	}
	in.WriteString("signal: killed\n{\"not\": \"an event\"}\ncut")
	r := newReport(&out)
	if err := r.read(bufio.NewReader(&in)); err != nil {
		t.Fatal(err)
	}
	r.end(false)
	want := "signal: killed\n{\"not\": \"an event\"}\ncut    a_test.go:3: I wait\nFAIL\n"
	if out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
}
