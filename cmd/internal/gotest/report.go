package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// event is one line of go test -json (go doc test2json).
type event struct {
	Action  string
	Package string
	Test    string // "" is the package itself
	Output  string
}

// test is a test that ran, or the package itself.
type test struct {
	name   string
	result string // "pass", "fail", "skip"; "" as long as it runs
	output []string
}

// report turns events into what is printed. It is one goroutine's.
type report struct {
	out      io.Writer
	packages map[string][]*test // those that run, their tests in order of appearance
	left     list
	failed   bool
}

func newReport(out io.Writer) *report { return &report{out: out, packages: map[string][]*test{}} }

// read takes all events. A line that is none is printed: go test says some things past its JSON.
func (r *report) read(in *bufio.Reader) error {
	for {
		line, err := in.ReadBytes('\n')
		var e event
		if json.Unmarshal(line, &e) == nil && e.Action != "" {
			r.take(e)
		} else if _, err := r.out.Write(line); err != nil {
			return fmt.Errorf("write: %w", err)
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("read go test's events: %w", err)
		}
	}
}

func (r *report) take(e event) {
	if strings.HasPrefix(e.Action, "build-") { // what the compiler says
		fmt.Fprint(r.out, e.Output)
		return
	}
	t := r.test(e.Package, e.Test)
	switch e.Action {
	case "output":
		t.output = append(t.output, e.Output)
	case "pass", "fail", "skip":
		t.result = e.Action
		r.left.take(e.Package, t)
		if e.Test == "" {
			r.print(r.packages[e.Package])
			delete(r.packages, e.Package)
		}
	}
}

// test finds the test of an event. The package itself comes last when it is printed.
func (r *report) test(pkg, name string) *test {
	all := r.packages[pkg]
	if i := slices.IndexFunc(all, func(t *test) bool { return t.name == name }); i >= 0 {
		return all[i]
	}
	t := &test{name: name}
	r.packages[pkg] = append(all, t)
	return t
}

// print prints a package that has ended.
func (r *report) print(tests []*test) {
	own := slices.IndexFunc(tests, func(t *test) bool { return t.name == "" })
	failed := tests[own].result == "fail"
	for i, t := range tests {
		if i != own && failed {
			r.lines(t, func(line string) bool {
				return !strings.HasPrefix(line, "=== ") && (t.result == "fail" || t.result == "" || stray(line))
			})
		}
	}
	r.lines(tests[own], func(line string) bool {
		return failed || strings.HasPrefix(line, "ok  \t") || strings.HasPrefix(line, "?   \t")
	})
	r.failed = r.failed || failed
}

// stray tells whether a line of a test was written past the testing package, which indents what it logs.
func stray(line string) bool {
	return !strings.HasPrefix(line, "    ") && !strings.HasPrefix(line, "--- ")
}

func (r *report) lines(t *test, wanted func(string) bool) {
	for line := range strings.Lines(strings.Join(t.output, "")) {
		if wanted(line) {
			fmt.Fprint(r.out, line)
		}
	}
}

// end prints packages that never ended, whose go test was killed, and the list.
func (r *report) end(well bool) {
	for _, tests := range r.packages {
		for _, t := range tests {
			r.lines(t, func(line string) bool {
				return t.result != "pass" && t.result != "skip" && !strings.HasPrefix(line, "=== ")
			})
		}
	}
	switch {
	case !well || r.failed:
		fmt.Fprintln(r.out, "FAIL")
	case len(r.left.reasons) == 0:
		fmt.Fprintln(r.out, "tested: everything; nothing was skipped")
	}
	fmt.Fprint(r.out, r.left.String())
}
