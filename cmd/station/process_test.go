package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/devicekeys/devicekeys/device/chip"
	"github.com/devicekeys/devicekeys/device/slots"
	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning/records"
	"github.com/devicekeys/devicekeys/secret"
	"github.com/devicekeys/devicekeys/softhsm"
	"github.com/devicekeys/devicekeys/station/stationtest"
)

// endTimeout is how long a test waits for a station that should end at once.
const endTimeout = 30 * time.Second

// place is a station as a process, with its folder, in a plant.
type place struct {
	plant   *stationtest.Plant
	h       *softhsm.HSM
	dir     string
	records map[string]identity.RecordID // of its devices, by name
}

// newPlace makes a station's folder with n devices of token chips.
func newPlace(t *testing.T, p *stationtest.Plant, n int) *place {
	t.Helper()
	l := &place{plant: p, h: softhsm.New(t), dir: t.TempDir(), records: map[string]identity.RecordID{}}
	token := l.h.Token(t, "dev-station")
	key, err := l.h.Open(t, token).Generate(t.Context(), hsm.Spec{Kind: hsm.TLSKey, Label: "dev-tls-station", Token: true})
	must(t, err)
	public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), key.Public())
	must(t, err)
	rack, err := chip.OpenRack(t.Context(), l.h.Directory.Module(), l.h.Directory.LockFile(), dev)
	must(t, err)
	_, err = slots.Create(t.Context(), filepath.Join(l.dir, "devices"), rack, n, slots.MakeOptions{Realm: dev})
	must(t, err)
	bench, err := slots.Open(t.Context(), filepath.Join(l.dir, "devices"), rack, slots.Options{})
	must(t, errors.Join(err, rack.Close()))
	var chips []keypackage.DeliveredChip
	for _, name := range bench.Names() {
		s, err := bench.Slot(name)
		must(t, err)
		l.records[name] = s.Record
		chips = append(chips, keypackage.DeliveredChip{Record: s.Record, Attestation: s.Attestation})
	}
	p.DeliverList(t, chips...)
	config := strings.Replace(fmt.Sprintf(configText, p.SPP.URL, token.Label, l.h.Directory.LockFile()), "modules: modules", "modules: "+p.Modules, 1)
	config = strings.Replace(config, "hands: 2", "hands: 2\npatience: 1s\ndrain: 20s", 1)
	for name, content := range map[string][]byte{
		"station.yaml": []byte(config), "ca.pem": p.CA.PEM(),
		"station.pem": stationtest.PEM(p.CA.Certify(t, public, time.Hour, stationtest.Grant("line-1").URI())),
	} {
		must(t, os.WriteFile(filepath.Join(l.dir, name), content, 0o600))
	}
	must(t, secret.WriteFile(filepath.Join(l.dir, "station.pin"), token.PIN))
	return l
}

// process is a running station.
type process struct {
	cmd      *exec.Cmd
	out, err bytes.Buffer
	ended    chan error
}

func (l *place) start(t *testing.T, args ...string) *process {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	p := &process{ended: make(chan error, 1)}
	p.cmd = &exec.Cmd{Path: self, Args: append([]string{"station"}, args...), Dir: l.dir, Stdout: &p.out, Stderr: &p.err,
		Env: append(os.Environ(), "SOFTHSM2_CONF="+l.h.Directory.Conf(), "GORACE=atexit_sleep_ms=10")}
	must(t, p.cmd.Start())
	go func() { p.ended <- p.cmd.Wait() }()
	return p
}

// wait gives the exit code, -1 where a signal ended it.
func (p *process) wait(t *testing.T) int {
	t.Helper()
	select {
	case <-p.ended:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(endTimeout):
		_ = p.cmd.Process.Kill()
		t.Fatalf("the station did not end within %s:\n%s", endTimeout, p.err.String())
		return 0
	}
}

// run runs the station to its end and gives its report.
func (l *place) run(t *testing.T, code int, devices ...string) Report {
	t.Helper()
	p := l.start(t, append([]string{"run", "--config", "station.yaml", "--json"}, devices...)...)
	if have := p.wait(t); have != code {
		t.Fatalf("code %d, want %d: %s%s", have, code, p.out.String(), p.err.String())
	}
	var r Report
	must(t, json.Unmarshal(p.out.Bytes(), &r))
	return r
}

// status gives what the station's journal has.
func (l *place) status(t *testing.T, args ...string) []JournalEntry {
	t.Helper()
	p := l.start(t, append([]string{"status", "--config", "station.yaml", "--json"}, args...)...)
	if code := p.wait(t); code != 0 {
		t.Fatalf("code %d: %s", code, p.err.String())
	}
	var all []JournalEntry
	must(t, json.Unmarshal(p.out.Bytes(), &all))
	return all
}

