package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/cmd/internal/plant"
)

type diskCmd struct {
	shape
	Devices int `name:"devices" env:"DEVICES" default:"40" placeholder:"N" help:"Devices: half of them meet the full disk (default 40)."`
}

// errNoMount says that the test can't be made here.
var errNoMount = errors.New("a file system of its own needs Linux and root")

// DiskReport is the result of a full disk.
type DiskReport struct {
	Chips   string   `json:"chips"`
	Devices int      `json:"devices"`
	Before  int      `json:"shipped_before"`
	During  int      `json:"shipped_while_full"`
	Failed  int      `json:"failed_while_full"`
	Errors  []string `json:"errors"`          // what stations were told, each once
	Crashed bool     `json:"postgres_ended"`  // as it does when its log has no room; it is started again
	Logged  bool     `json:"spp_log_says_so"` // the SPP's log names the cause; stations are told no more than that it failed
	Resumed float64  `json:"resumed_seconds"`
	Strange []string `json:"strange"`
	Verdict verdict  `json:"verdict"`
}

const (
	// diskBytes holds a fresh cluster with its three databases and some log.
	diskBytes = 400 << 20
	// ballastBlock is written until there is no room.
	ballastBlock = 1 << 20
	// fullBound bounds the work that is tried while the disk is full, per station's run.
	fullBound = 45 * time.Second
	// fullRuns is how often the stations are run until one fails: the log has room of its own.
	fullRuns = 6
	// resumeAllBound bounds the rest of the work once there is room.
	resumeAllBound = 5 * time.Minute
)

// Run fills the disk under Postgres.
func (c *diskCmd) Run(ctx context.Context, io console.IO) (err error) {
	if c.Devices < 4 || c.Devices > 1000 {
		return console.Usagef("%d devices: 4 to 1000 are possible", c.Devices)
	}
	disk, err := os.MkdirTemp("", "devicekeys-disk-")
	if err != nil {
		return err
	}
	defer os.Remove(disk)
	if err := mountSmall(disk, diskBytes); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unmount(disk)) }()
	f, err := build(ctx, io, order{
		Config:   plant.Config{Dir: c.Dir, Name: "torture", Devices: c.Devices, Proxies: true, PostgresDir: filepath.Join(disk, "postgres")},
		software: c.Chips == "software", hands: 4,
	})
	if err != nil {
		return console.Hint(err, "every command and its messages are in %s/log", c.Dir)
	}
	defer func() { err = errors.Join(err, f.stop()) }()
	r := DiskReport{Chips: c.Chips, Devices: c.Devices}
	if err := c.fill(ctx, f, disk, &r); err != nil {
		return console.Hint(err, "every command and its messages are in %s/log", c.Dir)
	}
	return c.show(io, r, f.Dir)
}

