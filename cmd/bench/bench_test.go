package main

import (
	"bufio"
	"encoding/json"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/devicekeys/devicekeys/bench"
	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/deploy/postgres"
	"github.com/devicekeys/devicekeys/deploy/programs"
	"github.com/devicekeys/devicekeys/softhsm"
	"github.com/devicekeys/devicekeys/untested"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"bench": main})
}

func TestScript(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script", RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("GORACE", "atexit_sleep_ms=10")
			return nil
		},
	})
}

// Every benchmark has a place in the report, and none is there twice.
func TestOrder(t *testing.T) {
	t.Parallel()
	var names []string
	for _, b := range inOrder() {
		names = append(names, b.Name)
		if b.Summary == "" || b.Run == nil {
			t.Errorf("benchmark %q: %+v", b.Name, b)
		}
	}
	if !slices.Equal(names, reportOrder) {
		t.Errorf("benchmarks are %q, and in the order %q", names, reportOrder)
	}
}

// Two benchmarks on real factories: their rows are the report's, and nothing of the factories is left. One is cheap, the other
// writes into all three databases past the stores, and so rots where nobody runs it. make bench-tiny runs all.
func TestTinyRun(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		untested.Except(t, "one benchmark on a factory, which takes seconds: run without -short")
	}
	postgres.ForTest(t) // skips where there is none, and fails in CI
	if _, err := softhsm.Module(); err != nil {
		untested.Skip(t, "%v", err)
	}
	built := programs.Build(t, "", "bench", "custodian", "deviceservice", "registry", "sequencer", "spp")
	dir := filepath.Join(t.TempDir(), "bench")
	cmd := exec.CommandContext(t.Context(), filepath.Join(built, "bench"), "--bench", "spp-cpu", "--bench", "rows", "--rounds", "1", "--scale", "0.001", "--dir", dir, "--json")
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, errs.String())
	}
	report, err := os.ReadFile(filepath.Join(dir, "report.json"))
	if err != nil {
		t.Fatal(err)
	}
	if string(report) != string(out) {
		t.Errorf("printed is\n%s\nand the report\n%s", out, report)
	}
	var rows []bench.Result
	if err := json.Unmarshal(report, &rows); err != nil {
		t.Fatal(err)
	}
	if len(rows) != 2 || rows[0].Name != "spp-cpu" || rows[1].Name != "rows" {
		t.Fatalf("rows %+v", rows)
	}
	for _, row := range rows {
		if r := row.Ratio; r == nil || *r <= 0 || len(row.Rounds) != 1 || row.Bench != row.Name || row.Notes["scale"] != 0.001 {
			t.Errorf("%+v", row)
		}
	}
	if left, err := os.ReadDir(dir); len(left) != 1 || err != nil {
		t.Errorf("left in the folder are %v, %v", left, err)
	}
}

// What the SPP does is compared with what a device needs, whatever the number of size queries.
func TestSame(t *testing.T) {
	t.Parallel()
	const devices = 10
	made := func(change map[string]uint64) map[string]uint64 {
		all := map[string]uint64{"C_DeriveKey": 40, "C_GenerateKeyPair": 10, "C_SignInit": 35, "C_VerifyInit": 30, "C_EncryptInit": 20, "C_WrapKey": 10}
		for name, n := range change {
			all[name] = n
		}
		return all
	}
	for name, c := range map[string]struct {
		change map[string]uint64
		same   bool
	}{
		"as needed":                 {nil, true},
		"a head of the log":         {map[string]uint64{"C_SignInit": 41}, true},
		"a signature missing":       {map[string]uint64{"C_SignInit": 25}, false},
		"two signatures more":       {map[string]uint64{"C_SignInit": 55}, false},
		"a derivation missing":      {map[string]uint64{"C_DeriveKey": 30}, false},
		"a derivation more":         {map[string]uint64{"C_DeriveKey": 50}, false},
		"keys wrapped twice":        {map[string]uint64{"C_WrapKey": 20}, false},
		"what the list doesn't say": {map[string]uint64{"C_UnwrapKey": 10}, false},
	} {
		if err := same(made(c.change), devices); (err == nil) != c.same {
			t.Errorf("%s: %v", name, err)
		}
	}
	counts := map[string]uint64{"C_WrapKey": 20, "C_Sign": 60, "C_SignInit": 30, "C_OpenSession": 3}
	if have := worked(counts, map[string]uint64{"C_WrapKey": 10, "C_Sign": 30}); len(have) != 2 || have["C_WrapKey"] != 10 || have["C_SignInit"] != 30 {
		t.Errorf("operations are %v", have)
	}
}

