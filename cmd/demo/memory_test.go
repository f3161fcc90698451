package main_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
)

// place is what a part of a process's memory is used for.
type place string

const (
	// goHeap is Go's arenas: heap and stacks of Go code. What lies there was put there by the program.
	goHeap place = "Go's heap"
	// programData are the variables of the program itself.
	programData place = "the program's variables"
	// cHeap is all the rest: heap, variables and stacks of C libraries, and what the Go runtime keeps for itself, in
	// which it has no user's bytes. What lies there may be the module's own.
	cHeap place = "C memory"
)

// ours tells whether the program itself must have put there what is found.
func (p place) ours() bool { return p == goHeap || p == programData }

// arenaEnd is the end of the addresses at which Go asks for its arenas, somewhere by chance (runtime/malloc.go,
// mallocinit). The kernel gives others what they map above it, from the top down.
var arenaEnd = map[string]uint64{"amd64": 1 << 46, "arm64": 1 << 47}

// mapping is a writable part of a process's memory.
type mapping struct {
	from, to uint64
	place    place
}

// mappings reads a process's map (proc_pid_maps(5)).
func mappings(pid int) ([]mapping, error) {
	arenas := arenaEnd[runtime.GOARCH]
	if arenas == 0 {
		return nil, fmt.Errorf("where Go has its arenas on %s isn't known here", runtime.GOARCH)
	}
	program, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return nil, err
	}
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return nil, err
	}
	var all []mapping
	var last mapping // of the program's own, writable or not
	for lines := bufio.NewScanner(bytes.NewReader(maps)); lines.Scan(); {
		m := mapping{place: cHeap}
		fields := strings.Fields(lines.Text()) // addresses, mode, offset, device, inode, and a name or none
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x", &m.from, &m.to); err != nil || len(fields) < 5 {
			return nil, fmt.Errorf("read the map of process %d: %q: %v", pid, lines.Text(), err)
		}
		mode, file := fields[1], strings.Join(fields[5:], " ")
		switch {
		case file == program || file == "" && m.from == last.to: // variables without a value follow those of the file
			m.place, last = programData, m
		case file == "" && m.from < arenas, strings.HasPrefix(file, "[anon: Go: heap"):
			m.place = goHeap
		}
		if strings.HasPrefix(mode, "rw") {
			all = append(all, m)
		}
	}
	return all, nil
}

// memoryChunk is how much is read at once. What is looked for is shorter than memoryOverlap.
const (
	memoryChunk   = 4 << 20
	memoryOverlap = 1 << 10
)

// memory searches the writable memory of a process: what a core dump of it would hold. A mapping that can't be read, and
// is still there, is an error.
func (h *haystack) memory(name string, pid int) error {
	all, err := mappings(pid)
	if err != nil {
		return err
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return err
	}
	defer mem.Close()
	read := map[place]uint64{}
	room := make([]byte, memoryChunk)
	for _, m := range all {
		for at := m.from; at < m.to; at += memoryChunk - memoryOverlap {
			b := room[:min(m.to-at, memoryChunk)]
			n, err := mem.ReadAt(b, int64(at))
			h.searchIn(m.place, "the memory of "+name, b[:n])
			read[m.place] += uint64(n)
			if err == nil {
				continue
			}
			if still, again := stands(pid, m); still || again != nil {
				return errors.Join(fmt.Errorf("read the memory of process %d from %x on, of %s: %w", pid, at+uint64(n), m.place, err), again)
			}
			break // given back since
		}
	}
	for _, p := range []place{goHeap, programData, cHeap} {
		if read[p] == 0 {
			return fmt.Errorf("no %s of process %d was found", p, pid)
		}
	}
	return nil
}

// stands tells whether a process has still memory where a mapping was.
func stands(pid int, was mapping) (bool, error) {
	now, err := mappings(pid)
	for _, m := range now {
		if m.from < was.to && was.from < m.to {
			return true, nil
		}
	}
	return false, err
}
