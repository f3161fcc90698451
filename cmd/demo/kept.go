package main

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

// kept is what a demo with KEEP=1 leaves running, so that it can be stopped.
type kept struct {
	Servers []keptServer `json:"servers"`
}

type keptServer struct {
	Name string `json:"name"`
	PID  int    `json:"pid"`
}

const keptFile = "running.json"

// keep leaves the servers running and notes them.
func (p *plant) keep() error {
	var k kept
	for _, s := range p.servers {
		k.Servers = append(k.Servers, keptServer{s.name, s.cmd.Process.Pid})
	}
	b, err := json.MarshalIndent(k, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(p.dir, keptFile), b, 0o600); err != nil {
		return err
	}
	err = p.postgres.Detach()
	p.postgres, p.servers = nil, nil
	return err
}

// stopKept ends what an earlier demo left running in dir; nothing running is
// fine.
func stopKept(ctx context.Context, dir string) error {
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
		return !errors.Is(err, os.ErrNotExist) || dirMissing("/proc/self") && syscall.Kill(s.PID, 0) == nil
	}
	return strings.TrimSpace(string(b)) == s.Name
}

func dirMissing(dir string) bool {
	_, err := os.Stat(dir)
	return errors.Is(err, os.ErrNotExist)
}