func TestMissed(t *testing.T) {
	t.Parallel()
	rows := []bench.Result{bench.Measured("a", 1, "x"), bench.Measured("b", 1, "x").AtLeast(1, 2), bench.Measured("c", 1, "x").AtMost(0.5, 0), bench.Measured("d", 1, "x").AtLeast(3, 4)}
	if err := missed(rows[:2]); err != nil {
		t.Error(err)
	}
	if err := missed(rows); err == nil || !strings.Contains(err.Error(), "c, d") {
		t.Errorf("missed: %v", err)
	}
}

// The CPU that others see of this process is what it knows itself, as far as ticks go.
func TestCPU(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		untested.Except(t, "a process's CPU time: there is no /proc")
	}
	seen, err := cpu(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if family, err := cpuOfFamily(os.Getpid()); err != nil || family < seen {
		t.Errorf("with its children it used %v, alone %v: %v", family, seen, err)
	}
	again, err := cpu(os.Getpid())
	if known := ownCPU(); err != nil || seen > known+10*tick || again < seen || known > again+time.Minute {
		t.Errorf("seen from outside %v and then %v, known %v: %v", seen, again, known, err)
	}
	for _, text := range []string{"", "1 (a) S 1", "1 (a) S x" + strings.Repeat(" 0", 20), "1 a S" + strings.Repeat(" 0", 20)} {
		file := filepath.Join(t.TempDir(), "stat")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err := stat(file); err == nil {
			t.Errorf("read %q as %+v", text, s)
		}
	}
	file := filepath.Join(t.TempDir(), "stat")
	if err := os.WriteFile(file, []byte("7 (a ) (b) S 3 0 0 0 0 0 0 0 0 0 20 5 0 0 0 0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := stat(file); err != nil || s.parent != 3 || s.cpu != 25*tick {
		t.Errorf("read %+v, %v", s, err)
	}
}

// The help names every option that the Makefile and the documents use.
func TestHelp(t *testing.T) {
	t.Parallel()
	var out, errs strings.Builder
	if code := console.Run(t.Context(), []string{"--help"}, strings.NewReader(""), &out, &errs, "bench", description, &program{}, console.Examples(session)); code != console.ExitDone {
		t.Fatalf("exit code %d: %s", code, errs.String())
	}
	for _, want := range []string{"--bench", "--long", "--rounds", "--json", "make bench-long"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in the help", want)
		}
	}
	for lines := bufio.NewScanner(strings.NewReader(out.String())); lines.Scan(); {
		if strings.Contains(lines.Text(), "  raw") {
			t.Errorf("a hidden command is shown: %s", lines.Text())
		}
	}
}

// The CPU of rounds is without that of the first, as their values are.
func TestSpending(t *testing.T) {
	t.Parallel()
	var s spending
	look := func(ms int) usage { return usage{"a": time.Duration(ms) * time.Millisecond} }
	s.round(look(0), look(1000), 10)
	s.round(look(1000), look(1020), 10)
	s.round(look(1030), look(1070), 10)
	if have := s.each(); len(have) != 1 || have["a"] != 3 {
		t.Errorf("20 that took 60 ms together: %v", have)
	}
}

// What is held is written down as it is: none is none, and what came to none isn't called a leak.
func TestGrown(t *testing.T) {
	t.Parallel()
	before := held{goroutines: 20, sessions: 10, objects: 0, sockets: 30, descriptors: 40, resident: 50e6}
	after := held{goroutines: 23, sessions: 10, objects: 2, sockets: 0, descriptors: 40, resident: 90e6}
	type row struct {
		value, ratio float64
		met          bool
	}
	want := map[string]row{
		"soak-goroutines": {23, 1.15, false}, "soak-sessions": {10, 1, true}, "soak-objects": {2, -1, false}, "soak-connections": {0, 0, true},
		"soak-descriptors": {40, 1, true}, "soak-memory": {90, 1.8, false}, "soak-memory-own": {50, 1, true},
	}
	have := map[string]row{}
	for _, r := range grown(before, after, 40e6, 100, 10) {
		x := row{r.Value, -1, *r.Met}
		if r.Ratio != nil {
			x.ratio = *r.Ratio
		}
		have[r.Name] = x
	}
	if !maps.Equal(have, want) {
		t.Errorf("rows are %v, want %v", have, want)
	}
	after.objects = 0
	for _, r := range grown(before, after, 0, 100, 10) {
		if r.Name == "soak-objects" && (r.Value != 0 || r.Ratio != nil || !*r.Met) {
			t.Errorf("none at first and none at the end: %+v", r)
		}
	}
}

// Sockets are counted by themselves, beside other descriptors.
func TestSockets(t *testing.T) {
	if _, err := os.Stat("/proc/self/fd"); err != nil {
		untested.Except(t, "a process's sockets: there is no /proc")
	}
	before, err := sockets(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		file, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
	}
	if after, err := sockets(os.Getpid()); after != before+3 || err != nil {
		t.Errorf("3 more than %d sockets are counted as %d, %v", before, after, err)
	}
	if _, err := sockets(-1); err == nil {
		t.Error("counted the sockets of no process")
	}
}
