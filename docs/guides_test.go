package docs_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/devicekeys/devicekeys/deploy/programs"
)

// others are the commands of the guides that are not this module's programs.
var others = []string{"apt-get", "curl", "go", "make", "openssl", "promtool", "systemctl", "tar"}

// command is one command line of a guide.
type command struct {
	file string
	line int
	text string
}

// commands gives the command lines of a document's console blocks: what stands
// behind "$ ", continued where a line ends in a backslash.
func commands(t *testing.T, file string) []command {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var all []command
	in, more := false, false
	for i, line := range strings.Split(string(text), "\n") {
		switch {
		case strings.HasPrefix(line, "```"):
			in, more = line == "```console", false
			continue
		case !in:
			continue
		case more:
			all[len(all)-1].text += " " + strings.TrimSpace(line)
		case strings.HasPrefix(line, "$ "):
			all = append(all, command{file, i + 1, line[2:]})
		default:
			continue // output
		}
		c := &all[len(all)-1].text
		*c, more = strings.CutSuffix(*c, "\\")
	}
	return all
}

// words splits a command line as a shell does, as far as the guides need it:
// quotes hold together, a comment ends it, a redirection is not the program's,
// an assignment before the program is not either.
func words(line string) ([]string, error) {
	var out []string
	for _, w := range regexp.MustCompile(`[^\s"']*(?:"[^"]*"|'[^']*')[^\s"']*|\S+`).FindAllString(line, -1) {
		switch {
		case strings.HasPrefix(w, "#"):
			return out, nil
		case w == "|" || w == "&&" || w == ";" || w == "&" || strings.ContainsAny(w, "`$"):
			return nil, fmt.Errorf("%q: a guide shows one plain command a line", w)
		case strings.Count(w, `"`)%2 != 0 || strings.Count(w, "'")%2 != 0:
			return nil, fmt.Errorf("%q: a quote is not closed", w)
		}
		out = append(out, strings.NewReplacer(`"`, "", "'", "").Replace(w))
	}
	if i := slices.Index(out, ">"); i >= 0 {
		if i != len(out)-2 {
			return nil, errors.New("one file name is expected behind >")
		}
		out = out[:i]
	}
	for len(out) > 0 && regexp.MustCompile(`^[A-Z][A-Z0-9_]*=`).MatchString(out[0]) {
		out = out[1:]
	}
	return out, nil
}

// helpTime bounds a program's printing a page on a loaded machine.
const helpTime = 20 * time.Second

// required are the flags that a help page's synopsis shows without brackets.
func required(help string) []string {
	_, synopsis, _ := strings.Cut(help, "Synopsis:\n")
	synopsis, _, _ = strings.Cut(synopsis, "\n\n")
	synopsis = regexp.MustCompile(`\[[^]]*\]`).ReplaceAllString(synopsis, "")
	return regexp.MustCompile(`--[a-z-]+`).FindAllString(synopsis, -1)
}

// check tells what is wrong with a command line. The grammar itself judges it:
// with --help behind it a program reads the whole line, prints the page of the
// command it found and does nothing; an unknown command, flag or argument ends
// with code 2. What that page calls required must stand in the line.
func check(t *testing.T, built, line string) error {
	t.Helper()
	w, err := words(line)
	if err != nil {
		return err
	}
	if len(w) == 0 {
		return errors.New("there is no command")
	}
	name := w[0]
	if slices.Contains(others, name) {
		return nil
	}
	if _, err := os.Stat(filepath.Join("..", "cmd", name)); err != nil || name == "internal" {
		return fmt.Errorf("there is no program %q", name)
	}
	ctx, cancel := context.WithTimeout(t.Context(), helpTime)
	defer cancel()
	folder := t.TempDir()
	// Some arguments must be files that exist; they are not read.
	for _, f := range w[1:] {
		if regexp.MustCompile(`^[a-z0-9-]+\.[a-z]+$`).MatchString(f) {
			if err := os.WriteFile(filepath.Join(folder, f), nil, 0o600); err != nil {
				return err
			}
		}
	}
	var out, trouble strings.Builder
	cmd := exec.CommandContext(ctx, filepath.Join(built, name), append(w[1:], "--help")...)
	cmd.Dir = folder
	cmd.Stdout, cmd.Stderr = &out, &trouble
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%w: %s", err, trouble.String())
	}
	if len(w) > 1 && !strings.Contains(out.String(), name+" "+w[1]) {
		return fmt.Errorf("its page is not of command %q", w[1])
	}
	for _, f := range required(out.String()) {
		if !slices.ContainsFunc(w, func(have string) bool { return have == f || strings.HasPrefix(have, f+"=") }) {
			return fmt.Errorf("%s is required", f)
		}
	}
	return nil
}

// TestGuides: every command that a guide shows is one that its program takes.
func TestGuides(t *testing.T) {
	t.Parallel()
	guides, err := filepath.Glob("guide-*.md")
	if err != nil || len(guides) != 8 {
		t.Fatalf("guides %q, %v; eight are expected", guides, err)
	}
	built := programs.Build(t, "")
	for _, guide := range guides {
		all := commands(t, guide)
		if len(all) == 0 {
			t.Errorf("%s shows no command", guide)
		}
		for _, c := range all {
			if err := check(t, built, c.text); err != nil {
				t.Errorf("%s:%d: %s\n%v", c.file, c.line, c.text, err)
			}
		}
	}

	// The check itself can fail.
	for _, line := range []string{
		"stations run --config x", "station runs --config x", "station run --config x --fast", "station run", "station prove --config x --json=maybe y",
		"custodian certify --config x --kind station", `spp status --config "x`, "station config extra", "internal run", "rm -r /",
		"station run --config x | less", "",
	} {
		if check(t, built, line) == nil {
			t.Errorf("command line %q passes", line)
		}
	}
}

// TestGuideLinks: the files that guides link to are there.
func TestGuideLinks(t *testing.T) {
	t.Parallel()
	guides, err := filepath.Glob("guide-*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, guide := range guides {
		text, err := os.ReadFile(guide)
		if err != nil {
			t.Fatal(err)
		}
		for _, link := range regexp.MustCompile(`\]\(([^)#]+)`).FindAllStringSubmatch(string(text), -1) {
			if _, err := os.Stat(link[1]); err != nil {
				t.Errorf("%s links to %s: %v", guide, link[1], err)
			}
		}
	}
}

// TestGuideAlerts: the operators' page explains every alert, and no other.
func TestGuideAlerts(t *testing.T) {
	t.Parallel()
	rules, err := os.ReadFile("../deploy/prometheus/rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	guide, err := os.ReadFile("guide-operator.md")
	if err != nil {
		t.Fatal(err)
	}
	name := regexp.MustCompile(`Devicekeys[A-Z][A-Za-z]+`)
	want, have := map[string]bool{}, map[string]bool{}
	for _, m := range regexp.MustCompile(`alert: (\S+)`).FindAllStringSubmatch(string(rules), -1) {
		want[m[1]] = true
	}
	for _, n := range name.FindAllString(string(guide), -1) {
		have[n] = true
	}
	for n := range want {
		if !have[n] {
			t.Errorf("alert %s is not explained", n)
		}
	}
	for n := range have {
		if !want[n] {
			t.Errorf("%s is explained and is no alert", n)
		}
	}
	if len(want) == 0 {
		t.Error("there are no alerts")
	}
}