func (c *diskCmd) fill(ctx context.Context, f *factory, disk string, r *DiskReport) error {
	if data, err := filepath.EvalSymlinks(filepath.Join(f.PostgresDir, "data")); err != nil || !strings.HasPrefix(data, disk+"/") {
		return fmt.Errorf("the cluster is in %q and not on the small file system (%w)", data, err)
	}
	k, fl := newKeeper(f), newFleet(f, c.Devices)
	keeping, stopKeeping := context.WithCancel(ctx)
	defer k.work.Wait()
	defer stopKeeping()
	k.keep(keeping)
	all := f.devices["station"]
	half := len(all) / 2
	fl.once(ctx, "station", "spp", all[:half])
	r.Before = fl.count()

	ballast := filepath.Join(disk, "ballast")
	if err := fillUp(ballast); err != nil {
		return err
	}
	for range fullRuns {
		running, cancel := context.WithTimeout(ctx, fullBound)
		fl.once(running, "station", "spp", all[half:])
		cancel()
		if fl.count() < len(all) && len(fl.errors) > 0 || ctx.Err() != nil {
			break
		}
		// It had room in its log; now that is used up as well.
		if err := fillUp(ballast); err != nil {
			return err
		}
	}
	r.During = fl.count() - r.Before
	seen := map[string]bool{}
	for n, e := range fl.errors {
		r.Failed++
		if e = strings.ReplaceAll(e, n.Device, "…"); !seen[e] {
			seen[e] = true
			r.Errors = append(r.Errors, e)
		}
	}
	log, err := os.ReadFile(filepath.Join(f.Dir, "log", "spp.log"))
	if err != nil {
		return err
	}
	r.Logged = bytes.Contains(log, []byte("No space left on device"))
	if err := os.Remove(ballast); err != nil {
		return err
	}
	freed := time.Now()
	if err := syscall.Kill(f.Postgres.PID(), 0); errors.Is(err, syscall.ESRCH) {
		r.Crashed = true
		_ = f.Postgres.Kill() // it is gone; this lets go of what is left of it
		if err := f.RestartPostgres(ctx); err != nil {
			return err
		}
	}
	working, cancel := context.WithTimeout(ctx, resumeAllBound)
	defer cancel()
	for first := true; fl.count() < len(all) && working.Err() == nil; {
		before := fl.count()
		fl.once(working, "station", "spp", all)
		if first && fl.count() > before {
			first = false
			r.Resumed = time.Since(freed).Seconds()
		}
	}
	if err := k.settle(ctx); err != nil {
		return err
	}
	stopKeeping()
	k.work.Wait()
	r.Strange = append([]string{}, fl.strange...)
	for _, err := range k.errs {
		r.Strange = append(r.Strange, err.Error())
	}
	r.Verdict, err = f.verify(ctx, fl, c.Restore)
	return err
}

// fillUp makes a file as large as there is room for.
func fillUp(path string) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	// The last blocks are filled by smaller writes.
	for size := ballastBlock; size > 0; size /= 2 {
		for {
			if _, err := f.Write(make([]byte, size)); errors.Is(err, syscall.ENOSPC) {
				break
			} else if err != nil && !errors.Is(err, fs.ErrClosed) {
				return err
			}
		}
	}
	return nil
}

// failed says what is not as it must be.
func (r DiskReport) failed() error {
	var wrong []string
	if r.Before == 0 {
		wrong = append(wrong, "nothing was shipped before the disk was full")
	}
	if r.Failed == 0 {
		wrong = append(wrong, "nothing failed while the disk was full: was it?")
	}
	if !r.Logged {
		wrong = append(wrong, "the SPP's log does not say that there is no space")
	}
	return joinWrong(append(wrong, r.Verdict.wrong(len(r.Strange))...))
}

func (r DiskReport) rows() [][2]string {
	ended := "no"
	if r.Crashed {
		ended = "yes, and was started again once there was room"
	}
	return append([][2]string{
		{"devices", fmt.Sprintf("%d, %s chips", r.Devices, r.Chips)},
		{"shipped before the disk was full", fmt.Sprint(r.Before)},
		{"shipped while it was", fmt.Sprint(r.During)},
		{"failed while it was", fmt.Sprint(r.Failed)},
		{"Postgres ended", ended},
		{"devices shipped again after", fmt.Sprintf("%.1f s", r.Resumed)},
	}, r.Verdict.rows()...)
}

// Markdown is the report as a table for a document.
func (r DiskReport) Markdown() string { return markdown(r.rows()) }

// String is the report for people.
func (r DiskReport) String() string {
	var b strings.Builder
	for _, row := range r.rows() {
		fmt.Fprintf(&b, rowFormat, row[0], row[1])
	}
	for _, e := range r.Errors {
		fmt.Fprintf(&b, "  station: %s\n", e)
	}
	b.WriteString(r.Verdict.String())
	for _, s := range r.Strange {
		fmt.Fprintf(&b, "  ✗ %s\n", s)
	}
	return b.String()
}
