package station_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/devicekeys/devicekeys/device"
	"github.com/devicekeys/devicekeys/device/chip"
	"github.com/devicekeys/devicekeys/device/flash"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning/records"
	"github.com/devicekeys/devicekeys/station"
	"github.com/devicekeys/devicekeys/station/stationtest"
)

// doomed is a station in a process of its own, with one device in files, that
// comes to a point of the device's way and stays there until it is killed.
type doomed struct {
	Point   string
	URL     string
	CA      []byte // PEM
	Cert    []byte
	Key     []byte // PKCS #8
	Modules string
	Dir     string // of chip, flash and journal
}

// doomedEnv names the file that tells this test's program to be such a station.
const doomedEnv = "STATION_TEST_DOOMED"

// reachedLine is what it prints at its point.
const reachedLine = "reached"

// fixture is the device in the folder: each opening reads chip and flash anew.
func (d doomed) fixture(at func(context.Context, string) error) station.Fixture {
	b := &board{name: "device-0001", at: at}
	return station.Fixture{Name: b.name, Open: func(ctx context.Context) (station.Device, error) {
		c, err := chip.OpenSoftware(filepath.Join(d.Dir, "chip"))
		if err != nil {
			return nil, err
		}
		f, err := flash.Open(filepath.Join(d.Dir, "flash"))
		if err != nil {
			return nil, err
		}
		opened, err := device.Open(ctx, device.Config{Chip: c, Flash: f})
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		return &hooked{opened, b}, nil
	}}
}

func (d doomed) line() (*station.Line, error) {
	key, err := x509.ParsePKCS8PrivateKey(d.Key)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(d.Cert)
	roots := x509.NewCertPool()
	if block == nil || !roots.AppendCertsFromPEM(d.CA) {
		return nil, errors.New("no certificate")
	}
	transport := station.NewTransport(&tls.Config{RootCAs: roots, ServerName: "example.com",
		Certificates: []tls.Certificate{{Certificate: [][]byte{block.Bytes}, PrivateKey: key}}}, 1)
	j, err := station.OpenJournal(filepath.Join(d.Dir, "journal"))
	if err != nil {
		return nil, err
	}
	return &station.Line{Client: station.NewClient(&http.Client{Transport: wire{transport, d.at}}, d.URL), Journal: j,
		Modules: d.Modules, Suite: keypackage.SuiteAttested, Hands: 1}, nil
}

func (d doomed) at(_ context.Context, point string) error {
	if point != d.Point {
		return nil
	}
	fmt.Println(reachedLine)
	time.Sleep(time.Hour) // until it is killed
	return errors.New("nobody killed this")
}

// beDoomed is the process.
func beDoomed(file string) error {
	var d doomed
	raw, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(raw, &d)
	}
	if err != nil {
		return err
	}
	l, err := d.line()
	if err != nil {
		return err
	}
	if err := l.Prepare(context.Background()); err != nil {
		return err
	}
	o := l.Run(context.Background(), []station.Fixture{d.fixture(d.at)}, drain)[0]
	return fmt.Errorf("it came to its end: %+v", o)
}

// newDoomed makes a listed device in files and the station's way to the SPP.
func newDoomed(t *testing.T, p *plant, point string) (doomed, identity.RecordID) {
	t.Helper()
	d := doomed{Point: point, URL: p.SPP.URL, CA: p.CA.PEM(), Modules: p.Modules, Dir: t.TempDir()}
	pair := p.CA.Issue(t, time.Hour, grantOf("line-1").URI())
	d.Cert = stationtest.PEM(pair.Certificate[0])
	var err error
	d.Key, err = x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	must(t, err)
	c, err := chip.NewSoftware(stationtest.Realm, 32, filepath.Join(d.Dir, "chip"))
	must(t, err)
	must(t, flash.Create(filepath.Join(d.Dir, "flash")))
	p.Deliver(t, c)
	return d, c.ID().RecordID()
}