// ways are how a station ends in the middle of a device.
var ways = map[string]func(t *testing.T, p *process){
	"kill -9": func(t *testing.T, p *process) {
		must(t, p.cmd.Process.Kill())
	},
	"two SIGTERMs": func(t *testing.T, p *process) {
		must(t, p.cmd.Process.Signal(syscall.SIGTERM))
		select {
		case <-p.ended:
			t.Error("the first SIGTERM ended a station with a device in work")
		case <-time.After(300 * time.Millisecond): // it goes on within its drain
		}
		must(t, p.cmd.Process.Signal(syscall.SIGTERM))
	},
}

// TestStation is the program at one plant, one test after the other: each has
// devices of its own, and the gate is the SPP's.
func TestStation(t *testing.T) {
	t.Parallel()
	p := stationtest.New(t)
	t.Run("journal full", func(t *testing.T) { journalFull(t, p) })
	t.Run("pool empty", func(t *testing.T) { poolEmpty(t, p) })
	p.Stock(t, 100)
	t.Run("status", func(t *testing.T) { status(t, p) })
	t.Run("stops", func(t *testing.T) { stops(t, p) })
	t.Run("dies", func(t *testing.T) { dies(t, p) })
	if b := p.Batch(t); b.Used == 0 || b.Reserved != 0 || b.Burned != 0 {
		t.Errorf("every device shipped, the batch: %+v", b)
	}
}

// dies kills the program at each of its calls, with the call's effect
// lost and kept, and runs it again: nothing is lost and no identity is used twice.
func dies(t *testing.T, p *stationtest.Plant) {
	type death struct{ point, way string }
	var deaths []death
	for _, call := range []string{"Status", "Begin", "Confirm", "Restored", "Publish", "Locked"} {
		deaths = append(deaths, death{"before " + call, "kill -9"}, death{"after " + call, "kill -9"}, death{"after " + call, "two SIGTERMs"})
	}
	l := newPlace(t, p, len(deaths))
	for i, d := range deaths {
		t.Run(d.way+" "+d.point, func(t *testing.T) {
			name := fmt.Sprintf("device-%04d", i+1)
			reached, dead := make(chan struct{}), make(chan struct{})
			var once sync.Once
			p.SPP.Gate.Hook(func(point string) {
				if point != d.point {
					return
				}
				once.Do(func() { close(reached) })
				<-dead
				if strings.HasPrefix(point, "before ") {
					panic(http.ErrAbortHandler) // the SPP never saw it
				}
			})
			dying := l.start(t, "run", "--config", "station.yaml", name)
			select {
			case <-reached:
			case <-time.After(endTimeout):
				t.Errorf("the station did not come to %s", d.point)
			}
			ways[d.way](t, dying)
			code := dying.wait(t)
			close(dead)
			p.SPP.Gate.Hook(nil)
			if code != -1 || dying.out.Len() != 0 {
				t.Fatalf("it was not killed: code %d\n%s%s", code, dying.out.String(), dying.err.String())
			}
			before, begun := p.Newest(t, l.records[name])

			r := l.run(t, 0, name)
			after, _ := p.Newest(t, l.records[name])
			if o := r.Outcomes[0]; !o.Shipped || after.State != records.Shipped || after.Generation != 1 {
				t.Errorf("run again: %+v; the records have %s, generation %d", o, after.State, after.Generation)
			}
			if begun && before.Identity != after.Identity {
				t.Errorf("identity %s became %s", before.Identity, after.Identity)
			}
			if left := l.status(t); len(left) != 0 {
				t.Errorf("left in the journal: %+v", left)
			}
		})
	}
}

// stops: the first SIGTERM lets the devices in work finish and
// begins no other.
func stops(t *testing.T, p *stationtest.Plant) {
	l := newPlace(t, p, 4)
	reached, told := make(chan struct{}), make(chan struct{})
	var once sync.Once
	p.SPP.Gate.Hook(func(point string) {
		if point == "before Begin" {
			once.Do(func() { close(reached) })
			<-told
		}
	})
	defer p.SPP.Gate.Hook(nil)
	stopping := l.start(t, "run", "--config", "station.yaml", "--json")
	select {
	case <-reached:
	case <-time.After(endTimeout):
		t.Error("the station began no device")
	}
	must(t, stopping.cmd.Process.Signal(syscall.SIGTERM))
	time.Sleep(100 * time.Millisecond) // the signal is on its way; were it late, nothing would be missed but the point
	close(told)
	if code := stopping.wait(t); code != 1 {
		t.Fatalf("code %d: %s", code, stopping.err.String())
	}
	var r Report
	must(t, json.Unmarshal(stopping.out.Bytes(), &r))
	for i, o := range r.Outcomes {
		if o.Shipped != (i < 2) || i >= 2 && !strings.Contains(o.Error, "terminated signal received") {
			t.Errorf("%+v", o)
		}
	}
	if !strings.Contains(stopping.err.String(), "2 devices of 4 devices not shipped") {
		t.Errorf("%s", stopping.err.String())
	}
	if r := l.run(t, 0); r.Shipped != 4 {
		t.Errorf("%+v", r)
	}
}

