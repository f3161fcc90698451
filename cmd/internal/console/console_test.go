package console_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"
)

// example is a program with one of each thing a program may have.
type example struct {
	Serve  serveCmd                       `cmd:"" help:"Serve until stopped."`
	Chips  chipsCmd                       `cmd:"" help:"The chip maker's deliveries."`
	Fail   failCmd                        `cmd:"" help:"Fail in the way asked for."`
	Config console.ConfigHelp[testConfig] `cmd:"" help:"Print every key of the configuration and its default."`
}

type serveCmd struct {
	console.ConfigFile
}

func (c *serveCmd) Run(ctx context.Context, io console.IO) error {
	var config testConfig
	if err := console.LoadConfig(c.Config.String(), &config); err != nil {
		return err
	}
	fmt.Fprintln(io.Out, "serving")
	io.Log.Info("serving", "listen", config.Listen)
	io.Log.Debug("not shown by default")
	select {
	case <-ctx.Done():
		return nil
	case <-time.After(time.Minute): // a test that forgot to stop it
		return errors.New("nobody stopped this")
	}
}

type chipsCmd struct {
	Import chipsImportCmd `cmd:"" help:"Import a delivery list."`
	List   chipsListCmd   `cmd:"" help:"List what was imported."`
}

type chipsImportCmd struct {
	List   string `arg:"" type:"existingfile" help:"The signed list."`
	Maker  string `help:"Chip maker." enum:"acme,globex" default:"acme" placeholder:"NAME"`
	Secret string `hidden:""`
}

func (*chipsImportCmd) Examples() string { return "$ example chips import delivery.cbor" }
func (*chipsImportCmd) Run() error       { return nil }

type chipsListCmd struct {
	console.Output
}

func (c *chipsListCmd) Run(io console.IO) error {
	t := console.NewTable(console.Columns("record_id", "age_ms")...)
	t.Row("ab", 12)
	t.Row("cdef", 3)
	return c.Print(io.Out, t)
}

type failCmd struct {
	How string `arg:"" enum:"plain,refused,usage,hint,interrupted,control,deaf" help:"In which way."`
}

type refusal string

func (r refusal) Error() string   { return "the device refuses: " + string(r) }
func (r refusal) Refused() string { return string(r) }

func (c *failCmd) Run(ctx context.Context, io console.IO) error {
	switch c.How {
	case "refused":
		return fmt.Errorf("restoring %q: %w", "a", refusal("generation below the floor"))
	case "usage":
		return console.Usagef("want %d devices or more, have %d", 1, 0)
	case "hint":
		return fmt.Errorf("outer: %w", console.Hint(errors.New("no database"), "start it with %q", "make demo"))
	case "interrupted":
		fmt.Fprintln(io.Out, "waiting")
		<-ctx.Done()
		return fmt.Errorf("waiting: %w", ctx.Err())
	case "deaf":
		fmt.Fprintln(io.Out, "deaf")
		time.Sleep(time.Minute)
	case "control":
		return errors.New("label \x1b[2Jgone")
	}
	return errors.New("the disk is full")
}

const session = `
$ example serve --config /etc/example.yaml
serving
`

func mainExample() {
	console.Main("example", "An example. It stands for any program.", &example{}, console.Examples(session))
}

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"example": mainExample})
}

func TestScript(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{Dir: "testdata/script", RequireExplicitExec: true, Setup: func(e *testscript.Env) error {
		e.Setenv("GORACE", "atexit_sleep_ms=10") // else a program built with -race takes a second to exit
		return nil
	}})
}

func run(ctx context.Context, args ...string) (code int, out, errs string) {
	var o, e bytes.Buffer
	code = console.Run(ctx, args, strings.NewReader(""), &o, &e, "example", "An example. It stands for any program.", &example{}, console.Examples(session))
	return code, o.String(), e.String()
}

func TestExitCodes(t *testing.T) {
	t.Parallel()
	stopped, stop := context.WithCancelCause(t.Context())
	stop(errors.New("terminated"))
	for _, c := range []struct {
		args string
		code int
		errs string
	}{
		{"fail plain", 1, "example: the disk is full\n"},
		{"fail refused", 3, "example: restoring \"a\": the device refuses: generation below the floor\n"},
		{"fail usage", 2, "example: want 1 devices or more, have 0\n"},
		{"fail hint", 1, "example: outer: no database\nnext: start it with \"make demo\"\n"},
		{"fail interrupted", 1, "example: stopped before it was done: terminated\n"},
		{"fail control", 1, "example: label \\x1b[2Jgone\n"},
		{"fail otherwise", 2, "example: <how> must be one of \"plain\",\"refused\",\"usage\",\"hint\",\"interrupted\",\"control\",\"deaf\" but got \"otherwise\"\nnext: example fail --help\n"},
		{"chips import", 2, "example: expected \"<list>\"\nnext: example chips import --help\n"},
		{"serve --confg x", 2, "example: unknown flag --confg, did you mean \"--config\"?\nnext: example serve --help\n"},
		{"serve --config nowhere.yaml", 2, "example: configuration nowhere.yaml: opening it: no such file or directory\nnext: give the file with --config, or make one from what the config command prints\n"},
		{"", 2, "example: expected one of \"serve\", \"chips\", \"fail\", \"config\", \"completion\"\nnext: example --help\n"},
		{"--version", 0, ""},
		{"chips --help", 0, ""},
		{"chips list", 0, ""},
	} {
		t.Run(c.args, func(t *testing.T) {
			t.Parallel()
			code, _, errs := run(stopped, strings.Fields(c.args)...)
			if code != c.code {
				t.Errorf("exit code %d, want %d", code, c.code)
			}
			if d := cmp.Diff(c.errs, errs); d != "" {
				t.Errorf("standard error (-want +have):\n%s", d)
			}
		})
	}
}

func TestBind(t *testing.T) {
	t.Parallel()
	type number int
	var seen number
	grammar := struct {
		Show bindCmd[number] `cmd:""`
	}{Show: bindCmd[number]{&seen}}
	if code := console.Run(t.Context(), []string{"show"}, nil, &bytes.Buffer{}, &bytes.Buffer{}, "b", "", &grammar, console.Bind(number(7))); code != 0 || seen != 7 {
		t.Errorf("code %d, bound value %d, want 0 and 7", code, seen)
	}
}

type bindCmd[T any] struct{ seen *T }

func (c *bindCmd[T]) Run(v T) error { *c.seen = v; return nil }
