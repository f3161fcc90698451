package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/cmd/internal/plant"
	"github.com/devicekeys/devicekeys/deploy/postgres"
	"github.com/devicekeys/devicekeys/deploy/programs"
	"github.com/devicekeys/devicekeys/fault"
	"github.com/devicekeys/devicekeys/softhsm"
	"github.com/devicekeys/devicekeys/station"
	"github.com/devicekeys/devicekeys/untested"
)

// oneAtATime keeps two whole factories from running beside each other on a small machine.
var oneAtATime sync.Mutex

// built gives the folder of programs. Without SoftHSM or Postgres, and with -short, the
// test is skipped.
func built(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		untested.Except(t, "a factory under faults, which takes a minute: run without -short")
	}
	postgres.ForTest(t) // skips where there is none, and fails in CI
	if _, err := softhsm.Module(); err != nil {
		untested.Skip(t, "%v", err)
	}
	oneAtATime.Lock()
	t.Cleanup(oneAtATime.Unlock)
	return programs.Build(t, "", "auditor", "custodian", "device", "registry", "sequencer", "spp", "station", "torture")
}

// folder gives a folder that goes with the test: in memory where there is room, since a factory syncs to its
// disk all the time, and all tests of the module share that.
func folder(t *testing.T) string {
	t.Helper()
	const memory, room = "/dev/shm", 2 << 30
	var fs unix.Statfs_t
	if err := unix.Statfs(memory, &fs); err != nil || fs.Bavail*uint64(fs.Bsize) < room {
		return t.TempDir()
	}
	dir, err := os.MkdirTemp(memory, "devicekeys-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// perform runs the program and reads its report.
func perform(t *testing.T, dir string, report any, args ...string) error {
	t.Helper()
	cmd := exec.Command(filepath.Join(built(t), "torture"), append(args, "--json", "--dir", filepath.Join(dir, "factory"))...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	t.Logf("torture %s\n%s", strings.Join(args, " "), errs.String())
	if err != nil {
		return fmt.Errorf("%w\n%s\n%s", err, out.String(), errs.String())
	}
	if err := json.Unmarshal(out.Bytes(), report); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	return nil
}

func checkVerdict(t *testing.T, v verdict, devices int) {
	t.Helper()
	if v.Shipped != devices || v.Acknowledged != devices || v.Restored != v.Wiped || v.Wiped == 0 {
		t.Errorf("of %d devices %d shipped, %d acknowledged; %d of %d restored", devices, v.Shipped, v.Acknowledged, v.Restored, v.Wiped)
	}
	if n := len(v.Lost) + len(v.Duplicates) + len(v.Wrong) + len(v.Unfinished); n > 0 {
		t.Errorf("%v", v)
	}
	if len(v.Invariants) != 6 {
		t.Errorf("%d invariants, the design has 6", len(v.Invariants))
	}
	for _, i := range v.Invariants {
		if !i.Holds || i.Checked == 0 {
			t.Errorf("invariant %s: holds %v, %d checked", i.Name, i.Holds, i.Checked)
		}
	}
}

// A factory under random faults of a fixed seed: nothing is lost, nothing is there twice.
func TestRun(t *testing.T) {
	t.Parallel()
	const devices = 200
	var r Report
	if err := perform(t, folder(t), &r, "run", "--seed", "20261", "--devices", fmt.Sprint(devices), "--duration", "16s", "--every", "400ms", "--hands", "2"); err != nil {
		t.Fatal(err)
	}
	checkVerdict(t, r.Verdict, devices)
	struck := map[fault.Kind]int{}
	for _, f := range r.Faults {
		struck[f.Kind] = f.Struck
	}
	// A run in which they did not strike says nothing.
	for _, k := range []fault.Kind{kill, crash, reset, finish, blackHole, refuse, hsmFails, hsmForgets, hsmLost} {
		if struck[k] == 0 {
			t.Errorf("no fault of kind %q struck: %v", k, struck)
		}
	}
	if struck[noRequest]+struck[noReply] == 0 {
		t.Errorf("no message was lost: %v", struck)
	}
	killed := 0
	for _, e := range r.Exits {
		killed += e.Killed
	}
	if killed < 2 || r.Runs < 3 {
		t.Errorf("%d kills, %d runs of stations", killed, r.Runs)
	}
}

// A kill at some steps of one device's conversation, drawn by a fixed seed. All of them: make
// torture STEPS=all.
func TestSteps(t *testing.T) {
	t.Parallel()
	const steps = 14
	var r StepsReport
	if err := perform(t, folder(t), &r, "steps", "--seed", "3", "--steps", fmt.Sprint(steps), "--list"); err != nil {
		t.Fatal(err)
	}
	checkVerdict(t, r.Verdict, steps+measured)
	victims := map[string]int{}
	for _, s := range r.Steps {
		if s.Struck {
			victims[s.Victim]++
		}
	}
	if len(r.Steps) != steps || r.All < 100 {
		t.Errorf("%d steps of %d", len(r.Steps), r.All)
	}
	for _, v := range []string{"station", "spp", "sequencer", postgresTarget} {
		if victims[v] == 0 {
			t.Errorf("%s was never killed: %v", v, victims)
		}
	}
}

// A full disk under Postgres: devices fail, nothing acknowledged is lost, and with room again
// the line goes on.
func TestDisk(t *testing.T) {
	t.Parallel()
	var r DiskReport
	err := perform(t, folder(t), &r, "disk", "--devices", "20")
	if err != nil && strings.Contains(err.Error(), errNoMount.Error()) {
		untested.Except(t, "a full disk under Postgres: %v", errNoMount)
	}
	if err != nil {
		t.Fatal(err)
	}
	checkVerdict(t, r.Verdict, 20)
	if r.Before != 10 || r.Failed == 0 || !r.Logged {
		t.Errorf("%+v", r)
	}
}

// The verdict notices what is wrong: acknowledgements of what was never published, or
// published as something else, a device without its flash, and one record with two names.
func TestVerifyNotices(t *testing.T) {
	t.Parallel()
	dir := built(t)
	var log bytes.Buffer
	f, err := build(t.Context(), console.IO{Out: &log, Err: &log}, order{
		Config:   plant.Config{Dir: filepath.Join(folder(t), "factory"), Programs: dir, Name: "torture", Devices: 5, Proxies: true},
		software: true, hands: 4,
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, log.String())
	}
	defer func() {
		if err := f.stop(); err != nil {
			t.Error(err)
		}
	}()
	fl := newFleet(f, 5)
	names := f.devices["station"]
	fl.run(t.Context())
	v, err := f.verify(t.Context(), fl, 1)
	if err != nil {
		t.Fatal(err)
	}
	checkVerdict(t, v, 5)
	if w := v.wrong(0); len(w) > 0 {
		t.Errorf("nothing is wrong, and it says %q", w)
	}

	at := func(i int) name { return name{"station", names[i]} }
	change := func(i int, how func(*acknowledged)) {
		a := fl.acks[at(i)]
		how(&a)
		fl.acks[at(i)] = a
	}
	change(0, func(a *acknowledged) { a.Record = strings.Repeat("ab", 32) })
	change(1, func(a *acknowledged) { a.Sequence += 7 })
	change(2, func(a *acknowledged) { a.Record = fl.acks[at(3)].Record })
	image, err := openFlash(softwareBench{f.Fixtures("station")}.path(names[4], flashSuffix))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(image.Erase(), image.Close()); err != nil {
		t.Fatal(err)
	}
	v, err = f.verify(t.Context(), fl, 1)
	if err != nil {
		t.Fatal(err)
	}
	if len(v.Lost) != 3 || len(v.Duplicates) != 1 || len(v.Wrong) != 1 || len(v.wrong(0)) != 3 {
		t.Errorf("lost %q, duplicates %q, wrong %q: %q", v.Lost, v.Duplicates, v.Wrong, v.wrong(0))
	}
	delete(fl.acks, at(4))
	if v, err = f.verify(t.Context(), fl, 0); err != nil || len(v.Unfinished) != 1 || v.Shipped != 4 {
		t.Errorf("%q unfinished, %d shipped, %v", v.Unfinished, v.Shipped, err)
	}
}

// What a station says is kept, also its last words, and contradictions are noticed.
func TestTake(t *testing.T) {
	t.Parallel()
	f := newFleet(&factory{}, 1)
	f.read("station-1", strings.NewReader(`{"device":"a","record":"r","generation":1,"sequence":4,"shipped":true,"took_ns":{}}
{"device":"b","record":"s","generation":1,"sequence":5,"shipped":false,"error":"broken","took_ns":{}}
{"device":"c","record":"t","sequence":-1,"shipped":false,"error":"not begun","took_ns":{}}
{"devices":[{"device":"d","record":"u","generation":1,"sequence":-1,"shipped":true,"took_ns":{}}],"shipped":1}
{"device":"e","record":"v","genera`))
	if len(f.acks) != 3 || f.shipped != 2 || !f.done(name{"station-1", "a"}) || f.done(name{"station-1", "b"}) || f.errors[name{"station-1", "c"}] != "not begun" || len(f.strange) != 0 {
		t.Fatalf("%+v", f)
	}
	for i, o := range []station.Outcome{
		{Device: "a", Record: "r", Generation: 1, Sequence: -1, Shipped: true, Resumed: true},
		{Device: "b", Record: "s", Generation: 1, Sequence: 5, Shipped: true},
		{Device: "b", Record: "s", Generation: 1, Sequence: 6, Shipped: true},
		{Device: "a", Record: "x", Generation: 1, Sequence: 4, Shipped: true},
		{Device: "a", Record: "r", Generation: 2, Sequence: 4, Shipped: true},
	} {
		f.take("station-1", o)
		if want := max(0, i-1); len(f.strange) != want {
			t.Errorf("%+v: %q", o, f.strange)
		}
	}
	if f.shipped != 3 {
		t.Errorf("%d shipped", f.shipped)
	}
	f.read("station-1", strings.NewReader("no JSON"))
	if len(f.strange) != 4 {
		t.Errorf("%q", f.strange)
	}
}
