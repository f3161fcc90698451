package main_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/devicekeys/devicekeys/deploy/programs"
)

// perform runs the demo and gives what it printed.
func perform(t *testing.T, bin string, env []string, args ...string) string {
	t.Helper()
	cmd := exec.Command(filepath.Join(bin, "demo"), args...)
	cmd.Env = append(os.Environ(), env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("demo %s: %v\n%s\n%s", strings.Join(args, " "), err, out.String(), errs.String())
	}
	return out.String()
}

// oneAtATime keeps two whole plants from running beside each other on a small
// machine.
var oneAtATime sync.Mutex

func TestDemo(t *testing.T) {
	t.Parallel()
	oneAtATime.Lock()
	defer oneAtATime.Unlock()
	dir := filepath.Join(t.TempDir(), "plant")
	printed := perform(t, programs.Build(t, ""), nil, "--devices", "4", "--dir", dir)

	b, err := os.ReadFile(filepath.Join(dir, "report.json"))
	if err != nil {
		t.Fatal(err)
	}
	var report struct {
		Devices, Shipped, Restored int
		Refusals                   []struct {
			Case    string
			Refused bool
			Reason  string
		}
		Invariants []struct {
			Name    string
			Holds   bool
			Checked int64
		}
		Rate  float64 `json:"rate_per_hour"`
		Calls float64 `json:"pkcs11_calls_per_device"`
		Steps []struct {
			Step       string
			PatentStep string  `json:"patent_step"`
			P50        float64 `json:"p50_ms"`
			P99        float64 `json:"p99_ms"`
		}
		Suites []struct {
			Suite    string
			Channels int
			P50      float64 `json:"handshake_p50_ms"`
		}
	}
	decoder := json.NewDecoder(bytes.NewReader(b))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&report); err != nil {
		t.Fatalf("report.json: %v", err)
	}
	if report.Devices != 4 || report.Shipped != 4 || report.Restored != 5 {
		t.Errorf("%d devices, %d shipped, %d restored; 4, 4 and 5 expected", report.Devices, report.Shipped, report.Restored)
	}
	want := map[string]string{
		"another device's certificate and backup":          "not-this-chip",
		"another device's backup with the own certificate": "not-this-chip",
		"a bit of the backup code flipped":                 "backup-code",
		"a bit of the manifest flipped":                    "manifest",
		"a bit of the backup flipped":                      "backup",
		"a bit of the certificate flipped":                 "certificate",
		"the own identity from another realm":              "other-realm",
		"another IMEI in the manifest":                     "identity",
		"another IMEI in the certificate":                  "certificate",
		"an older generation":                              "older-generation",
		"an ordinary package after the lock":               "locked",
		"another device's message":                         "not-for-it",
		"a channel with a key that was tampered with":      "refused",
		"a channel of a clone: the IMEI on another chip":   "refused",
		"a channel of a superseded generation":             "refused",
		"to the SPP: a chip that no delivery list names":   "unlisted-chip",
		"to the SPP: a wrong attestation":                  "attestation",
	}
	got := map[string]string{}
	for _, r := range report.Refusals {
		if !r.Refused {
			t.Errorf("%s: not refused: %s", r.Case, r.Reason)
		}
		got[r.Case] = r.Reason
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("refusals (-want +got):\n%s", diff)
	}
	if len(report.Invariants) != 6 {
		t.Errorf("%d invariants, the design has 6", len(report.Invariants))
	}
	for _, i := range report.Invariants {
		if !i.Holds || i.Checked == 0 {
			t.Errorf("invariant %s: holds %v, %d checked", i.Name, i.Holds, i.Checked)
		}
	}
	if len(report.Steps) != 7 || report.Rate <= 0 || report.Calls <= 0 {
		t.Errorf("%d steps, %.0f devices an hour, %.1f calls", len(report.Steps), report.Rate, report.Calls)
	}
	if len(report.Suites) != 3 {
		t.Errorf("channels of %d suites, there are 3", len(report.Suites))
	}
	for _, s := range report.Suites {
		if s.Channels != 3 || s.P50 <= 0 {
			t.Errorf("suite %s: %d channels, handshake in %.1f ms", s.Suite, s.Channels, s.P50)
		}
	}
	compareREADME(t, printed)
}

// What the README shows was printed: the same lines, once numbers, times and
// drawings, which differ from run to run, are taken out.
func compareREADME(t *testing.T, printed string) {
	t.Helper()
	b, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(b), "$ make demo\n")
	shown, _, closed := strings.Cut(rest, "```")
	if !ok || !closed {
		t.Fatal("README.md shows no session that begins with $ make demo")
	}
	if diff := cmp.Diff(normal(shown), normal(printed)); diff != "" {
		t.Errorf("README.md shows something else than the demo prints (-README +demo):\n%s", diff)
	}
}

var (
	numbers  = regexp.MustCompile(`[0-9]+([.,:][0-9]+)*m?s?`)
	drawings = regexp.MustCompile(`[▁▂▃▄▅▆▇█ ]+`)
	folders  = regexp.MustCompile(`\S*/(report\.json|log/commands\.log)`)
)

func normal(text string) []string {
	var lines []string
	for _, l := range strings.Split(strings.TrimSpace(text), "\n") {
		l = folders.ReplaceAllString(l, "$1")
		l = numbers.ReplaceAllString(l, "#")
		l = drawings.ReplaceAllString(l, " ")
		lines = append(lines, strings.TrimSpace(l))
	}
	return lines
}

func TestDemoRefusesForeignFolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	keep := filepath.Join(dir, "thesis.txt")
	if err := os.WriteFile(keep, []byte("years of work"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(filepath.Join(programs.Build(t, "", "demo"), "demo"), "--dir", dir).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "not an earlier demo's") {
		t.Errorf("%v: %s", err, out)
	}
	if _, err := os.Stat(keep); err != nil {
		t.Error(err)
	}
}
