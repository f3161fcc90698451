package station_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/devicekeys/devicekeys/device"
	"github.com/devicekeys/devicekeys/device/chip"
	"github.com/devicekeys/devicekeys/device/flash"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning/grant"
	"github.com/devicekeys/devicekeys/provisioning/records"
	provisioningrpc "github.com/devicekeys/devicekeys/provisioning/rpc"
	"github.com/devicekeys/devicekeys/softhsm"
	"github.com/devicekeys/devicekeys/statement"
	"github.com/devicekeys/devicekeys/station"
	"github.com/devicekeys/devicekeys/station/stationtest"
)

func TestMain(m *testing.M) {
	if file := os.Getenv(doomedEnv); file != "" {
		fmt.Fprintln(os.Stderr, beDoomed(file))
		os.Exit(1)
	}
	os.Exit(softhsm.Main(m))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// plant is stationtest's with lines and boards.
type plant struct{ *stationtest.Plant }

func newPlant(t testing.TB) *plant {
	t.Helper()
	return &plant{stationtest.New(t)}
}

// line gives a station's line, prepared, with a journal of its own. through,
// where set, stands between the station and the network.
func (p *plant) line(t testing.TB, hands int, through func(http.RoundTripper) http.RoundTripper) *station.Line {
	t.Helper()
	l := p.unprepared(t, stationtest.Grant("line-1"), through)
	l.Hands = hands
	must(t, l.Prepare(t.Context()))
	return l
}

func (p *plant) unprepared(t testing.TB, g grant.Grant, through func(http.RoundTripper) http.RoundTripper) *station.Line {
	t.Helper()
	hc := p.HTTP(t, g.URI())
	if through != nil {
		hc.Transport = through(hc.Transport)
	}
	j, err := station.OpenJournal(filepath.Join(t.TempDir(), "journal"))
	must(t, err)
	return &station.Line{Client: station.NewClient(hc, p.SPP.URL), Journal: j, Modules: p.Modules, Suite: keypackage.SuiteAttested, Hands: 1}
}

func grantOf(station string) grant.Grant { return stationtest.Grant(station) }

// newest gives what the SPP's records have of a board.
func (p *plant) newest(t testing.TB, b *board) (records.Device, bool) {
	t.Helper()
	return p.Newest(t, b.record())
}

// board is a device's hardware: a software chip and a flash, which outlive
// every opening. at, where set, is called before and after each use of the
// device and may end it with an error.
type board struct {
	name  string
	chip  *chip.Software
	flash *flash.Image
	at    func(ctx context.Context, point string) error

	mu     sync.Mutex
	uses   []string // since it was last asked
	opened bool
}

// boards makes n boards whose chips are listed.
func (p *plant) boards(t testing.TB, n int) []*board {
	t.Helper()
	var all []*board
	for i, c := range p.Chips(t, n) {
		all = append(all, &board{name: fmt.Sprintf("device-%04d", i+1), chip: c, flash: flash.NewMemory()})
	}
	return all
}

// newBoard makes a board whose chip is not listed.
func newBoard(t testing.TB, name string) *board {
	t.Helper()
	c, err := chip.NewSoftware(stationtest.Realm, 32, "")
	must(t, err)
	return &board{name: name, chip: c, flash: flash.NewMemory()}
}

func (b *board) record() identity.RecordID { return b.chip.ID().RecordID() }

func (b *board) fixture() station.Fixture {
	return station.Fixture{Name: b.name, Open: func(ctx context.Context) (station.Device, error) { return b.open(ctx) }}
}

func fixtures(boards []*board) []station.Fixture {
	var all []station.Fixture
	for _, b := range boards {
		all = append(all, b.fixture())
	}
	return all
}

func (b *board) open(ctx context.Context) (*hooked, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.opened {
		return nil, errors.New("the device is in use: its power was not cut")
	}
	d, err := device.Open(ctx, device.Config{Chip: b.chip, Flash: b.flash})
	if err != nil {
		return nil, err
	}
	b.opened = true
	return &hooked{d, b}, nil
}

// used gives the uses since the last call, but for closing.
func (b *board) used() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	u := slices.DeleteFunc(b.uses, func(use string) bool { return use == "Close" })
	b.uses = nil
	return u
}

// status opens the board and tells its state.
func (b *board) status(t testing.TB) device.Status {
	t.Helper()
	d, err := device.Open(t.Context(), device.Config{Chip: b.chip, Flash: b.flash})
	must(t, err)
	defer func() { must(t, d.Close(t.Context())) }()
	s, err := d.Status(t.Context())
	must(t, err)
	return s
}

// hooked is an open device with the board's hook around each call.
type hooked struct {
	*device.Device
	board *board
}

var _ station.Device = (*hooked)(nil)

func (h *hooked) around(ctx context.Context, name string, f func() error) error {
	h.board.mu.Lock()
	h.board.uses = append(h.board.uses, name)
	h.board.mu.Unlock()
	if h.board.at == nil {
		return f()
	}
	if err := h.board.at(ctx, "before "+name); err != nil {
		return err
	}
	return errors.Join(f(), h.board.at(ctx, "after "+name))
}

