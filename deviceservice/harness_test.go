package deviceservice_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/devicekeys/devicekeys/channel"
	"github.com/devicekeys/devicekeys/deviceservice"
	"github.com/devicekeys/devicekeys/deviceservice/client"
	"github.com/devicekeys/devicekeys/deviceservice/issued"
	"github.com/devicekeys/devicekeys/deviceservice/issued/issuedtest"
	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/hsm/maker"
	"github.com/devicekeys/devicekeys/hsm/servicekeys"
	"github.com/devicekeys/devicekeys/hsm/transport"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning/records"
	"github.com/devicekeys/devicekeys/softhsm"
	"github.com/devicekeys/devicekeys/statement"
)

func TestMain(m *testing.M) { os.Exit(softhsm.Main(m)) }

const (
	dev = identity.Development
	// bound is far above what anything here takes on a loaded machine.
	bound = 30 * time.Second
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// clock is a time that a test moves.
type clock struct{ ns atomic.Int64 }

func (c *clock) now() time.Time        { return time.Unix(1_700_000_000, c.ns.Load()) }
func (c *clock) pass(by time.Duration) { c.ns.Add(int64(by)) }

// keys are those of the service's HSM, which may fail.
type keys struct {
	*servicekeys.Keys
	fail, panics atomic.Bool
}

var errHSM = errors.New("CKR_DEVICE_ERROR")

func (k *keys) DeviceKey(ctx context.Context, key keypackage.KeyID, context []byte) (keypackage.MACKey, error) {
	if k.fail.Load() {
		return nil, errHSM
	}
	if k.panics.Load() {
		panic("the token is 12345")
	}
	return k.Keys.DeviceKey(ctx, key, context)
}

// plant is a service with its surroundings: a token of real SoftHSM, a database, a listener.
type plant struct {
	t        testing.TB
	hsm      *softhsm.HSM
	records  *issuedtest.Records
	spp      *maker.Keys         // of the SPP's token, where the purpose key was born
	to       statement.PublicKey // transport key of the service's token
	keys     *keys
	clock    *clock
	cache    *issued.Cache
	registry *prometheus.Registry
	service  *deviceservice.Service
	addr     string
	stop     context.CancelFunc
	stopped  chan error
}

var channelKey = keypackage.KeyID{Name: "channel", KDF: 1, Version: 1}

// newPlant starts a service; change changes its options.
func newPlant(t testing.TB, change func(*deviceservice.Options)) *plant {
	t.Helper()
	p := &plant{t: t, hsm: softhsm.New(t), records: issuedtest.New(t), clock: &clock{}, registry: prometheus.NewRegistry(), stopped: make(chan error, 1)}
	p.makeKeys()
	var err error
	p.cache, err = issued.NewCache(p.records.Store, issued.Options{Now: p.clock.now})
	must(t, err)
	o := deviceservice.Options{
		Realm: dev, Entries: []string{"channel"}, Ways: []deviceservice.Way{deviceservice.Derived},
		Issued: p.cache, Keys: p.keys, WrappedKeys: p.cache, Away: p.cache.Away, Registerer: p.registry,
	}
	if change != nil {
		change(&o)
	}
	p.start(o)
	return p
}

// start starts a service with options, for this test.
func (p *plant) start(o deviceservice.Options) {
	p.t.Helper()
	var err error
	p.service, err = deviceservice.New(o)
	must(p.t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(p.t, err)
	p.addr = l.Addr().String()
	ctx, stop := context.WithCancel(context.Background())
	p.stop = stop
	go func() { p.stopped <- p.service.Serve(ctx, l, bound) }()
	p.t.Cleanup(func() {
		if err := p.end(); err != nil {
			p.t.Error(err)
		}
	})
}

// makeKeys has the SPP's token make the purpose key, and brings it to the service's.
func (p *plant) makeKeys() {
	t := p.t
	spp, own := p.hsm.Open(t, p.hsm.Token(t, "spp")), p.hsm.Open(t, p.hsm.Token(t, "service"))
	must(t, maker.Create(t.Context(), spp, maker.Plan{Realm: dev, Masters: []maker.Master{{Version: 1, KDF: hsm.KDF1}}, Purposes: []string{"channel"}}))
	var err error
	p.spp, err = maker.Open(t.Context(), spp, dev)
	must(t, err)
	p.to, err = servicekeys.Create(t.Context(), own, dev)
	must(t, err)
	blob, check, err := maker.ExportPurpose(t.Context(), spp, dev, "channel", 1, p.to)
	must(t, err)
	_, err = servicekeys.Import(t.Context(), own, dev, blob, check)
	must(t, err)
	k, err := servicekeys.Open(t.Context(), own, dev)
	must(t, err)
	p.keys = &keys{Keys: k}
}

// end stops the service, once.
func (p *plant) end() error {
	p.stop()
	err := <-p.stopped
	p.stopped <- nil
	return err
}

// device gives what generation g of device n comes with; its MAC is made in a token, not the service's.
func (p *plant) device(n int, g identity.Generation) channel.DeviceConfig {
	p.t.Helper()
	d := issuedtest.Device(p.t, n, g, records.Shipped)
	key, err := p.spp.DeviceKey(p.t.Context(), channelKey, keypackage.DeviceKeyContext(dev, channelKey, d.Identity, g, d.Record))
	must(p.t, err)
	p.t.Cleanup(func() { must(p.t, key.Destroy(context.Background())) })
	return channel.DeviceConfig{
		Hello: channel.Hello{Suite: channel.SuiteNoise, Realm: dev, Key: channelKey, Identity: d.Identity, Generation: g},
		MAC:   key.MAC,
	}
}

// made gives device n, whose key was made for it and is wrapped to the service's token; without one in the records where
// wrapped is false.
func (p *plant) made(n int, wrapped bool) channel.DeviceConfig {
	p.t.Helper()
	key := make([]byte, 32)
	rand.Read(key)
	d := p.records.Put(n, 1, records.Shipped)
	if wrapped {
		blob, err := transport.WrapSoftware(dev, p.to, deviceservice.KeyLabel(d.Record, 1, "channel"), key)
		must(p.t, err)
		p.records.Key(n, 1, "channel", blob)
	}
	return channel.DeviceConfig{
		Hello: channel.Hello{Suite: channel.SuiteNoise, Realm: dev, Key: keypackage.KeyID{Name: "channel"}, Identity: d.Identity, Generation: 1},
		MAC: func(_ context.Context, msg []byte) ([]byte, error) {
			m := hmac.New(sha256.New, key)
			m.Write(msg)
			return m.Sum(nil), nil
		},
	}
}

// dial opens a channel as a device, which ends with the test.
func (p *plant) dial(d channel.DeviceConfig) (*client.Client, error) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), bound)
	defer cancel()
	c, err := client.Dial(ctx, p.addr, d)
	if err == nil {
		p.t.Cleanup(func() { _ = c.Close() }) // most are ended by then
	}
	return c, err
}

func (p *plant) mustDial(d channel.DeviceConfig) *client.Client {
	p.t.Helper()
	c, err := p.dial(d)
	must(p.t, err)
	return c
}

// metric gives the sum of a metric over all of its labels, or of the ones given as name=value.
func (p *plant) metric(name string, labels ...string) float64 {
	p.t.Helper()
	families, err := p.registry.Gather()
	must(p.t, err)
	sum := 0.0
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
	each:
		for _, m := range f.GetMetric() {
			have := map[string]bool{}
			for _, l := range m.GetLabel() {
				have[l.GetName()+"="+l.GetValue()] = true
			}
			for _, l := range labels {
				if !have[l] {
					continue each
				}
			}
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return sum
}

// await waits until something is so.
func await(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(bound); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after %s still not: %s", bound, what)
		}
	}
}

// lines is a log that a test reads.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *lines) has(s string) bool { return strings.Contains(l.String(), s) }

func (l *lines) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelInfo}))
}
