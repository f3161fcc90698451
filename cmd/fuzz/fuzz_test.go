package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// said is what go test -fuzz printed on three occasions.
var said = map[string]string{
	"well": `fuzz: elapsed: 0s, gathering baseline coverage: 0/3 completed
fuzz: elapsed: 0s, gathering baseline coverage: 3/3 completed, now fuzzing with 1 workers
fuzz: elapsed: 3s, execs: 12345 (4115/sec), new interesting: 5 (total: 8)
fuzz: elapsed: 1m3s, execs: 987654 (0/sec), new interesting: 7 (total: 10)
PASS
ok  	example.com/m/a	63.1s
`,
	"crasher": `fuzz: elapsed: 1s, execs: 77 (77/sec), new interesting: 1 (total: 2)
--- FAIL: FuzzA (1.02s)
    --- FAIL: FuzzA (0.00s)
        a_test.go:12: it broke
    
    Failing input written to testdata/fuzz/FuzzA/0123456789abcdef
    To re-run:
    go test -run=FuzzA/0123456789abcdef
FAIL
exit status 1
`,
	"late": `fuzz: elapsed: 1m0s, execs: 500 (8/sec), new interesting: 0 (total: 4)
--- FAIL: FuzzA (60.01s)
    context deadline exceeded
FAIL
exit status 1
`,
	"no build": "# example.com/m/a\na/a.go:3:9: undefined: b\nFAIL	example.com/m/a [build failed]\n",
}

func TestWatch(t *testing.T) {
	t.Parallel()
	exit := errors.New("exit status 1")
	a := target{"a", "FuzzA"}
	for name, c := range map[string]struct {
		err  error
		want outcome
	}{
		"well":     {nil, outcome{target: a, Seconds: 63, Executions: 987654, Interesting: 7, Corpus: 10}},
		"crasher":  {exit, outcome{target: a, Seconds: 1, Executions: 77, Interesting: 1, Corpus: 2, Crashers: []string{"a/testdata/fuzz/FuzzA/0123456789abcdef"}, Error: "a_test.go:12: it broke"}},
		"late":     {exit, outcome{target: a, Seconds: 60, Executions: 500, Corpus: 4}},
		"no build": {exit, outcome{target: a, Error: "a/a.go:3:9: undefined: b"}},
	} {
		w := &watch{outcome: outcome{target: a}}
		for line := range strings.Lines(said[name]) {
			w.line(strings.TrimSuffix(line, "\n"))
		}
		if got := w.end(c.err, time.Minute); !cmp.Equal(c.want, got, cmp.AllowUnexported(outcome{})) {
			t.Errorf("%s: %s", name, cmp.Diff(c.want, got, cmp.AllowUnexported(outcome{})))
		}
	}
	// Out of time long before its time is a failure.
	w := &watch{outcome: outcome{target: a}}
	for line := range strings.Lines(said["late"]) {
		w.line(strings.TrimSuffix(line, "\n"))
	}
	if got := w.end(exit, time.Hour); got.Error == "" {
		t.Error("a target that ended after a minute of its hour passes")
	}
}

// TestFleet runs a module of its own through the real fuzzer: one target is well and one has a fault.
func TestFleet(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod": "module example.com/m\n\ngo 1.26\n",
		"p/p_test.go": `package p

import "testing"

func FuzzWell(f *testing.F) {
	f.Add([]byte("a"))
	f.Fuzz(func(t *testing.T, b []byte) {})
}

func FuzzFault(f *testing.F) {
	f.Add([]byte("a"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1 {
			t.Fatal("it broke")
		}
	})
}

func FuzzyNoTarget() {}
`,
	} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	all, err := targets(t.Context(), dir)
	if want := []target{{"p", "FuzzFault"}, {"p", "FuzzWell"}}; err != nil || !slices.Equal(all, want) {
		t.Fatalf("targets %v, %v", all, err)
	}
	if one := chosen(all, []*regexp.Regexp{regexp.MustCompile(`p\.FuzzW`)}); len(one) != 1 || one[0].Name != "FuzzWell" {
		t.Errorf("chosen: %v", one)
	}
	var progress bytes.Buffer
	out := filepath.Join(dir, "out")
	f := &fleet{dir: out, time: time.Second, jobs: 1, progress: &progress, command: func(g target, d time.Duration) *exec.Cmd {
		c := goTest(g, d)
		c.Dir = dir
		c.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOWORK=off")
		return c
	}}
	r, err := f.run(t.Context(), all)
	if err != nil {
		t.Fatalf("%v\n%s", err, progress.String())
	}
	if len(r.Targets) != 2 || r.Failed != 1 || r.Crashers != 1 || r.failed() == nil {
		t.Fatalf("report %+v\n%s", r, progress.String())
	}
	fault, well := r.Targets[0], r.Targets[1]
	if well.Executions == 0 || well.Error != "" || !strings.Contains(fault.Error, "it broke") {
		t.Errorf("report %+v", r)
	}
	if _, err := os.Stat(filepath.Join(dir, fault.Crashers[0])); err != nil {
		t.Errorf("the case that breaks it: %v", err)
	}
	var kept report
	b, err := os.ReadFile(filepath.Join(out, reportFile))
	if err != nil || json.Unmarshal(b, &kept) != nil || !cmp.Equal(*r, kept, cmp.AllowUnexported(outcome{})) {
		t.Errorf("%v, the file has\n%s", err, b)
	}
	if md := r.markdown(); !strings.Contains(md, "| `p.FuzzWell` | ") || !strings.Contains(md, fault.Crashers[0]) {
		t.Error(md)
	}
}

// TestTable: the table of docs/reliability.md is as this program writes it, has every target of the module and no other, and adds up.
func TestTable(t *testing.T) {
	t.Parallel()
	all, err := targets(t.Context(), "../..")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("../../docs/reliability.md")
	if err != nil {
		t.Fatal(err)
	}
	head, _, _ := strings.Cut((&report{}).markdown(), "| all")
	_, table, ok := strings.Cut(string(text), head)
	if !ok {
		t.Fatalf("there is no table with the head\n%s", head)
	}
	table, _, _ = strings.Cut(table, "\n\n")
	number := func(s string) int64 {
		n, err := strconv.ParseInt(strings.ReplaceAll(s, ",", ""), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	row := regexp.MustCompile("^\\| `(\\S+)\\.(\\w+)` \\| (\\d+) s \\| ([\\d,]+) \\| \\d+ \\| (\\d+) \\| (.+) \\|$")
	var done []outcome
	rows := strings.Split(strings.TrimSpace(table), "\n")
	for _, line := range rows[:len(rows)-1] {
		m := row.FindStringSubmatch(line)
		if m == nil {
			t.Fatalf("%q is no row", line)
		}
		done = append(done, outcome{target: target{m[1], m[2]}, Seconds: float64(number(m[3])), Executions: number(m[4]), Interesting: number(m[5])})
	}
	r := newReport(time.Now(), time.Minute, done)
	var have []target
	for _, o := range r.Targets {
		have = append(have, o.target)
	}
	if diff := cmp.Diff(all, have); diff != "" {
		t.Errorf("targets (-module +table); run the missing ones, bin/fuzz run --markdown, and put their rows in:\n%s", diff)
	}
	written := strings.Split(strings.TrimSpace(r.markdown()), "\n")
	if last := written[len(written)-1]; rows[len(rows)-1] != last {
		t.Errorf("the last row is %q, should be %q", rows[len(rows)-1], last)
	}
}

func TestGrouped(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", 12345678: "12,345,678"} {
		if got := grouped(n); got != want {
			t.Errorf("%d: %q", n, got)
		}
	}
}