// killed kills a station with SIGKILL after each step of a device's way, which
// is before the next one; another process goes on from what is on its disk.
func killed(t *testing.T, p *plant) {
	points := slices.DeleteFunc(boundaries(), func(point string) bool { return strings.HasPrefix(point, "before ") })
	t.Run("at", func(t *testing.T) {
		for _, point := range points {
			t.Run(point, func(t *testing.T) {
				t.Parallel()
				d, record := newDoomed(t, p, point)
				kill(t, d)
				before, begun := p.Newest(t, record)
				d.Point = ""
				l, err := d.line()
				must(t, err)
				must(t, l.Prepare(t.Context()))
				o := l.Run(t.Context(), []station.Fixture{d.fixture(nil)}, drain)[0]
				after, _ := p.Newest(t, record)
				if !o.Shipped || o.Err != nil || after.State != records.Shipped || after.Generation != 1 {
					t.Fatalf("run again: %+v; the records have %s, generation %d", o, after.State, after.Generation)
				}
				if begun && before.Identity != after.Identity {
					t.Errorf("identity %s became %s", before.Identity, after.Identity)
				}
				if entries, err := l.Journal.Entries(); err != nil || len(entries) != 0 {
					t.Errorf("left in the journal: %+v, %v", entries, err)
				}
			})
		}
	})
}

// kill starts the process and kills it at its point.
func kill(t *testing.T, d doomed) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "doomed.json")
	raw, err := json.Marshal(d)
	must(t, err)
	must(t, os.WriteFile(file, raw, 0o600))
	self, err := os.Executable()
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(os.Environ(), doomedEnv+"="+file)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	line, _ := bufio.NewReader(out).ReadString('\n') // an end without the line is told below
	must(t, cmd.Process.Kill())
	_ = cmd.Wait() // killed
	if strings.TrimSpace(line) != reachedLine {
		t.Fatalf("the station did not come to %s: %q %s", d.Point, line, errs.String())
	}
}

// powerCut cuts a device's power in the middle of a write to its flash:
// what was not written yet is as before. The next run ships the device.
func powerCut(t *testing.T, p *plant) {
	acts := []string{"LoadModules", "Accept", "Erase", "Restore"}
	parts := []float64{0, 0.01, 0.5, 0.99} // of what the write changed
	t.Run("in", func(t *testing.T) {
		for _, act := range acts {
			for _, part := range parts {
				t.Run(fmt.Sprintf("%s at %v", act, part), func(t *testing.T) {
					t.Parallel()
					d, record := newDoomed(t, p, "")
					image := filepath.Join(d.Dir, "flash")
					cut := errors.New("the power was cut")
					var old []byte
					torn := false
					at := func(_ context.Context, point string) (err error) {
						switch {
						case torn:
						case point == "before "+act:
							old, err = os.ReadFile(image)
						case point == "after "+act:
							torn = true
							err = errors.Join(cut, tear(image, old, part))
						}
						return err
					}
					l, err := d.line()
					must(t, err)
					must(t, l.Prepare(t.Context()))
					if o := l.Run(t.Context(), []station.Fixture{d.fixture(at)}, drain)[0]; o.Shipped || !errors.Is(o.Err, cut) {
						t.Fatalf("%+v", o)
					}
					before, begun := p.Newest(t, record)
					o := l.Run(t.Context(), []station.Fixture{d.fixture(at)}, drain)[0]
					after, _ := p.Newest(t, record)
					if !o.Shipped || o.Err != nil || after.Generation != 1 || begun && before.Identity != after.Identity {
						t.Errorf("%+v; generation %d", o, after.Generation)
					}
				})
			}
		}
	})
}

// tear undoes the last part of what was written to a file since it was old.
func tear(name string, old []byte, part float64) error {
	now, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	if len(now) < len(old) {
		return errors.New("the image became shorter")
	}
	old = append(bytes.Clone(old), make([]byte, len(now)-len(old))...)
	first, last := -1, -1
	for i := range now {
		if now[i] != old[i] {
			if first < 0 {
				first = i
			}
			last = i
		}
	}
	if first < 0 {
		return errors.New("nothing was written")
	}
	from := first + int(part*float64(last+1-first))
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(old[from:last+1], int64(from))
	return errors.Join(err, f.Close())
}
