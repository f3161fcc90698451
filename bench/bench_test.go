package bench_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/devicekeys/devicekeys/bench"
)

var update = flag.Bool("update", false, "write the golden files")

// sequence gives one value after the other and notes its name each time.
func sequence(log *[]string, name string, values ...float64) func(context.Context) (float64, error) {
	return func(context.Context) (float64, error) {
		*log = append(*log, name)
		v := values[0]
		values = values[1:]
		return v, nil
	}
}

// The first round is dropped, the order alternates, and medians are of what is left: of the ratios each round's own.
func TestCompare(t *testing.T) {
	t.Parallel()
	var log []string
	c, err := bench.Compare(t.Context(), 3, sequence(&log, "product", 1000, 10, 30, 20), sequence(&log, "bound", 1, 10, 10, 40))
	if err != nil {
		t.Fatal(err)
	}
	want := bench.Comparison{Value: 20, BoundValue: 10, Ratio: 1, Rounds: []bench.Round{{10, new(10.0)}, {30, new(10.0)}, {20, new(40.0)}}}
	if d := cmp.Diff(want, c); d != "" {
		t.Errorf("(-want +have)\n%s", d)
	}
	if d := cmp.Diff(strings.Fields("product bound bound product product bound bound product"), log); d != "" {
		t.Errorf("order (-want +have)\n%s", d)
	}
}

func TestCompareEnds(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	value := func(v float64, err error) func(context.Context) (float64, error) {
		return func(context.Context) (float64, error) { return v, err }
	}
	if _, err := bench.Compare(t.Context(), 1, value(1, broken), value(1, nil)); !errors.Is(err, broken) {
		t.Errorf("of the product: %v", err)
	}
	if _, err := bench.Compare(t.Context(), 1, value(1, nil), value(1, broken)); !errors.Is(err, broken) {
		t.Errorf("of the bound: %v", err)
	}
	if _, err := bench.Compare(t.Context(), 1, value(1, nil), value(0, nil)); err == nil {
		t.Error("compared with a bound of 0")
	}
	if _, err := bench.Compare(t.Context(), 0, value(1, nil), value(1, nil)); err == nil {
		t.Error("compared in no round")
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(broken)
	if _, err := bench.Compare(ctx, 1, value(1, nil), value(1, nil)); !errors.Is(err, broken) {
		t.Errorf("after the context's end: %v", err)
	}
}

func TestMedian(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		of   []float64
		want float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1}, 5}, {[]float64{9, 1, 2}, 2}, {[]float64{4, 1, 3, 2}, 2.5}} {
		before := slices.Clone(c.of)
		if have := bench.Median(c.of); have != c.want || !slices.Equal(before, c.of) {
			t.Errorf("of %v: %v, want %v", c.of, have, c.want)
		}
	}
}

func TestPercentiles(t *testing.T) {
	t.Parallel()
	var times []time.Duration
	for i := 200; i > 0; i-- {
		times = append(times, time.Duration(i)*time.Millisecond)
	}
	l, err := bench.Percentiles(times)
	if d := cmp.Diff(bench.Latency{Calls: 200, P50: 100, P99: 198, Max: 200}, l); d != "" || err != nil {
		t.Errorf("%v, (-want +have)\n%s", err, d)
	}
	if l, err = bench.Percentiles(times[:1]); l.P50 != 200 || l.P99 != 200 || err != nil {
		t.Errorf("of one: %+v, %v", l, err)
	}
	if _, err := bench.Percentiles(nil); !errors.Is(err, bench.ErrNoCalls) {
		t.Errorf("of none: %v", err)
	}
}