// status: what waits for the registry stands in the journal and is
// listed with its state at the SPP; what shipped elsewhere can be tidied away.
func status(t *testing.T, p *stationtest.Plant) {
	l := newPlace(t, p, 3)
	if all := l.status(t); len(all) != 0 {
		t.Errorf("an empty journal: %+v", all)
	}
	p.Registry.Shut()
	r := l.run(t, 1)
	if r.Parked != 3 || r.Shipped != 0 {
		t.Fatalf("%+v", r)
	}
	all := l.status(t)
	if len(all) != 3 {
		t.Fatalf("%+v", all)
	}
	for _, j := range all {
		if j.State != "restored" || j.Generation != 1 || j.Record != l.records[j.Device].String() || j.Since.IsZero() || j.Age < 0 || j.Error != "" {
			t.Errorf("%+v", j)
		}
	}
	table := l.start(t, "status", "--config", "station.yaml")
	if code := table.wait(t); code != 0 || strings.Count(table.out.String(), "put it in a fixture and run the station") != 3 {
		t.Errorf("code %d\n%s%s", code, table.out.String(), table.err.String())
	}
	text := l.start(t, "run", "--config", "station.yaml")
	if code := text.wait(t); code != 1 || !strings.Contains(text.err.String(), "3 of them only wait for the registry\nnext: run the station again once the registry is back") ||
		!strings.Contains(text.out.String(), "restored, waits for the registry; run the station again") {
		t.Errorf("code %d\n%s%s", code, text.out.String(), text.err.String())
	}
	p.Registry.Open()
	for _, r := range l.records { // the SPP may wait a while before it tries again
		for begun := time.Now(); ; time.Sleep(50 * time.Millisecond) {
			if d, _ := p.Newest(t, r); d.State == records.Published {
				break
			}
			if time.Since(begun) > endTimeout {
				t.Fatalf("record %s is not published", r.Short())
			}
		}
	}

	// One ships, and its page comes back, as if it had shipped at another
	// station; one page is torn.
	journal := filepath.Join(l.dir, "journal")
	page := filepath.Join(journal, l.records["device-0001"].String()+".json")
	content, err := os.ReadFile(page)
	must(t, err)
	l.run(t, 0, "device-0001")
	must(t, os.WriteFile(page, content, 0o600))
	torn := filepath.Join(journal, l.records["device-0002"].String()+".json")
	must(t, os.Truncate(torn, 50))
	states := map[string]JournalEntry{}
	for _, j := range l.status(t, "--tidy") {
		states[j.Record] = j
	}
	one, two, three := states[l.records["device-0001"].String()], states[l.records["device-0002"].String()], states[l.records["device-0003"].String()]
	if one.State != "shipped" || !one.Tidied || two.State == "" || two.Tidied || !strings.Contains(two.Error, filepath.Base(torn)) || three.Tidied || three.Error != "" {
		t.Errorf("%+v", states)
	}
	if r := l.run(t, 0); r.Shipped != 3 {
		t.Errorf("%+v", r)
	}
	if all := l.status(t); len(all) != 0 {
		t.Errorf("left: %+v", all)
	}
	if bad, err := filepath.Glob(filepath.Join(journal, "*.bad")); err != nil || len(bad) != 1 {
		t.Errorf("moved aside: %q, %v", bad, err)
	}
}

// journalFull: a journal on a disk that takes nothing stops the program
// before it touches a device.
func journalFull(t *testing.T, p *stationtest.Plant) {
	l := newPlace(t, p, 1)
	must(t, os.MkdirAll(filepath.Join(l.dir, "journal", ".trial"), 0o700))
	full := l.start(t, "run", "--config", "station.yaml")
	if code := full.wait(t); code != 1 || full.out.Len() != 0 || !strings.Contains(full.err.String(), "the station's journal cannot be written") || !strings.Contains(full.err.String(), "next: see that ") {
		t.Errorf("code %d\n%s%s", code, full.out.String(), full.err.String())
	}
	if len(p.SPP.Gate.Seen()) != 0 {
		t.Errorf("the SPP was called: %v", p.SPP.Gate.Seen())
	}
}

// poolEmpty: what stops the line is the program's error, code 3 with its
// next step, once.
func poolEmpty(t *testing.T, p *stationtest.Plant) {
	l := newPlace(t, p, 4)
	empty := l.start(t, "run", "--config", "station.yaml")
	code := empty.wait(t)
	if code != 3 || !strings.Contains(empty.err.String(), "(pool-empty)") || strings.Count(empty.err.String(), "next: ") != 1 || strings.Count(empty.out.String(), "not begun: ") < 1 {
		t.Errorf("code %d\n%s%s", code, empty.out.String(), empty.err.String())
	}
	if n := p.SPP.Gate.Seen()["Begin"]; n > 3 {
		t.Errorf("%d Begins", n)
	}
}
