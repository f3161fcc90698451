package ha

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// quitBound bounds the wait for a Postgres told to quit at once; it kills its own
	// children after five seconds.
	quitBound = 10 * time.Second

	// killBound bounds the wait for killed processes to be gone.
	killBound = 5 * time.Second

	gonePoll = 10 * time.Millisecond
)

// mark is the file by which a cluster's folder is known, and which its process locks.
const mark = "devicekeys-ha"

// lockDir marks the folder as a cluster's. The lock ends with this process if nothing ends it
// before.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, mark), os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("folder %q: another cluster runs in it: %w", dir, err), f.Close())
	}
	return f, nil
}

// Clean ends what a cluster left running in dir and removes the folder. It refuses a folder that is
// no cluster's, or another user's, and one whose cluster is in use. Nothing there is fine.
func Clean(ctx context.Context, dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("clean up cluster: %w", err)
	}
	info, err := os.Lstat(filepath.Join(dir, mark))
	if err != nil {
		return fmt.Errorf("clean up cluster: folder %q is not empty and not a cluster's: name another one", dir)
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); !ok || owner.Uid != uint32(os.Geteuid()) {
		return fmt.Errorf("clean up cluster: folder %q is another user's: name another one", dir)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return fmt.Errorf("clean up cluster: %w", err)
	}
	defer lock.Close()
	if err := endProcesses(ctx, dir); err != nil {
		return fmt.Errorf("clean up cluster: %w", err)
	}
	// A crash while it is removed may leave a folder without mark, for people to remove: so
	// the mark goes last.
	for _, e := range entries {
		if e.Name() != mark {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return fmt.Errorf("clean up cluster: %w", err)
			}
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("clean up cluster: %w", err)
	}
	return nil
}

// process is a server's process.
type process struct {
	pid     int
	program string // "postgres", "etcd", "python3.11"
}

// programs are those that a cluster consists of, so that a shell that somebody left in the folder is
// none of ours.
func (p process) ours() bool {
	return slices.Contains([]string{"postgres", "etcd", "initdb", "pg_ctl", "pg_rewind", "pg_basebackup", "pg_controldata"}, p.program) ||
		strings.HasPrefix(p.program, "python3")
}

// processesIn lists the servers that work in dir or below. Each of ours does: Patroni and etcd are
// started there, and Postgres goes to its data.
func processesIn(dir string) ([]process, error) {
	// The kernel's paths have no links in them.
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var found []process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		// Gone meanwhile, or not ours to look at: then it isn't one of these.
		cwd, err := os.Readlink(filepath.Join("/proc", e.Name(), "cwd"))
		if err != nil || cwd != dir && !strings.HasPrefix(cwd, dir+"/") {
			continue
		}
		exe, err := os.Readlink(filepath.Join("/proc", e.Name(), "exe"))
		if p := (process{pid, strings.TrimSuffix(filepath.Base(exe), " (deleted)")}); err == nil && p.ours() {
			found = append(found, p)
		}
	}
	return found, nil
}

// endProcesses ends all servers in dir: Patroni first, which would start Postgres again, by SIGKILL as
// etcd; Postgres by SIGQUIT, upon which it gives its shared memory back, and SIGKILL if that
// takes too long.
func endProcesses(ctx context.Context, dir string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), quitBound+killBound)
	defer cancel()
	start := time.Now()
	told := map[int]bool{}
	for {
		processes, err := processesIn(dir)
		if err != nil || len(processes) == 0 {
			return err
		}
		for _, p := range processes {
			signal := syscall.SIGKILL
			if p.program == "postgres" && time.Since(start) < quitBound {
				if signal = syscall.SIGQUIT; told[p.pid] {
					continue
				}
				told[p.pid] = true
			}
			if err := syscall.Kill(p.pid, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("end %s (process %d): %w", p.program, p.pid, err)
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("processes are still there after %s: %v", quitBound+killBound, processes)
		case <-time.After(gonePoll):
		}
	}
}

// killProcesses ends all servers in dir by SIGKILL, as the loss of a machine would.
func killProcesses(dir string) error {
	for until := time.Now().Add(killBound); ; time.Sleep(gonePoll) {
		processes, err := processesIn(dir)
		if err != nil || len(processes) == 0 {
			return err
		}
		if time.Now().After(until) {
			return fmt.Errorf("processes are still there %s after SIGKILL: %v", killBound, processes)
		}
		// Patroni first: it would start another Postgres.
		slices.SortFunc(processes, func(a, b process) int { return -strings.Compare(a.program, b.program) })
		for _, p := range processes {
			if err := syscall.Kill(p.pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("kill %s (process %d): %w", p.program, p.pid, err)
			}
		}
	}
}
