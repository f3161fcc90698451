// Command bench measures the product against bounds that it measures in the same run, and
// says of each row whether it is good enough. docs/performance.md explains the rows.
//
// Its factories are made of the product's own programs (cmd/internal/plant): real SPPs, a
// real sequencer and registry, a private Postgres that is durable as in production, TLS between them. What is
// measured is on this one machine, which at the same time does the stations' and chips' work.
//
// One file for each noun that is measured:
//
//	calls     PKCS#11 calls and cryptographic operations for a device
//	cpu       the SPP's CPU for a device, and that of the same operations made raw
//	line      devices a second over the whole path
//	network   an HSM across a network, modelled by the shim
//	keys      cost with many keys on the token
//	scale     two SPPs on one pool
//	soak      what grows over many devices
//	slots     token chips, by how many there are
//	pairs     assembly with key pairs made in advance
//
// of the secure channel handshake, bulk and channels,
//
// and of the registry's and Postgres' side publish, lookup, get and rows.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/term"

	"github.com/devicekeys/devicekeys/bench"
	"github.com/devicekeys/devicekeys/cmd/internal/console"
)

// benches are all benchmarks. Each is declared in the file of its noun, whose init adds it.
var benches []bench.Bench

// reportOrder is theirs in the list and the report.
var reportOrder = []string{"spp-calls", "spp-cpu", "line", "pairs", "network", "keys", "scale", "handshake", "bulk", "publish", "lookup", "get", "channels", "rows", "soak", "slots"}

// inOrder gives the benchmarks as they are run.
func inOrder() []bench.Bench {
	return slices.SortedStableFunc(slices.Values(benches), func(a, b bench.Bench) int {
		return cmp.Compare(slices.Index(reportOrder, a.Name), slices.Index(reportOrder, b.Name))
	})
}

const description = `Measures the product on this machine. Every ratio is to a bound measured in the same run, in turns with the product, as
the median of several rounds; a row says whether its bar is reached and what the aim is.`

const session = `$ make bench                  # every row but the long ones, under five minutes
$ make bench BENCH=publish    # one; the report keeps the others' rows
$ make bench-long             # all, which takes half an hour more
$ make bench-tiny             # all at a hundredth of their size, to see that they run
$ bin/bench --list
$ bin/bench --bench spp-calls --bench spp-cpu --rounds 5 --json`

type program struct {
	Run           runCmd           `cmd:"" default:"withargs" help:"Measure (default)."`
	Raw           rawCmd           `cmd:"" hidden:"" help:"The cryptographic operations of devices made raw on a token; started by run."`
	RawHandshakes rawHandshakesCmd `cmd:"" hidden:"" name:"raw-handshakes" help:"The PKCS#11 calls of handshakes made raw on a token; started by run."`
	Bytes         bytesCmd         `cmd:"" hidden:"" help:"The trivial handler that GET is compared with; started by run."`
}

type runCmd struct {
	console.Output
	Bench  []string `name:"bench" short:"b" env:"BENCH" placeholder:"NAME" help:"Measure this one, long or not; may be given several times."`
	List   bool     `name:"list" help:"List the benchmarks and leave."`
	Long   bool     `name:"long" help:"Measure the long ones too."`
	Rounds int      `name:"rounds" default:"3" placeholder:"N" help:"Rounds of each comparison, beside one to warm up (default 3)."`
	Scale  float64  `name:"scale" default:"1" placeholder:"X" help:"Sizes, as a share of the documented ones (default 1): less for a quick look, whose numbers say little."`
	Dir    string   `name:"dir" env:"DIR" default:"var/bench" placeholder:"DIR" help:"Folder of factories and report (default var/bench); the factories are removed when they are done, and in the report each benchmark replaces its own rows."`
	Keep   bool     `name:"keep" help:"Leave the stopped factories, with their logs."`
	Strict bool     `name:"strict" help:"Fail when a bar is missed."`
}

// Examples stand in the help.
func (*runCmd) Examples() string { return session }

func (c *runCmd) Run(ctx context.Context, io console.IO) error {
	if c.Rounds < 1 || c.Rounds > 100 || c.Scale <= 0 || c.Scale > 10 {
		return console.Usagef("%d rounds at scale %v: 1 to 100, and above 0 to 10, are possible", c.Rounds, c.Scale)
	}
	chosen, err := bench.Select(inOrder(), c.Bench, c.Long || c.List)
	if err != nil {
		return console.Usagef("%w: --list shows them", err)
	}
	if c.List {
		return c.list(io, chosen)
	}
	executable, err := os.Executable()
	if err != nil {
		return err
	}
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return err
	}
	// An hour's rows shouldn't be lost because what they go into can't be read.
	before, err := bench.ReadReport(filepath.Join(dir, reportFile))
	if err != nil {
		return err
	}
	results, err := bench.Run(ctx, chosen, func(b bench.Bench) (*bench.Env, func() error, error) {
		return c.env(io, filepath.Join(dir, b.Name), filepath.Dir(executable))
	})
	if len(results) > 0 {
		err = errors.Join(err, c.show(io, results, before, dir))
	}
	if err == nil && c.Strict {
		err = missed(results)
	}
	return console.Hint(err, "with --keep each benchmark's logs stay in %s", c.Dir)
}

// env makes what a benchmark runs with.
func (c *runCmd) env(io console.IO, dir, programs string) (*bench.Env, func() error, error) {
	// A crash leaves the folder and maybe servers in it; plant.New ends them when the same benchmark runs again.
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, err
	}
	e := &bench.Env{Dir: dir, Programs: programs, Rounds: c.Rounds, Scale: c.Scale, Long: c.Long, Log: io.Log, Err: io.Err}
	e.Progress = func(total int, label string) bench.Bar { return console.Progress(io.Err, total, label) }
	end := func() error {
		if c.Keep {
			return nil
		}
		return os.RemoveAll(dir)
	}
	return e, end, nil
}

func (c *runCmd) list(io console.IO, all []bench.Bench) error {
	t := console.NewTable(console.Columns("name", "long", "summary")...)
	for _, b := range all {
		t.Row(b.Name, b.Long, b.Summary)
	}
	return c.Print(io.Out, t)
}

// reportFile has the newest rows of each benchmark, whichever run they are of.
const reportFile = "report.json"

// show prints this run's rows and puts them into the report, in the place of older ones of the same benchmarks.
func (c *runCmd) show(io console.IO, results, before []bench.Result, dir string) error {
	raw, err := bench.MarshalReport(results)
	if err != nil {
		return err
	}
	err = bench.WriteReport(filepath.Join(dir, reportFile), bench.Merge(before, results, reportOrder))
	if c.JSON {
		return errors.Join(err, c.Print(io.Out, json.RawMessage(raw)))
	}
	_, printed := fmt.Fprint(io.Out, bench.Table(results, style(io)))
	return errors.Join(err, printed)
}

// style draws with blocks where they can be seen.
func style(io console.IO) bench.Style {
	if f, ok := io.Out.(*os.File); ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb" {
		return bench.Unicode
	}
	return bench.ASCII
}

// missed names the rows that don't reach their bar.
func missed(results []bench.Result) error {
	var names []string
	for _, r := range results {
		if r.Met != nil && !*r.Met {
			names = append(names, r.Name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	return fmt.Errorf("below the bar: %s", strings.Join(names, ", "))
}

func main() { console.Main("bench", description, &program{}, console.Examples(session)) }
