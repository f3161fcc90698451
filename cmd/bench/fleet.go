package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/devicekeys/devicekeys/bench"
	"github.com/devicekeys/devicekeys/cmd/internal/plant"
	"github.com/devicekeys/devicekeys/cmd/internal/tokenconfig"
	"github.com/devicekeys/devicekeys/device"
	"github.com/devicekeys/devicekeys/device/chip"
	"github.com/devicekeys/devicekeys/device/flash"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/station"
)

// unit is a device in a fixture: a software chip and its flash, both in this process's memory.
type unit struct {
	chip  *chip.Software
	flash *flash.Image // from its first opening until it is shipped
	kept  bool         // its flash stays when it is shipped: it opens channels then
}

func (u *unit) open(ctx context.Context) (station.Device, error) {
	if u.flash == nil {
		u.flash = flash.NewMemory()
	}
	return device.Open(ctx, device.Config{Chip: u.chip, Flash: u.flash})
}

// listSize is how many chips a delivery list has at most.
const listSize = 10_000

// units makes devices and has their delivery lists imported.
func (f *factory) units(ctx context.Context, n int) ([]*unit, error) {
	all := make([]*unit, n)
	group, making := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i := range all {
		group.Go(func() error {
			c, err := chip.NewSoftware(identity.Development, 32, "")
			all[i] = &unit{chip: c}
			return errors.Join(err, making.Err())
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	for first := 0; first < n; first += listSize {
		if err := f.deliver(ctx, all[first:min(first+listSize, n)]); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func (f *factory) deliver(ctx context.Context, units []*unit) error {
	f.lists++
	d := keypackage.DeliveryList{Realm: identity.Development, Maker: "Development chips", Lot: fmt.Sprintf("bench-%d", f.lists)}
	for _, u := range units {
		d.Chips = append(d.Chips, keypackage.DeliveredChip{Record: u.chip.ID().RecordID(), Attestation: u.chip.Attester().Public()})
	}
	raw, err := keypackage.SignDeliveryList(ctx, f.maker, d)
	if err != nil {
		return err
	}
	list := filepath.Join(f.env.Dir, d.Lot+".cbor")
	if err := os.WriteFile(list, raw, 0o600); err != nil {
		return err
	}
	return f.ImportChips(ctx, list)
}

// crew is a station in this process, as the station program is but for its TLS key, which is in memory.
type crew struct {
	factory   *factory
	line      *station.Line
	journal   string
	calls     *stopwatch
	transport *http.Transport
}

// crew makes a station that goes to SPPs, the preferred one first.
func (f *factory) crew(ctx context.Context, spps ...string) (_ *crew, err error) {
	f.crews++
	config, err := f.certify(ctx, fmt.Sprintf("bench-%d", f.crews))
	if err != nil {
		return nil, err
	}
	c := &crew{factory: f, transport: station.NewTransport(config, maxHands), calls: &stopwatch{times: map[string][]time.Duration{}}}
	c.calls.next = c.transport
	var urls []string
	for _, spp := range spps {
		urls = append(urls, "https://"+f.Address(spp))
	}
	// In memory, where there is such a folder: the station's disk is another machine's.
	if c.journal, err = os.MkdirTemp(shm(), "devicekeys-bench-"); err != nil {
		return nil, err
	}
	journal, err := station.OpenJournal(filepath.Join(c.journal, "journal"))
	if err != nil {
		return nil, errors.Join(err, c.close())
	}
	c.line = &station.Line{
		Client: station.NewClient(&http.Client{Transport: c.calls}, urls...), Journal: journal,
		Modules: f.ModuleDir(), Suite: keypackage.SuiteAttested,
	}
	if err := c.line.Prepare(ctx); err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

// maxHands is the most devices in work at once that a benchmark has.
const maxHands = 64

// shm is a folder in memory, "" where there is none: then the usual one for temporary files serves.
func shm() string {
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		return "/dev/shm"
	}
	return ""
}

// certify has the station CA certify a station's key that is made here.
func (f *factory) certify(ctx context.Context, name string) (*tls.Config, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, err
	}
	request, certificate := f.Etc(name+".csr"), f.Etc(name+".pem")
	if err := os.WriteFile(request, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), 0o600); err != nil {
		return nil, err
	}
	if _, err := f.Run(ctx, f.With("custodian", f.SPPNames()[0]), nil, "certify", "--config", f.Etc("custodian.yaml"), "--kind", "station", "--name", name,
		"--line", plant.ProductLine, "--tac", plant.TestTAC+"-"+plant.LastTAC, "--quota", "1000000", "--request", request, "--out", certificate); err != nil {
		return nil, err
	}
	chain, err := os.ReadFile(certificate)
	if err != nil {
		return nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(chain, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(f.Public("station-ca.pem"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, errors.New("the station CA's file holds no certificate")
	}
	config := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, Certificates: []tls.Certificate{pair}}
	tokenconfig.RequirePeer(config, identity.Development, "spp")
	return config, nil
}

// close removes what the station left. Its connections end with it.
func (c *crew) close() error {
	c.transport.CloseIdleConnections()
	return os.RemoveAll(c.journal)
}

// ship takes devices to shipped, so many at once, and tells how long that took. One that isn't shipped is an error.
func (c *crew) ship(ctx context.Context, units []*unit, hands int, bar bench.Bar) (time.Duration, error) {
	fixtures := make([]station.Fixture, len(units))
	for i, u := range units {
		fixtures[i] = station.Fixture{Name: fmt.Sprintf("device-%d", i), Open: u.open}
	}
	line := *c.line // prepared once; hands are another number each time
	line.Hands = hands
	line.OnDone = func(station.Outcome) {
		if bar != nil {
			bar.Add(1)
		}
	}
	begun := time.Now()
	outcomes := line.Run(ctx, fixtures, 0)
	took := time.Since(begun)
	for i, o := range outcomes {
		if !units[i].kept {
			units[i].flash = nil // what a device holds is no more of interest
		}
		if o.Err != nil {
			return 0, o.Err
		}
		if !o.Shipped || o.Resumed {
			return 0, fmt.Errorf("device %d was not taken all the way: shipped %t, begun before %t", i, o.Shipped, o.Resumed)
		}
	}
	return took, nil
}

// stopwatch takes the time of calls, by the name of the call, until their answers are read.
type stopwatch struct {
	next http.RoundTripper

	mu    sync.Mutex
	times map[string][]time.Duration // guarded by mu
}

func (s *stopwatch) RoundTrip(r *http.Request) (*http.Response, error) {
	begun := time.Now()
	res, err := s.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	res.Body = &timed{res.Body, sync.OnceFunc(func() { s.add(path.Base(r.URL.Path), time.Since(begun)) })}
	return res, nil
}

func (s *stopwatch) add(call string, d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.times[call] = append(s.times[call], d)
}

// take gives the percentiles of each call and forgets them.
func (s *stopwatch) take() (map[string]bench.Latency, error) {
	s.mu.Lock()
	times := s.times
	s.times = map[string][]time.Duration{}
	s.mu.Unlock()
	all := map[string]bench.Latency{}
	for call, t := range times {
		l, err := bench.Percentiles(t)
		if err != nil {
			return nil, err
		}
		all[call] = l
	}
	return all, nil
}

// timed is an answer's body that tells when it was read or given up.
type timed struct {
	io.ReadCloser
	done func()
}

func (t *timed) Read(b []byte) (int, error) {
	n, err := t.ReadCloser.Read(b)
	if err != nil {
		t.done()
	}
	return n, err
}

func (t *timed) Close() error {
	t.done()
	return t.ReadCloser.Close()
}
