package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
)

// report is the result of a run.
type report struct {
	Begun       time.Time `json:"begun"`
	Time        string    `json:"time"`    // of each target
	Seconds     float64   `json:"seconds"` // of fuzzing, all targets together
	Executions  int64     `json:"executions"`
	Interesting int64     `json:"new_interesting"`
	Crashers    int       `json:"crashers"`
	Failed      int       `json:"failed"`
	Targets     []outcome `json:"targets"`
}

func newReport(begun time.Time, each time.Duration, done []outcome) *report {
	r := &report{Begun: begun.UTC().Truncate(time.Second), Time: each.String(), Targets: slices.Clone(done)}
	slices.SortFunc(r.Targets, func(a, b outcome) int { return strings.Compare(a.target.String(), b.target.String()) })
	for _, o := range r.Targets {
		r.Seconds += o.Seconds
		r.Executions += o.Executions
		r.Interesting += o.Interesting
		r.Crashers += len(o.Crashers)
		if o.Error != "" {
			r.Failed++
		}
	}
	return r
}

// result is what the table says of a target in a word.
func (o outcome) result() string {
	switch {
	case len(o.Crashers) > 0:
		return strings.Join(o.Crashers, " ")
	case o.Error != "":
		return "failed: " + o.Error
	}
	return "none"
}

// String is the report as text.
func (r *report) String() string {
	t := console.NewTable(console.Columns("package", "target", "seconds", "executions", "per_second", "new", "corpus", "found")...)
	for _, o := range r.Targets {
		t.Row(o.Package, o.Name, fmt.Sprintf("%.0f", o.Seconds), o.Executions, fmt.Sprintf("%.0f", o.rate()), o.Interesting, o.Corpus, o.result())
	}
	return fmt.Sprintf("%s\n%s\n", t, r.summary())
}

func (r *report) summary() string {
	return fmt.Sprintf("%d targets, %s: %d executions, %d new inputs kept by the fuzzer, %d inputs that break a target",
		len(r.Targets), (time.Duration(r.Seconds) * time.Second).String(), r.Executions, r.Interesting, r.Crashers)
}

// markdown is the report as a table of a document.
func (r *report) markdown() string {
	var b strings.Builder
	b.WriteString("| target | time | executions | per second | new inputs | found |\n|---|--:|--:|--:|--:|---|\n")
	cell := strings.NewReplacer("|", `\|`, "\n", " ")
	found := "none"
	if r.Crashers > 0 {
		found = fmt.Sprint(r.Crashers)
	}
	for _, o := range r.Targets {
		fmt.Fprintf(&b, "| `%s` | %.0f s | %s | %.0f | %d | %s |\n", o.target, o.Seconds, grouped(o.Executions), o.rate(), o.Interesting, cell.Replace(o.result()))
	}
	fmt.Fprintf(&b, "| all %d | %s s | %s | | %d | %s |\n", len(r.Targets), grouped(int64(r.Seconds+0.5)), grouped(r.Executions), r.Interesting, found)
	return b.String()
}

// grouped writes a number with a comma every three digits.
func grouped(n int64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// short writes a number in a line that is read once: 1.2M.
func short(n int64) string {
	switch {
	case n >= 1e6:
		return fmt.Sprintf("%.1fM", float64(n)/1e6)
	case n >= 1e3:
		return fmt.Sprintf("%.0fk", float64(n)/1e3)
	}
	return fmt.Sprint(n)
}

// reportFile is the report in its folder.
const reportFile = "report.json"

// write puts the report where scripts find it. A crash leaves the one before, and perhaps a file that the next
// write replaces.
func (r *report) write(dir string) error {
	fresh := filepath.Join(dir, reportFile+".new")
	f, err := os.Create(fresh)
	if err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	err = errors.Join(console.Output{JSON: true}.Print(f, r), f.Close())
	if err == nil {
		err = os.Rename(fresh, filepath.Join(dir, reportFile))
	}
	if err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

// failed is the error of a report with targets that failed.
func (r *report) failed() error {
	if r.Failed == 0 {
		return nil
	}
	var names []string
	for _, o := range r.Targets {
		if o.Error != "" {
			names = append(names, o.target.String())
		}
	}
	return fmt.Errorf("%d of %d targets failed: %s", r.Failed, len(r.Targets), strings.Join(names, ", "))
}
