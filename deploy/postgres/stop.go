package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/devicekeys/devicekeys/secret"
	"golang.org/x/sys/unix"
)

const (
	// fastBound bounds a fast shutdown: clients are cut off, what is dirty is written.
	// After it the server is told to quit at once.
	fastBound = 20 * time.Second

	// killBound bounds the wait for killed processes to be gone.
	killBound = 5 * time.Second

	// gonePoll is the pause between two looks whether a process is gone.
	gonePoll = 10 * time.Millisecond
)

// Stop shuts the server down: fast at first, at once if that takes more than twenty
// seconds or ctx ends, by SIGKILL if even that doesn't help. The data stay whole in each
// case. It returns when the server is gone; called again, or after Kill, it does nothing.
func (s *Server) Stop(ctx context.Context) error {
	var err error
	s.stop.Do(func() {
		defer close(s.stopped)
		s.admin.Close()
		err = s.shutdown(ctx)
		s.releaseProcess()
	})
	<-s.stopped
	if err != nil {
		return fmt.Errorf("stop postgres in %q: %w", s.dir, err)
	}
	return nil
}

func (s *Server) shutdown(ctx context.Context) error {
	steps := []struct {
		signal os.Signal
		bound  time.Duration
		ctx    context.Context
	}{
		{syscall.SIGINT, fastBound, ctx},                         // fast
		{syscall.SIGQUIT, quitBound, context.WithoutCancel(ctx)}, // immediate
		{syscall.SIGKILL, killBound, context.WithoutCancel(ctx)},
	}
	for _, step := range steps {
		if err := s.process.Signal(step.signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("signal process %d: %w", s.pid, err)
		}
		if s.awaitGone(step.ctx, step.bound) {
			return nil
		}
	}
	return fmt.Errorf("process %d is still there after SIGKILL", s.pid)
}

// awaitGone waits for the server, and the watchdog if it is ours, to be gone.
func (s *Server) awaitGone(ctx context.Context, bound time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	if s.watch != nil {
		select {
		case <-s.watch.done:
			return true
		case <-ctx.Done():
			return false
		}
	}
	for {
		if errors.Is(s.process.Signal(syscall.Signal(0)), os.ErrProcessDone) {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(gonePoll):
		}
	}
}

// Kill ends all processes of the server by SIGKILL and forgets their shared memory, as a
// loss of power would, except that what the kernel was given to write is written. For
// fault tests: the next [Start] in the same folder recovers.
func (s *Server) Kill() error {
	var err error
	s.stop.Do(func() {
		defer close(s.stopped)
		err = s.kill()
		s.admin.Close()
		s.releaseProcess()
	})
	<-s.stopped
	if err != nil {
		return fmt.Errorf("kill postgres in %q: %w", s.dir, err)
	}
	return nil
}

func (s *Server) kill() error {
	file, err := readPIDFile(s.data)
	if err != nil {
		return err
	}
	// Stopped first, it makes no new children while we list them.
	for _, signal := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGKILL} {
		children := childrenOf(s.pid)
		if err := s.process.Signal(signal); err != nil {
			return err
		}
		for _, pid := range children {
			syscall.Kill(pid, signal) // it may be gone already
		}
	}
	if !s.awaitGone(context.Background(), killBound) {
		return fmt.Errorf("process %d is still there after SIGKILL", s.pid)
	}
	return forgetMemory(file.memory)
}

// forgetMemory waits until no child of a killed server is attached to its System V shared
// memory, by which the next server would know it to be alive, and removes that.
func forgetMemory(id int) error {
	if id == 0 {
		return nil
	}
	for until := time.Now().Add(killBound); time.Now().Before(until); time.Sleep(gonePoll) {
		var state unix.SysvShmDesc
		if _, err := unix.SysvShmCtl(id, unix.IPC_STAT, &state); err != nil {
			return nil // gone already; or not ours to see, then the next server removes it
		}
		if state.Nattch == 0 {
			_, err := unix.SysvShmCtl(id, unix.IPC_RMID, nil)
			return err
		}
	}
	return fmt.Errorf("children of the killed server are still there after %s", killBound)
}

