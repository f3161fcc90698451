package main

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/devicekeys/devicekeys/untested"
)

// list is what was not tested.
type list struct {
	reasons []string            // in order of appearance
	tests   map[string][]string // by reason
}

// logged is a line that a test logs: the place, and what it says.
var logged = regexp.MustCompile(`^\s+\S+\.go:\d+: (.*)$`)

// take looks at a test that has ended. A skipped one counts with the last thing it said, any other only with what has
// package untested's mark.
func (l *list) take(pkg string, t *test) {
	if t.name == "" {
		return // "no test files" is go test's to say
	}
	reason := ""
	for line := range strings.Lines(strings.Join(t.output, "")) {
		m := logged.FindStringSubmatch(strings.TrimSuffix(line, "\n"))
		if m == nil {
			continue
		}
		said, marked := strings.CutPrefix(m[1], untested.Mark)
		switch {
		case t.result == "skip":
			reason = said
		case marked && t.result == "pass":
			l.add(said, pkg, t.name)
		}
	}
	if t.result == "skip" {
		if reason == "" {
			reason = "no reason is given"
		}
		l.add(reason, pkg, t.name)
	}
}

func (l *list) add(reason, pkg, name string) {
	if l.tests == nil {
		l.tests = map[string][]string{}
	}
	if _, ok := l.tests[reason]; !ok {
		l.reasons = append(l.reasons, reason)
	}
	if where := path.Base(pkg) + "." + name; !slices.Contains(l.tests[reason], where) {
		l.tests[reason] = append(l.tests[reason], where)
	}
}

// String gives a line for each reason.
func (l *list) String() string {
	var b strings.Builder
	for _, reason := range l.reasons {
		who := l.tests[reason][0]
		if n := len(l.tests[reason]) - 1; n > 0 {
			who += fmt.Sprintf(" and %d more", n)
		}
		fmt.Fprintf(&b, "%s%s (%s)\n", untested.Mark, reason, who)
	}
	return b.String()
}