func (h *hooked) WriteROM(ctx context.Context, rom statement.PublicKey) error {
	return h.around(ctx, "WriteROM", func() error { return h.Device.WriteROM(ctx, rom) })
}

func (h *hooked) LoadModules(ctx context.Context, modules []device.Module) error {
	return h.around(ctx, "LoadModules", func() error { return h.Device.LoadModules(ctx, modules) })
}

func (h *hooked) Hello(ctx context.Context, suite keypackage.Suite) (hello []byte, err error) {
	err = h.around(ctx, "Hello", func() (err error) { hello, err = h.Device.Hello(ctx, suite); return err })
	return hello, err
}

func (h *hooked) Accept(ctx context.Context, pkg, unlock []byte) (a device.Accepted, err error) {
	err = h.around(ctx, "Accept", func() (err error) { a, err = h.Device.Accept(ctx, pkg, unlock); return err })
	return a, err
}

func (h *hooked) Erase(ctx context.Context) error {
	return h.around(ctx, "Erase", func() error { return h.Device.Erase(ctx) })
}

func (h *hooked) Restore(ctx context.Context, certificate, backup []byte) error {
	return h.around(ctx, "Restore", func() error { return h.Device.Restore(ctx, certificate, backup) })
}

func (h *hooked) Boot(ctx context.Context) (b *device.Booted, err error) {
	err = h.around(ctx, "Boot", func() (err error) { b, err = h.Device.Boot(ctx); return err })
	return b, err
}

func (h *hooked) Restored(ctx context.Context, challenge [32]byte) (mac []byte, err error) {
	err = h.around(ctx, "Restored", func() (err error) { mac, err = h.Device.Restored(ctx, challenge); return err })
	return mac, err
}

func (h *hooked) Published(ctx context.Context, mac []byte) (locked []byte, err error) {
	err = h.around(ctx, "Published", func() (err error) { locked, err = h.Device.Published(ctx, mac); return err })
	return locked, err
}

func (h *hooked) Stored(ctx context.Context) (certificate, backup []byte, err error) {
	err = h.around(ctx, "Stored", func() (err error) { certificate, backup, err = h.Device.Stored(ctx); return err })
	return certificate, backup, err
}

func (h *hooked) Close(ctx context.Context) error {
	return h.around(ctx, "Close", func() error {
		err := h.Device.Close(ctx)
		h.board.mu.Lock()
		defer h.board.mu.Unlock()
		h.board.opened = false
		return err
	})
}

// wire is the network under a station: at is called before a request goes out
// and after its answer came in, and may lose either.
type wire struct {
	http.RoundTripper
	at func(ctx context.Context, point string) error
}

func (w wire) RoundTrip(r *http.Request) (*http.Response, error) {
	name := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
	if err := w.at(r.Context(), "before call "+name); err != nil {
		return nil, err
	}
	res, err := w.RoundTripper.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if err := w.at(r.Context(), "after call "+name); err != nil {
		return nil, errors.Join(err, res.Body.Close())
	}
	return res, nil
}

// trusting gives a client of an authority's servers.
func trusting(t *testing.T, ca *stationtest.Authority) *http.Client {
	t.Helper()
	transport := station.NewTransport(&tls.Config{RootCAs: ca.Pool, ServerName: "example.com", Certificates: []tls.Certificate{ca.Issue(t, time.Hour)}}, 4)
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func readBody(res *http.Response) ([]byte, error) {
	raw, err := io.ReadAll(res.Body)
	return raw, errors.Join(err, res.Body.Close())
}

func withBody(res *http.Response, raw []byte) *http.Response {
	res.Body = io.NopCloser(bytes.NewReader(raw))
	res.ContentLength = int64(len(raw))
	res.Header.Set("Content-Length", strconv.Itoa(len(raw)))
	return res
}

// refusing is a network on which some calls are refused as an SPP would refuse
// them: refuse gives the refusal of a call by name, or nil.
type refusing struct {
	http.RoundTripper
	refuse func(name string) *connect.Error
}

func (n refusing) RoundTrip(r *http.Request) (*http.Response, error) {
	err := n.refuse(path.Base(r.URL.Path))
	if err == nil {
		return n.RoundTripper.RoundTrip(r)
	}
	answer := httptest.NewRecorder()
	if err := connect.NewErrorWriter().Write(answer, r, err); err != nil {
		return nil, err
	}
	_, _ = io.Copy(io.Discard, r.Body) // a client may wait until its request was read
	return answer.Result(), r.Body.Close()
}

// said gives a refusal as an SPP says it.
func said(class connect.Code, code, next string, after time.Duration) *connect.Error {
	err := connect.NewError(class, errors.New("the reason"))
	d, _ := connect.NewErrorDetail(&provisioningrpc.Refusal{Code: code, Next: next, RetryAfterMs: after.Milliseconds()}) // ours: it can't fail
	err.AddDetail(d)
	return err
}