// childrenOf lists the children of a process, none where the system has no /proc: there
// they notice the death of their parent themselves.
func childrenOf(pid int) []int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return nil
	}
	var pids []int
	for word := range strings.FieldsSeq(string(b)) {
		if n, err := strconv.Atoi(word); err == nil {
			pids = append(pids, n)
		}
	}
	return pids
}

// Detach lets the server outlive this process. It goes on as it is; the Server can still
// be used, and stopped.
func (s *Server) Detach() error {
	if s.watch == nil {
		return nil
	}
	if err := s.watch.stay(); err != nil {
		return fmt.Errorf("detach postgres in %q: %w", s.dir, err)
	}
	return nil
}

// Attach finds the server that was started in dir and detached, by this or another
// process. errors.Is(err, [ErrNotRunning]) if there is none. It isn't stopped when this
// process ends.
func Attach(ctx context.Context, dir string) (*Server, error) {
	s, err := attach(ctx, dir)
	if err != nil {
		return nil, fmt.Errorf("attach to postgres in %q: %w", dir, err)
	}
	return s, nil
}

func attach(ctx context.Context, dir string) (*Server, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	data, err := filepath.EvalSymlinks(filepath.Join(dir, "data"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotRunning
	}
	if err != nil {
		return nil, err
	}
	file, err := readPIDFile(data)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotRunning
	}
	if err != nil {
		return nil, err
	}
	major, err := clusterVersion(data)
	if err != nil {
		return nil, err
	}
	s := &Server{dir: dir, data: data, sockets: file.sockets, stopped: make(chan struct{})}
	if s.bin, err = findBinaries(ctx, major); err != nil {
		return nil, err
	}
	if _, err := secret.ReadFile(s.SuperuserPasswordFile()); err != nil {
		return nil, err
	}
	// The file survives a crash of the machine, and its number may be another
	// process's now. Only the socket's answer counts.
	db, err := s.open(ctx, "postgres")
	if err != nil {
		if refused(err) {
			return nil, ErrNotRunning
		}
		return nil, err
	}
	var theirs string
	if err := db.QueryRowContext(ctx, `show data_directory`).Scan(&theirs); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	if theirs != data {
		return nil, errors.Join(fmt.Errorf("the socket in %q is of the server of %q", file.sockets, theirs), db.Close())
	}
	if err := s.adopt(db); err != nil {
		return nil, err
	}
	return s, nil
}

// refused: nobody listens at the socket.
func refused(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist)
}

// StopDir stops the server that was started in dir and detached. If none runs it does
// nothing.
func StopDir(ctx context.Context, dir string) error {
	s, err := Attach(ctx, dir)
	if errors.Is(err, ErrNotRunning) {
		return nil
	}
	if err != nil {
		return err
	}
	return s.Stop(ctx)
}

// Remove stops the server in dir, if one runs, and removes dir and the cluster,
// wherever that is.
func Remove(ctx context.Context, dir string) error {
	if err := StopDir(ctx, dir); err != nil {
		return err
	}
	// A crash after the first removal leaves a link to nothing, which the next call
	// removes with the rest.
	if data, err := filepath.EvalSymlinks(filepath.Join(dir, "data")); err == nil {
		if place := filepath.Dir(data); strings.HasPrefix(filepath.Base(place), "devicekeys-postgres-") {
			if err := os.RemoveAll(place); err != nil {
				return fmt.Errorf("remove postgres: %w", err)
			}
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove postgres: %w", err)
	}
	return nil
}

// release lets go of an attached server.
func (s *Server) release() {
	s.stop.Do(func() {
		defer close(s.stopped)
		s.admin.Close()
		s.releaseProcess()
	})
}

// releaseProcess gives back the handle to the process and our end of the pipe.
func (s *Server) releaseProcess() {
	s.process.Release()
	if s.watch != nil {
		s.watch.lifeline.Close() // closed already if detached
	}
}
