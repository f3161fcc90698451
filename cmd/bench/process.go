package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The kernel counts CPU in ticks of this length where programs see it, whatever its own are (proc(5), USER_HZ).
const tick = 10 * time.Millisecond

// Fields of /proc/PID/stat behind the name in parentheses, counted from 0 (proc(5)).
const (
	statParent = 1
	statUser   = 11
	statSystem = 12
	statFields = 15
)

// cpu tells how much CPU a process has used, in user and system mode.
func cpu(pid int) (time.Duration, error) {
	s, err := stat(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("CPU of process %d: %w: this benchmark needs Linux's /proc", pid, err)
	}
	return s.cpu, err
}

// cpuOfFamily adds up a process and its children, those that run now.
func cpuOfFamily(pid int) (time.Duration, error) {
	sum, err := cpu(pid)
	if err != nil {
		return 0, err
	}
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return 0, err
	}
	for _, f := range files {
		// One that has ended meanwhile doesn't count.
		if s, err := stat(f); err == nil && s.parent == pid {
			sum += s.cpu
		}
	}
	return sum, nil
}

type processStat struct {
	parent int
	cpu    time.Duration
}

func stat(file string) (processStat, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return processStat{}, err
	}
	// The name may hold anything, parentheses and blanks too.
	i := bytes.LastIndexByte(b, ')')
	if i < 0 {
		return processStat{}, fmt.Errorf("read %s: it has another form", file)
	}
	fields := strings.Fields(string(b[i+1:]))
	if len(fields) < statFields {
		return processStat{}, fmt.Errorf("read %s: it has only %d fields", file, len(fields))
	}
	var n [3]int64
	for i, f := range []int{statParent, statUser, statSystem} {
		if n[i], err = strconv.ParseInt(fields[f], 10, 64); err != nil {
			return processStat{}, fmt.Errorf("read %s: %w", file, err)
		}
	}
	return processStat{parent: int(n[0]), cpu: time.Duration(n[1]+n[2]) * tick}, nil
}

// sockets counts a process's open sockets, those that listen included (proc_pid_fd(5)).
func sockets(pid int) (n int, err error) {
	dir := filepath.Join("/proc", strconv.Itoa(pid), "fd")
	open, err := os.ReadDir(dir)
	if err != nil {
		return 0, fmt.Errorf("sockets of process %d: %w: this benchmark needs Linux's /proc", pid, err)
	}
	for _, fd := range open {
		// One that was closed meanwhile doesn't count.
		if to, err := os.Readlink(filepath.Join(dir, fd.Name())); err == nil && strings.HasPrefix(to, "socket:") {
			n++
		}
	}
	return n, nil
}

// usage is the CPU of a factory's processes, by name.
type usage map[string]time.Duration

// usage tells how much CPU everybody has used up to now; this process, which does the stations' and chips' work, is
// "stations".
func (f *factory) usage() (usage, error) {
	u := usage{}
	var err error
	if u["postgres"], err = cpuOfFamily(f.Postgres.PID()); err != nil {
		return nil, err
	}
	if u["stations"], err = cpu(os.Getpid()); err != nil {
		return nil, err
	}
	for _, server := range append(f.SPPNames(), "sequencer") {
		if u[server], err = cpu(f.Server(server).PID()); err != nil {
			return nil, err
		}
	}
	return u, nil
}

// since gives the milliseconds of CPU for each device since an earlier look.
func (u usage) since(before usage, devices int) map[string]float64 {
	each := map[string]float64{}
	for name, d := range u {
		each[name] = float64((d - before[name]).Microseconds()) / 1000 / float64(devices)
	}
	return each
}

// spending is the CPU of the rounds of a comparison. The first one warms up; bench.Compare drops it, and so does this.
type spending struct {
	warm bool
	used usage
	made int // devices, entries, of those rounds
}

// round adds a round that made so many, between two looks.
func (s *spending) round(before, after usage, made int) {
	if !s.warm {
		s.warm, s.used = true, usage{}
		return
	}
	for name, d := range after {
		s.used[name] += d - before[name]
	}
	s.made += made
}

// each gives the milliseconds of CPU for each that was made.
func (s *spending) each() map[string]float64 { return s.used.since(nil, s.made) }

// ownCPU is the CPU that this process has used, more finely than others can see it.
func ownCPU() time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return 0 // the kernel knows no such error for these arguments
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
