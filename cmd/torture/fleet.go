package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/station"
)

// name is a device's: names are unique in a station's fixtures only.
type name struct{ Station, Device string }

func (n name) String() string { return n.Station + "/" + n.Device }

// acknowledged is what a station said about a device that is published or shipped: what
// must be true for ever.
type acknowledged struct {
	Record     string
	Generation uint32
	Sequence   int64 // -1: the run that said it shipped did not publish it
	Shipped    bool
}

// fleet is the stations' work: processes over their devices, again and again.
type fleet struct {
	*factory
	batch int // devices of one run of a station

	mu      sync.Mutex // guards what follows
	running map[string]*os.Process
	acks    map[name]acknowledged
	shipped int
	errors  map[name]string // the newest
	kills   int
	runs    int
	bar     *console.Bar
	strange []string // what the stations printed that nobody understands
	first   time.Time
	last    time.Time // of the newest device shipped
}

func newFleet(f *factory, batch int) *fleet {
	return &fleet{factory: f, batch: batch, running: map[string]*os.Process{}, acks: map[name]acknowledged{}, errors: map[name]string{}}
}

// run has every station work until all devices are shipped or ctx ends.
func (f *fleet) run(ctx context.Context) {
	f.mu.Lock()
	f.first = time.Now()
	f.bar = console.Progress(f.io.Err, f.Devices, "devices shipped")
	f.mu.Unlock()
	defer f.bar.Done()
	var stations sync.WaitGroup
	for i, s := range f.StationNames() {
		stations.Go(func() { f.work(ctx, i, s) })
	}
	stations.Wait()
}

// restAfterNothing is the pause after a run that shipped nothing: something is down.
const restAfterNothing = 200 * time.Millisecond

// work runs a station over its devices, a batch at a time, with one SPP and then the next.
func (f *fleet) work(ctx context.Context, i int, s string) {
	queue := slices.Clone(f.devices[s])
	spps := f.SPPNames()
	for round := i; len(queue) > 0 && ctx.Err() == nil; round++ {
		n := min(f.batch, len(queue))
		batch := queue[:n]
		f.once(ctx, s, spps[round%len(spps)], batch)
		var left []string
		for _, d := range batch {
			if !f.done(name{s, d}) {
				left = append(left, d)
			}
		}
		// What failed comes again after the others, so that it keeps none of them waiting.
		queue = append(slices.Clone(queue[n:]), left...)
		if len(left) == n {
			pauseFor(ctx, restAfterNothing)
		}
	}
}

func (f *fleet) done(n name) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.acks[n].Shipped
}

// stationStop is how long a station may take after SIGTERM: its drain, and a little.
const stationStop = 40 * time.Second

// once runs a station over a batch, to whatever end.
func (f *fleet) once(ctx context.Context, s, spp string, batch []string) {
	program, args := f.station(s, spp, batch)
	cmd := exec.CommandContext(ctx, filepath.Join(f.Programs, program.Name), args...)
	cmd.Env = append(os.Environ(), program.Env...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stationStop
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, in, err := os.Pipe()
	if err != nil {
		f.odd(fmt.Sprintf("%s: %v", s, err))
		return
	}
	defer out.Close()
	var errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = in, &errs
	err = cmd.Start()
	in.Close()
	if err != nil {
		f.odd(fmt.Sprintf("start %s: %v", s, err))
		return
	}
	f.mu.Lock()
	f.running[s] = cmd.Process
	f.runs++
	f.mu.Unlock()
	f.read(s, out)
	cmd.Wait() // what it shipped it has said; how it ended tells no more
	f.mu.Lock()
	delete(f.running, s)
	f.mu.Unlock()
	f.log(s, errs.String())
}

// log keeps what stations complained of.
func (f *fleet) log(s, text string) {
	if text == "" {
		return
	}
	l, err := os.OpenFile(filepath.Join(f.Dir, "log", s+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return
	}
	defer l.Close()
	io.WriteString(l, text)
}

// read takes what a station prints: outcomes one by one, or a report of them all. A killed
// station's last words may be cut off.
func (f *fleet) read(s string, out io.Reader) {
	d := json.NewDecoder(out)
	for {
		var said json.RawMessage
		err := d.Decode(&said)
		var report struct {
			Devices []station.Outcome `json:"devices"`
		}
		var one station.Outcome
		if err == nil {
			err = json.Unmarshal(said, &report)
		}
		if err == nil && report.Devices == nil {
			err = json.Unmarshal(said, &one)
			report.Devices = append(report.Devices, one)
		}
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				f.odd(fmt.Sprintf("%s printed: %v", s, err))
			}
			io.Copy(io.Discard, out)
			return
		}
		for _, o := range report.Devices {
			f.take(s, o)
		}
	}
}

// take keeps an outcome.
func (f *fleet) take(s string, o station.Outcome) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := name{s, o.Device}
	if o.Error != "" {
		f.errors[n] = o.Error
	}
	if !o.Shipped && o.Sequence < 0 {
		return
	}
	a, known := f.acks[n]
	switch {
	case !known:
		a = acknowledged{Record: o.Record, Generation: o.Generation, Sequence: o.Sequence}
	case a.Record != o.Record || a.Generation != 0 && o.Generation != 0 && a.Generation != o.Generation || a.Sequence >= 0 && o.Sequence >= 0 && a.Sequence != o.Sequence:
		f.strange = append(f.strange, fmt.Sprintf("%s was acknowledged as %+v and then as %+v", n, a, o))
	}
	a.Sequence, a.Generation = max(a.Sequence, o.Sequence), max(a.Generation, o.Generation)
	if o.Shipped && !a.Shipped {
		a.Shipped = true
		f.shipped++
		f.last = time.Now()
		delete(f.errors, n)
		f.bar.Add(1)
	}
	f.acks[n] = a
}

func (f *fleet) odd(what string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.strange = append(f.strange, what)
}

// process gives a station's running process, nil if it has none.
func (f *fleet) process(s string) *os.Process {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.running[s]
}

// kill kills a station's process. It tells whether it had one.
func (f *fleet) kill(s string) (hit bool, err error) {
	err = whileNobodyLogsIn(f.HSM(s).LockFile(), func() error {
		p := f.process(s)
		if p == nil {
			return nil
		}
		err := p.Kill()
		if errors.Is(err, os.ErrProcessDone) {
			return nil
		}
		hit = err == nil
		return err
	})
	if hit {
		f.mu.Lock()
		f.kills++
		f.mu.Unlock()
	}
	return hit, err
}

// count is how many devices are shipped.
func (f *fleet) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.shipped
}