// rows are of every kind.
func rows() []bench.Result {
	compared := func(value, bound float64) bench.Comparison {
		return bench.Medians([]bench.Round{{value, &bound}})
	}
	return []bench.Result{
		bench.Measured("spp-calls", 42, "calls/device").AtMost(40, 25),
		bench.Compared("spp-cpu", "ms CPU/device", "the same calls raw", compared(1.4142, 1)).AtMost(2, 1.5).Note("devices", 300),
		bench.Measured("line-1", 123.456, "devices/s"),
		bench.Measured("line-32", 750, "devices/s").AtLeast(500, 1000),
		bench.Compared("publish", "entries/s", "pgbench inserting such rows", compared(30000, 40000)).AtLeast(0.5, 0.7),
		bench.Compared("lookup", "lookups/s", "pgbench reading them", compared(0.1, 1)).AtLeast(0.6, 0.8),
		bench.Compared("scale-2", "devices/s", "one SPP", compared(0.00012345, 0.0001)),
		bench.Measured("nothing", 0, "devices").AtMost(0, 0),
		bench.Failed("broken", errors.New("build a factory: no Postgres\nsecond line")),
	}
}

func TestTable(t *testing.T) {
	t.Parallel()
	for name, style := range map[string]bench.Style{"unicode": bench.Unicode, "ascii": bench.ASCII} {
		golden(t, name+".txt", []byte(bench.Table(rows(), style)))
	}
}

func TestReport(t *testing.T) {
	t.Parallel()
	all := rows()
	raw, err := bench.MarshalReport(append(all[:3:3], all[len(all)-1]))
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "report.json", raw)
	var back []bench.Result
	if err := json.Unmarshal(raw, &back); err != nil {
		t.Fatal(err)
	}
	again, err := bench.MarshalReport(back)
	if d := cmp.Diff(string(raw), string(again)); d != "" || err != nil {
		t.Errorf("%v, read and written again it differs:\n%s", err, d)
	}
	if none, err := bench.MarshalReport(nil); string(none) != "[]\n" || err != nil {
		t.Errorf("no rows are %q, %v", none, err)
	}
}

func golden(t *testing.T, name string, have []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, have, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(have)); d != "" {
		t.Errorf("%s (-want +have)\n%s", name, d)
	}
}

// What fails leaves the old report, and nothing beside it.
func TestWriteReport(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "new", "report.json")
	if err := bench.WriteReport(file, rows()); err != nil {
		t.Fatal(err)
	}
	first, err := os.ReadFile(file)
	if err != nil || !json.Valid(first) {
		t.Fatalf("%v in\n%s", err, first)
	}
	if err := bench.WriteReport(file, []bench.Result{bench.Measured("x", math.Inf(1), "y")}); err == nil {
		t.Error("wrote a number that JSON doesn't have")
	}
	if now, err := os.ReadFile(file); string(now) != string(first) || err != nil {
		t.Errorf("%v, the old report is now\n%s", err, now)
	}
	if err := bench.WriteReport(filepath.Join(file, "x"), nil); err == nil {
		t.Error("wrote below a file")
	}
	if err := os.Mkdir(filepath.Join(dir, "taken"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := bench.WriteReport(filepath.Join(dir, "taken"), nil); err == nil {
		t.Error("wrote over a folder")
	}
	if left, err := filepath.Glob(filepath.Join(dir, ".report-*")); len(left) != 0 || err != nil {
		t.Errorf("left are %v, %v", left, err)
	}
}

// A run of some benchmarks leaves the rows of others, and replaces all of their own.
func TestMerge(t *testing.T) {
	t.Parallel()
	row := func(benchmark, name string, value float64) bench.Result {
		r := bench.Measured(name, value, "x")
		r.Bench = benchmark
		return r
	}
	failed := bench.Failed("b", errors.New("broken"))
	order := []string{"a", "b", "c"}
	old := []bench.Result{row("a", "a", 1), row("b", "b-1", 1), row("b", "b-2", 1), row("c", "c", 1), row("", "unknown", 1)}
	for name, c := range map[string]struct {
		old, fresh, want []bench.Result
	}{
		"nothing before":    {nil, []bench.Result{row("b", "b-1", 2)}, []bench.Result{row("b", "b-1", 2)}},
		"nothing new":       {old, nil, old},
		"one of three":      {old, []bench.Result{row("b", "b-1", 2)}, []bench.Result{old[0], row("b", "b-1", 2), old[3], old[4]}},
		"one failed":        {old, []bench.Result{failed}, []bench.Result{old[0], failed, old[3], old[4]}},
		"works again":       {[]bench.Result{old[0], failed}, []bench.Result{row("b", "b-1", 2)}, []bench.Result{old[0], row("b", "b-1", 2)}},
		"of unknown origin": {old, []bench.Result{row("c", "unknown", 2)}, []bench.Result{old[0], old[1], old[2], row("c", "unknown", 2)}},
		"in order":          {[]bench.Result{row("c", "c", 1)}, []bench.Result{row("a", "a", 2)}, []bench.Result{row("a", "a", 2), row("c", "c", 1)}},
	} {
		if d := cmp.Diff(c.want, bench.Merge(c.old, c.fresh, order)); d != "" {
			t.Errorf("%s (-want +have)\n%s", name, d)
		}
	}
}

func TestReadReport(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "report.json")
	if none, err := bench.ReadReport(file); len(none) != 0 || err != nil {
		t.Errorf("where there is none: %v, %v", none, err)
	}
	all := rows()
	all[0].Bench, all[0].At = "calls", time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	all[1] = all[1].Note("devices", 300.0) // as JSON has numbers
	if err := bench.WriteReport(file, all); err != nil {
		t.Fatal(err)
	}
	back, err := bench.ReadReport(file)
	if d := cmp.Diff(all, back); d != "" || err != nil {
		t.Errorf("%v (-written +read)\n%s", err, d)
	}
	for name, text := range map[string]string{"cut": "[{", "another thing": `{"rows": 1}`, "long": "[" + strings.Repeat(" ", 16<<20) + "]"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if rows, err := bench.ReadReport(file); err == nil || !strings.Contains(err.Error(), "move it away") {
			t.Errorf("%s: %v, %v", name, rows, err)
		}
	}
}

