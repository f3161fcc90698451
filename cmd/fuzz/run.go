package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// buildTime bounds what a target takes beyond its time: to build its package for fuzzing and to run the seeds.
	buildTime = 20 * time.Minute
	// endTime bounds how long a target may take to end once it is interrupted.
	endTime = 30 * time.Second
	// minimizeTries is how often the fuzzer may run an input to shorten it. Its own bound is a minute for each input that
	// is merely new, in which nothing else is tried: a short run does nothing else.
	minimizeTries = "200x"
)

// goTest is the command that fuzzes one target with one worker. Without limit of time: the fuzzer keeps its own.
func goTest(t target, d time.Duration) *exec.Cmd {
	return exec.Command("go", "test", "-run", "^$", "-fuzz", "^"+t.Name+"$", "-fuzztime", d.String(),
		"-fuzzminimizetime", minimizeTries, "-parallel", "1", "-timeout", "0", "./"+t.Package)
}

// outcome is what a target did.
type outcome struct {
	target
	Seconds     float64  `json:"seconds"`         // of fuzzing, as the fuzzer says
	Executions  int64    `json:"executions"`      // the seeds and what was found before not counted
	Interesting int64    `json:"new_interesting"` // inputs that reached what none before did
	Corpus      int64    `json:"corpus"`          // inputs that the fuzzer has of this target now, those of earlier runs included
	Crashers    []string `json:"crashers"`        // files of inputs that break it, from the module's root
	Error       string   `json:"error,omitempty"` // why it failed
	Output      string   `json:"output"`          // file with all it printed
}

func (o outcome) rate() float64 {
	if o.Seconds == 0 {
		return 0
	}
	return float64(o.Executions) / o.Seconds
}

// watch reads what the fuzzer prints while it prints.
type watch struct {
	mu      sync.Mutex // guards what follows
	outcome outcome
	failed  bool
	cause   string // the first line that says why
}

var (
	progressLine = regexp.MustCompile(`^fuzz: elapsed: (\S+), execs: (\d+) \(\d+/sec\)(?:, new interesting: (\d+) \(total: (\d+)\))?`)
	crasherLine  = regexp.MustCompile(`^\s*Failing input written to (\S+)`)
	failLine     = regexp.MustCompile(`^\s*--- FAIL: |^FAIL\b|^panic: |^# `)
	causeLine    = regexp.MustCompile(`^\s+\S+_test\.go:\d+: |^panic: |^\s+panic: |^\S+\.go:\d+:\d+: |^\s+context deadline exceeded`)
)

// line takes one line.
func (w *watch) line(s string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if m := progressLine.FindStringSubmatch(s); m != nil {
		d, _ := time.ParseDuration(m[1]) // the fuzzer's own form: "1m3s"
		w.outcome.Seconds = d.Seconds()
		w.outcome.Executions, _ = strconv.ParseInt(m[2], 10, 64) // digits
		if m[3] != "" {
			w.outcome.Interesting, _ = strconv.ParseInt(m[3], 10, 64)
			w.outcome.Corpus, _ = strconv.ParseInt(m[4], 10, 64)
		}
		return
	}
	if m := crasherLine.FindStringSubmatch(s); m != nil {
		file := m[1]
		if w.outcome.Package != "." {
			file = w.outcome.Package + "/" + file
		}
		w.outcome.Crashers = append(w.outcome.Crashers, file)
	}
	w.failed = w.failed || failLine.MatchString(s)
	if w.cause == "" && causeLine.MatchString(s) {
		w.cause = strings.TrimSpace(s)
	}
}

// now gives what the target did so far.
func (w *watch) now() outcome {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.outcome
}

// maxCause bounds how much of a failure's first line the report repeats; a case's bytes may follow.
const maxCause = 300

// end judges the target when its command has ended.
func (w *watch) end(err error, full time.Duration) outcome {
	w.mu.Lock()
	defer w.mu.Unlock()
	o := w.outcome
	if err == nil && !w.failed {
		return o
	}
	// A worker that is in the middle of an input when the time is up may be reported as a failure. No input is named
	// then: nothing was found.
	if len(o.Crashers) == 0 && w.cause == "context deadline exceeded" && o.Seconds >= full.Seconds()-1 {
		return o
	}
	o.Error = w.cause
	if o.Error == "" {
		o.Error = fmt.Sprintf("go test: %v", err)
	}
	if len(o.Error) > maxCause {
		o.Error = strings.ToValidUTF8(o.Error[:maxCause], "") + "…"
	}
	return o
}

// fuzz runs a target's command until it ends or ctx does, and keeps what it prints in a file. The error is of
// the runner's own doing, or ctx's; a target that fails says so in its outcome.
func (w *watch) fuzz(ctx context.Context, cmd *exec.Cmd, path string, full time.Duration) (outcome, error) {
	file, err := os.Create(path)
	if err != nil {
		return w.now(), fmt.Errorf("keep the output of %s: %w", w.outcome.target, err)
	}
	defer file.Close()
	read, write, err := os.Pipe()
	if err != nil {
		return w.now(), fmt.Errorf("fuzz %s: %w", w.outcome.target, err)
	}
	defer read.Close()
	cmd.Stdout, cmd.Stderr = write, write
	// A group of its own: go test, the fuzzer and its worker end together.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = cmd.Start()
	write.Close()
	if err != nil {
		return w.now(), fmt.Errorf("fuzz %s: %w", w.outcome.target, err)
	}
	limit, cancel := context.WithTimeout(ctx, full+buildTime)
	defer cancel()
	ended := make(chan struct{})
	go func() {
		select {
		case <-ended:
			return
		case <-limit.Done():
		}
		signal(cmd, syscall.SIGINT)
		select {
		case <-ended:
		case <-time.After(endTime):
			signal(cmd, syscall.SIGKILL)
		}
	}()
	lines := bufio.NewReader(io.TeeReader(read, file))
	for {
		s, err := lines.ReadString('\n')
		w.line(strings.TrimRight(s, "\n"))
		if err != nil {
			break // every holder of the pipe has ended
		}
	}
	err = cmd.Wait()
	close(ended)
	if ctx.Err() != nil {
		return w.now(), context.Cause(ctx)
	}
	if limit.Err() != nil {
		err = errors.Join(fmt.Errorf("it did not end within %s of its time", buildTime), err)
	}
	return w.end(err, full), nil
}

// signal reaches the command's whole group. It fails where all have ended.
func signal(cmd *exec.Cmd, s syscall.Signal) { _ = syscall.Kill(-cmd.Process.Pid, s) }

// fileName is the target's name as that of a file.
func (t target) fileName() string {
	return strings.ReplaceAll(strings.TrimPrefix(t.String(), "."), "/", "-")
}
