package plant

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Bounds of waiting for the programs.
const (
	// readyTimeout is how long a server may take until it says it is healthy:
	// logging in to a token and checking its keys takes a second or two.
	readyTimeout = 30 * time.Second
	// readyPoll is the pause between two looks at its health.
	readyPoll = 30 * time.Millisecond
	// stopTimeout is how long a server may take after SIGTERM; its own drain is
	// 20 seconds.
	stopTimeout = 25 * time.Second
)

// Program is one of the product's programs with its own token directory.
type Program struct {
	Name string   // file in the folder of programs
	Env  []string // beyond this process's, SOFTHSM2_CONF mostly
}

// With names a program and the token directory it uses, "" for none.
func (p *Plant) With(name, hsm string) Program {
	g := Program{Name: name}
	if d := p.hsms[hsm]; d != nil {
		g.Env = []string{"SOFTHSM2_CONF=" + d.Conf()}
	}
	if i := slices.Index(p.SPPNames(), hsm); name == "spp" && i >= 0 && i < len(p.Modules) {
		g.Env = append(g.Env, p.Modules[i].Env...)
	}
	return g
}

// Result is what a finished program said.
type Result struct {
	Out  []byte
	Errs string
	Code int
}

// Run runs a command to its end. A code other than 0 is an error unless the
// caller allows it.
func (p *Plant) Run(ctx context.Context, g Program, allow []int, args ...string) (Result, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(p.Programs, g.Name), args...)
	cmd.Env = append(os.Environ(), g.Env...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopTimeout
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, io.MultiWriter(&errs, p.log)
	fmt.Fprintf(p.log, "$ %s %s\n", g.Name, strings.Join(args, " "))
	err := cmd.Run()
	r := Result{Out: out.Bytes(), Errs: errs.String(), Code: cmd.ProcessState.ExitCode()}
	if err == nil || slices.Contains(allow, r.Code) {
		return r, nil
	}
	return r, fmt.Errorf("%s %s: %w\n%s", g.Name, strings.Join(args, " "), err, tail(r.Errs, 6))
}

// Ask runs a command with --json and reads what it prints.
func (p *Plant) Ask(ctx context.Context, g Program, into any, args ...string) error {
	r, err := p.Run(ctx, g, nil, append(args, "--json")...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(r.Out, into); err != nil {
		return fmt.Errorf("%s %s: read its JSON: %w", g.Name, strings.Join(args, " "), err)
	}
	return nil
}

// tail gives the last lines of a text, indented.
func tail(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return "    " + strings.Join(lines, "\n    ")
}