func TestJudged(t *testing.T) {
	t.Parallel()
	half := bench.Compared("x", "y", "z", bench.Medians([]bench.Round{{1, new(2.0)}}))
	for name, c := range map[string]struct {
		row bench.Result
		met bool
	}{
		"at least, reached":  {bench.Measured("x", 2, "y").AtLeast(2, 3), true},
		"at least, missed":   {bench.Measured("x", 1.9, "y").AtLeast(2, 3), false},
		"at most, reached":   {bench.Measured("x", 2, "y").AtMost(2, 1), true},
		"at most, missed":    {bench.Measured("x", 2.1, "y").AtMost(2, 1), false},
		"of the ratio":       {half.AtLeast(0.5, 1), true},
		"not of the value":   {half.AtLeast(0.9, 1), false},
		"of the ratio, most": {half.AtMost(0.6, 0.1), true},
	} {
		if c.row.Met == nil || *c.row.Met != c.met {
			t.Errorf("%s: %v", name, c.row.Met)
		}
	}
	if half.Met != nil {
		t.Error("a row without a bar is judged")
	}
	a := half.Note("k", 1)
	b := a.Note("k", 2)
	if a.Notes["k"] != 1 || b.Notes["k"] != 2 || half.Notes != nil {
		t.Errorf("notes %v and %v", a.Notes, b.Notes)
	}
}

func TestSelect(t *testing.T) {
	t.Parallel()
	all := []bench.Bench{{Name: "a"}, {Name: "b", Long: true}, {Name: "c"}}
	for _, c := range []struct {
		names []string
		long  bool
		want  string
	}{{nil, false, "a c"}, {nil, true, "a b c"}, {[]string{"c", "b", "c"}, false, "b c"}} {
		chosen, err := bench.Select(all, c.names, c.long)
		var have []string
		for _, b := range chosen {
			have = append(have, b.Name)
		}
		if strings.Join(have, " ") != c.want || err != nil {
			t.Errorf("%v, %t: %v, %v", c.names, c.long, have, err)
		}
	}
	if _, err := bench.Select(all, []string{"a", "d"}, true); !errors.Is(err, bench.ErrUnknown) {
		t.Errorf("one that isn't there: %v", err)
	}
}

