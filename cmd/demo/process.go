package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Bounds of waiting for the programs.
const (
	// readyTimeout is how long a server may take until it says it is healthy:
	// logging in to a token and checking its keys takes a second or two.
	readyTimeout = 30 * time.Second
	// stopTimeout is how long a server may take after SIGTERM; its own drain is
	// 20 seconds.
	stopTimeout = 25 * time.Second
)

// program is one of the product's programs with its own token directory.
type program struct {
	name string   // file in the folder of programs
	env  []string // beyond this process's, SOFTHSM2_CONF mostly
}

// result is what a finished program said.
type result struct {
	out  []byte
	errs string
	code int
}

// run runs a command to its end. A code other than 0 is an error unless the
// caller allows it.
func (p *plant) run(ctx context.Context, g program, allow []int, args ...string) (result, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(p.programs, g.name), args...)
	cmd.Env = append(os.Environ(), g.env...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopTimeout
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, io.MultiWriter(&errs, p.log)
	fmt.Fprintf(p.log, "$ %s %s\n", g.name, strings.Join(args, " "))
	err := cmd.Run()
	r := result{out: out.Bytes(), errs: errs.String(), code: cmd.ProcessState.ExitCode()}
	if err == nil {
		return r, nil
	}
	for _, code := range allow {
		if r.code == code {
			return r, nil
		}
	}
	return r, fmt.Errorf("%s %s: %w\n%s", g.name, strings.Join(args, " "), err, tail(r.errs, 6))
}

// ask runs a command with --json and reads what it prints.
func (p *plant) ask(ctx context.Context, g program, into any, args ...string) error {
	r, err := p.run(ctx, g, nil, append(args, "--json")...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(r.out, into); err != nil {
		return fmt.Errorf("%s %s: read its JSON: %w", g.name, strings.Join(args, " "), err)
	}
	return nil
}

// server is a running program.
type server struct {
	name string
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // how, once done
	log  string        // file of its log
}

// serve starts a server and waits until its health page says so.
func (p *plant) serve(ctx context.Context, g program, health string, args ...string) error {
	name := filepath.Join(p.dir, "log", g.name+".log")
	log, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(p.programs, g.name), args...)
	cmd.Env = append(os.Environ(), g.env...)
	cmd.Stdout, cmd.Stderr = log, log
	// Of its own process group: ctrl-C reaches this process alone, which then
	// stops the servers in their order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	fmt.Fprintf(p.log, "$ %s %s &\n", g.name, strings.Join(args, " "))
	if err := cmd.Start(); err != nil {
		return err
	}
	s := &server{name: g.name, cmd: cmd, done: make(chan struct{}), log: name}
	go func() {
		s.err = cmd.Wait()
		close(s.done)
	}()
	p.servers = append(p.servers, s)
	return s.ready(ctx, health)
}

func (s *server) ready(ctx context.Context, health string) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for {
		if req, err := http.NewRequestWithContext(ctx, http.MethodGet, health, nil); err != nil {
			return err
		} else if res, err := http.DefaultClient.Do(req); err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-s.done:
			return fmt.Errorf("%s ended: %w\n%s", s.name, s.err, tail(read(s.log), 6))
		case <-ctx.Done():
			return fmt.Errorf("%s is not healthy after %s: see %s\n%s", s.name, readyTimeout, s.log, tail(read(s.log), 6))
		case <-time.After(30 * time.Millisecond):
		}
	}
}

// stop ends a server as an operator would, and says so if it had ended before.
func (s *server) stop() error {
	select {
	case <-s.done:
		return fmt.Errorf("%s had ended: %w: see %s", s.name, s.err, s.log)
	default:
	}
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-s.done:
	case <-time.After(stopTimeout):
		s.cmd.Process.Kill()
		<-s.done
		return fmt.Errorf("%s did not stop within %s and was killed: see %s", s.name, stopTimeout, s.log)
	}
	if s.err != nil {
		return fmt.Errorf("%s stopped with %w: see %s", s.name, s.err, s.log)
	}
	return nil
}

func read(file string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// tail gives the last lines of a text, indented.
func tail(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return "    " + strings.Join(lines, "\n    ")
}
