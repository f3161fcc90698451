package plant

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Server is a program that serves. Its methods are safe for concurrent use.
type Server struct {
	Name    string
	plant   *Plant
	program Program
	args    []string
	log     string // file of its log

	start sync.Mutex              // one Start at a time
	run   atomic.Pointer[running] // the newest; nil before the first
}

// running is one process of a server.
type running struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // how, once done
}

// Serve starts a server of a name with its configuration and waits until its health page
// says so.
func (p *Plant) Serve(ctx context.Context, name string, g Program) error {
	s := &Server{Name: name, plant: p, program: g, args: []string{"serve", "--config", p.Etc(name + ".yaml")}, log: filepath.Join(p.Dir, "log", name+".log")}
	p.mu.Lock()
	p.servers = append(p.servers, s)
	p.mu.Unlock()
	if err := s.Start(ctx); err != nil {
		return err
	}
	return s.Ready(ctx)
}

// ServeAll starts sequencer, registry and SPPs.
func (p *Plant) ServeAll(ctx context.Context) error {
	for _, s := range [][2]string{{"sequencer", "sequencer"}, {"registry", ""}} {
		if err := p.Serve(ctx, s[0], p.With(s[0], s[1])); err != nil {
			return err
		}
	}
	for _, spp := range p.SPPNames() {
		if err := p.Serve(ctx, spp, p.With("spp", spp)); err != nil {
			return err
		}
	}
	return nil
}

// Server gives the server of a name, nil if none was started.
func (p *Plant) Server(name string) *Server {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.servers {
		if s.Name == name {
			return s
		}
	}
	return nil
}

// Start starts the server's program, which must not run.
func (s *Server) Start(ctx context.Context) error {
	s.start.Lock()
	defer s.start.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if r := s.run.Load(); r != nil && r.alive() {
		return fmt.Errorf("start %s: it runs already", s.Name)
	}
	log, err := os.OpenFile(s.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(s.plant.Programs, s.program.Name), s.args...)
	cmd.Env = append(os.Environ(), s.program.Env...)
	cmd.Stdout, cmd.Stderr = log, log
	// Of its own process group: ctrl-C reaches this process alone, which then
	// stops the servers in their order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	fmt.Fprintf(s.plant.log, "$ %s %s &\n", s.program.Name, strings.Join(s.args, " "))
	if err := cmd.Start(); err != nil {
		return err
	}
	r := &running{cmd: cmd, done: make(chan struct{})}
	s.run.Store(r)
	go func() { // ends with the process
		r.err = cmd.Wait()
		close(r.done)
	}()
	return s.plant.note()
}

func (r *running) alive() bool {
	select {
	case <-r.done:
		return false
	default:
		return true
	}
}

// Ready waits until the server says that it is healthy.
func (s *Server) Ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	r := s.run.Load()
	for {
		if s.healthy(ctx) {
			return nil
		}
		select {
		case <-r.done:
			return fmt.Errorf("%s ended: %w\n%s", s.Name, r.err, s.Said())
		case <-ctx.Done():
			return fmt.Errorf("%s is not healthy after %s: see %s\n%s", s.Name, readyTimeout, s.log, s.Said())
		case <-time.After(readyPoll):
		}
	}
}

// monitor asks servers for health and metrics, each time over a connection of its own: one
// kept open without a request would hold up the server's stop.
var monitor = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

func (s *Server) healthy(ctx context.Context) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.plant.ports[s.Name+" metrics"]+"/healthz", nil)
	if err != nil {
		return false
	}
	res, err := monitor.Do(req)
	if err != nil {
		return false
	}
	res.Body.Close()
	return res.StatusCode == http.StatusOK
}

// Said gives the last lines of the server's log.
func (s *Server) Said() string { return tail(read(s.log), 6) }

// PID is the number of the newest process.
func (s *Server) PID() int { return s.run.Load().cmd.Process.Pid }

// Ended is closed when the newest process has ended.
func (s *Server) Ended() <-chan struct{} { return s.run.Load().done }

// Signal sends a signal; a process that has ended gets none.
func (s *Server) Signal(signal os.Signal) error {
	if err := s.run.Load().cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal %s: %w", s.Name, err)
	}
	return nil
}

// Kill ends the server by SIGKILL, as a loss of power would, and returns when it is gone.
func (s *Server) Kill() error {
	r := s.run.Load()
	if err := s.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	select {
	case <-r.done:
		return nil
	case <-time.After(stopTimeout):
		return fmt.Errorf("%s is still there %s after SIGKILL", s.Name, stopTimeout)
	}
}

// Stop ends a server as an operator would, and says so if it had ended before.
func (s *Server) Stop() error {
	r := s.run.Load()
	if r == nil {
		return nil
	}
	if !r.alive() {
		return fmt.Errorf("%s had ended: %w: see %s\n%s", s.Name, r.err, s.log, s.Said())
	}
	if err := s.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-r.done:
	case <-time.After(stopTimeout):
		return errors.Join(fmt.Errorf("%s did not stop within %s and is killed: see %s", s.Name, stopTimeout, s.log), s.Kill())
	}
	if r.err != nil {
		return fmt.Errorf("%s stopped with %w: see %s\n%s", s.Name, r.err, s.log, s.Said())
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