// One benchmark's failure costs its own rows, and each one's environment ends.
func TestRun(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	one := func(name string, rows []bench.Result, err error) bench.Bench {
		return bench.Bench{Name: name, Run: func(_ context.Context, e *bench.Env) ([]bench.Result, error) {
			e.Log.Info("running")
			e.Bar(1, "x").Add(1)
			e.Say("said %d", 1)
			return rows, err
		}}
	}
	ended := 0
	env := func(bench.Bench) (*bench.Env, func() error, error) {
		return &bench.Env{}, func() error { ended++; return nil }, nil
	}
	began := time.Now().Add(-time.Second)
	good := bench.Measured("good", 1, "y")
	odd := good
	odd.Ratio = new(1.0)
	results, err := bench.Run(t.Context(), []bench.Bench{
		one("first", nil, broken), one("second", []bench.Result{good}, nil),
		one("third", []bench.Result{bench.Measured("x", math.NaN(), "y")}, nil), one("fourth", []bench.Result{odd}, nil), one("fifth", []bench.Result{{}}, nil),
	}, env)
	if ended != 5 || len(results) != 5 {
		t.Errorf("rows %v, %d ended", results, ended)
	}
	for i, name := range []string{"first", "good", "third", "fourth", "fifth"} {
		r := results[i]
		if r.Name != name || (r.Error == "") != (name == "good") || r.At.Before(began) || r.At.After(time.Now()) || r.At.Nanosecond() != 0 {
			t.Errorf("row %d is %+v, want one named %s", i, r, name)
		}
		if want := []string{"first", "second", "third", "fourth", "fifth"}[i]; r.Bench != want {
			t.Errorf("row %d is of benchmark %q, want %q", i, r.Bench, want)
		}
	}
	for _, want := range []string{"benchmark first: broken", "benchmark third: row \"x\" has NaN for its value", "benchmark fourth: row \"good\" has only some", "benchmark fifth: a row \"\""} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; %q is expected in it", err, want)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(broken)
	if results, err := bench.Run(ctx, []bench.Bench{one("x", []bench.Result{good}, nil)}, env); len(results) != 0 || !errors.Is(err, broken) || ended != 5 {
		t.Errorf("after the context's end: %v, %v", results, err)
	}
	ctx, cancel = context.WithCancelCause(t.Context())
	cut := bench.Bench{Name: "cut", Run: func(context.Context, *bench.Env) ([]bench.Result, error) { cancel(broken); return nil, broken }}
	if results, err := bench.Run(ctx, []bench.Bench{cut}, env); len(results) != 0 || !errors.Is(err, broken) {
		t.Errorf("cut off: %v, %v", results, err)
	}
	results, err = bench.Run(t.Context(), []bench.Bench{one("x", nil, nil)}, func(bench.Bench) (*bench.Env, func() error, error) { return nil, nil, broken })
	if !errors.Is(err, broken) || len(results) != 1 || results[0].Error != "broken" {
		t.Errorf("without an environment: %v, %v", results, err)
	}
	results, err = bench.Run(t.Context(), []bench.Bench{one("x", []bench.Result{good}, nil)}, func(bench.Bench) (*bench.Env, func() error, error) {
		return &bench.Env{Scale: 0.5}, func() error { return nil }, nil
	})
	if err != nil || len(results) != 1 || results[0].Notes["scale"] != 0.5 {
		t.Errorf("at half the scale: %v, %v", results, err)
	}
}

func TestSize(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		scale                  float64
		documented, least, all int
	}{{0, 100, 5, 100}, {1, 100, 5, 100}, {0.5, 101, 5, 51}, {0.01, 100, 5, 5}, {2, 100, 5, 200}} {
		if have := (&bench.Env{Scale: c.scale}).Size(c.documented, c.least); have != c.all {
			t.Errorf("%+v: %d", c, have)
		}
	}
}
