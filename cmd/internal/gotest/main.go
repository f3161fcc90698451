// Command gotest runs `go test` with its arguments, prints what that prints, and then what was not tested and why.
// Without -v, go test says "ok" of a package whose tests were all skipped.
//
// It reads go test's JSON, in which every test has its output, and prints of that what plain go test would: one line
// of a package that passes; of one that fails also the output of its tests that failed, and what all of them wrote past
// the testing package, a race that was found included. Packages come in the order in which they end. The exit code is go
// test's.
//
// A line of the list is a reason and the tests that gave it, each skipped, or short of a part (package untested).
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
)

func main() {
	code, err := run(os.Args[1:], "", os.Stdout, os.Stderr)
	if err != nil {
		fmt.Fprintf(os.Stderr, "gotest: %v\n", err)
	}
	os.Exit(code)
}

// run runs go test in a folder and gives its exit code; with an error, one that isn't 0.
func run(args []string, dir string, out, trouble io.Writer) (int, error) {
	cmd := exec.Command("go", append([]string{"test", "-json"}, args...)...)
	cmd.Dir, cmd.Stderr = dir, trouble
	events, err := cmd.StdoutPipe()
	if err != nil {
		return 1, fmt.Errorf("run go test: %w", err)
	}
	// Ctrl-C reaches go test too; this program waits for what it says then.
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(stop)
	if err := cmd.Start(); err != nil {
		return 1, fmt.Errorf("run go test: %w", err)
	}
	r := newReport(out)
	failed := r.read(bufio.NewReader(events))
	if failed != nil {
		// Nobody reads on, so go test would wait for ever.
		_ = cmd.Process.Kill()
	}
	err = cmd.Wait()
	r.end(err == nil)
	var exit *exec.ExitError
	switch {
	case failed != nil:
		return 1, failed
	case errors.As(err, &exit) && exit.ExitCode() > 0:
		return exit.ExitCode(), nil
	case err != nil:
		return 1, fmt.Errorf("run go test: %w", err)
	}
	return 0, nil
}
