package plant

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/devicekeys/devicekeys/deploy/postgres"
)

// kept is what a plant leaves running, so that it can be stopped.
type kept struct {
	Servers []keptServer `json:"servers"`
}

type keptServer struct {
	Name string `json:"name"`
	PID  int    `json:"pid"`
}

const keptFile = "running.json"

// note writes down which processes run, so that the next plant in this folder, or StopKept,
// ends them, should this process be killed. A crash between a start and its note leaves one
// server behind.
func (p *Plant) note() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var k kept
	for _, s := range p.servers {
		if r := s.run.Load(); r != nil {
			k.Servers = append(k.Servers, keptServer{s.program.Name, r.cmd.Process.Pid})
		}
	}
	b, err := json.MarshalIndent(k, "", "  ")
	if err != nil {
		return err
	}
	file := filepath.Join(p.Dir, keptFile)
	if err := os.WriteFile(file+".new", b, 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// Keep leaves the servers running. They belong to nobody then; StopKept ends them.
func (p *Plant) Keep() error {
	p.mu.Lock()
	p.servers = nil
	p.mu.Unlock()
	err := p.Postgres.Detach()
	p.Postgres = nil
	return err
}

// StopKept ends what an earlier plant left running in a folder; nothing running is
// fine.
func StopKept(ctx context.Context, dir string) error {
	b, err := os.ReadFile(filepath.Join(dir, keptFile))
	if err == nil {
		var k kept
		if err := json.Unmarshal(b, &k); err != nil {
			return fmt.Errorf("read %s: %w", keptFile, err)
		}
		for i := len(k.Servers) - 1; i >= 0; i-- {
			if err := k.Servers[i].stop(ctx); err != nil {
				return err
			}
		}
		if err := os.Remove(filepath.Join(dir, keptFile)); err != nil {
			return err
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	err = postgres.StopDir(ctx, filepath.Join(dir, "postgres"))
	if errors.Is(err, postgres.ErrNotRunning) {
		return nil
	}
	return err
}

// stop ends a kept server, if the process of that number is still it.
func (s keptServer) stop(ctx context.Context) error {
	if !s.runs() {
		return nil
	}
	if err := syscall.Kill(s.PID, syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop %s (process %d): %w", s.Name, s.PID, err)
	}
	deadline := time.After(stopTimeout)
	for s.runs() {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-deadline:
			return fmt.Errorf("%s (process %d) did not stop within %s", s.Name, s.PID, stopTimeout)
		case <-time.After(50 * time.Millisecond):
		}
	}
	return nil
}

// runs tells whether the process is still the server: numbers are used again.
func (s keptServer) runs() bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", s.PID))
	if err != nil {
		// No /proc: not Linux. Ask the kernel whether the process is there.
		return !errors.Is(err, os.ErrNotExist) || missing("/proc/self") && syscall.Kill(s.PID, 0) == nil
	}
	return strings.TrimSpace(string(b)) == s.Name
}

func missing(dir string) bool {
	_, err := os.Stat(dir)
	return errors.Is(err, os.ErrNotExist)
}
