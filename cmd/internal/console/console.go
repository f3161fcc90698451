// Package console is what the programs of this module share: how a command line is read, how a configuration
// file is read, how results, progress and errors are shown, and how a server listens and stops. A program's main
// is one call:
//
//	func main() {
//		console.Main("sequencer", "The only writer of the public registry.", &program{}, console.Examples(session))
//	}
//
// where program is a kong grammar. A command's Run method may ask for a context.Context (cancelled by SIGINT and
// SIGTERM), a console.IO (its streams and logger), or both:
//
//	func (c *serveCmd) Run(ctx context.Context, io console.IO) error
//
// # Exit codes
//
//	0  done
//	1  failed: something outside was missing, slow or broken; the same command may succeed later
//	2  usage: the command line or the configuration is wrong; the same command fails again
//	3  refused: a device or the secure processing point checked what it was given and declined it
//
// # Output
//
// Results go to standard output, as an aligned table or, with --json, as one JSON document whose field names are
// part of the program's interface. Everything else, i.e. logs, progress, errors, goes to standard error. An error
// is printed as "program: message", then, where the error knows it, "next: what to do".
//
// Nothing here reads a PIN, a password or a key. Configurations hold only the paths of files that do.
package console

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/alecthomas/kong"
)

// Exit codes of every program.
const (
	ExitDone    = 0
	ExitFailed  = 1
	ExitUsage   = 2
	ExitRefused = 3
)

// IO is what a command reads and writes. The zero value is not usable; Run makes one for each run.
type IO struct {
	In  io.Reader
	Out io.Writer // results only, so that it can be piped
	Err io.Writer // logs, progress, errors
	Log *slog.Logger
}

// Option changes how a program is presented.
type Option func(*program)

// Examples is a session shown under the program's help, as one would type it: commands after "$ ", their output
// below. A command of its own right may add one by implementing `Examples() string`.
func Examples(session string) Option { return func(p *program) { p.examples = session } }

// Bind passes a value to every Run method that asks for its type.
func Bind(value any) Option { return func(p *program) { p.bindings = append(p.bindings, value) } }

// common is the part of the grammar that every program has.
type common struct {
	Help      helpFlag    `name:"help" short:"h" help:"Show this page and leave."`
	Version   versionFlag `name:"version" help:"Show the version and leave."`
	LogLevel  string      `name:"log-level" default:"info" placeholder:"LEVEL" enum:"debug,info,warn,error" help:"Least level logged: debug, info, warn or error (default info)."`
	LogFormat string      `name:"log-format" default:"text" placeholder:"FORMAT" enum:"text,json" help:"How standard error is logged to: text or json (default text)."`
}

type program struct {
	name, description, examples string
	grammar                     any
	bindings                    []any
	common                      common
	global                      bool // the process is this program's: slog's default logger is set too
}

// Main runs the program with the process's arguments and streams and exits with its code. The first SIGINT or
// SIGTERM cancels the command's context, so that a server drains; the second one ends the process at once.
func Main(name, description string, grammar any, options ...Option) {
	options = append(options, func(p *program) { p.global = true })
	os.Exit(Run(stoppable(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr, name, description, grammar, options...))
}

// Run runs the program once and returns its exit code; it touches nothing of the process, so tests may call it.
// One grammar value must not be run twice at the same time, since it holds the parsed arguments.
func Run(ctx context.Context, args []string, in io.Reader, out, errs io.Writer, name, description string, grammar any, options ...Option) int {
	p := &program{name: name, description: description, grammar: grammar}
	for _, o := range options {
		o(p)
	}
	err := p.run(ctx, args, in, out, errs)
	if err == nil || errors.Is(err, errShown) {
		return ExitDone
	}
	if cause := context.Cause(ctx); cause != nil && errors.Is(err, context.Canceled) {
		err = fmt.Errorf("stopped before it was done: %w", cause)
	}
	printError(errs, name, err)
	return exitCode(err)
}

func (p *program) run(ctx context.Context, args []string, in io.Reader, out, errs io.Writer) error {
	parser, err := kong.New(p.grammar,
		kong.Name(p.name),
		kong.Description(p.description),
		kong.NoDefaultHelp(), // ours returns instead of exiting
		kong.Embed(&p.common),
		kong.DynamicCommand("completion", "Print a script that completes this program's commands and options in your shell.", "", &completionCmd{program: p.name}),
		kong.Writers(out, errs),
		kong.Exit(func(int) {}), // nothing here exits; see Main
		kong.Bind(p),
	)
	if err != nil {
		return fmt.Errorf("reading the grammar of %s: %w", p.name, err)
	}
	if len(args) > 0 && args[0] == completeWord {
		return printCompletions(out, parser.Model, args[1:])
	}
	parsed, err := parser.Parse(args)
	if err != nil {
		return p.usage(err)
	}
	log := newLogger(errs, p.common.LogLevel, p.common.LogFormat)
	if p.global {
		slog.SetDefault(log)
	}
	for _, b := range p.bindings {
		parsed.Bind(b)
	}
	parsed.Bind(IO{In: in, Out: out, Err: errs, Log: log})
	parsed.Bind(log)
	parsed.BindTo(ctx, (*context.Context)(nil))
	return parsed.Run()
}

// usage turns what kong says about a command line into an error with exit code 2 and a next step, except for the
// flags that print something and leave.
func (p *program) usage(err error) error {
	if errors.Is(err, errShown) {
		return err
	}
	command := p.name
	var parse *kong.ParseError
	if errors.As(err, &parse) && parse.Context != nil {
		if node := parse.Context.Selected(); node != nil {
			command = node.FullPath()
		}
	}
	return &usageError{err: err, next: command + " --help"}
}
