package provisioning

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/provisioning/profile"
	"github.com/devicekeys/devicekeys/provisioning/records"
	"github.com/devicekeys/devicekeys/statement"
)

// Config is what an Assembly is made of. All fields but Log and Now are needed.
type Config struct {
	Realm identity.Realm
	// Name is the SPP's own, as its TLS certificate has it: the sequencer
	// compares the two.
	Name     string
	Profiles []profile.Profile // the product lines served, names unique
	Keys     Keys
	// DeviceCA signs devices' certificates; nil where no profile has any.
	DeviceCA Certifier
	// DeviceCALabel is the label of its key, as audit entries name it. Default:
	// that of the first version.
	DeviceCALabel string
	// ServiceKey is the device service's transport key: communication keys that were
	// not derived are wrapped to it, so that the service can fetch them. Zero: none is.
	ServiceKey statement.PublicKey
	Pool       Pool
	Records    Records
	// Sequencer takes registry entries.
	Sequencer Sequencer
	AuditLog  AuditLog
	Metrics   *Metrics
	// StationCAs are the CAs of stations' certificates, for a server whose TLS
	// lets expired ones through so that they are told (tokenconfig.StationTLS).
	// Nil: TLS has verified every certificate in full.
	StationCAs *x509.CertPool
	// KeyFault judges errors of Keys that do not say themselves that data is at
	// fault. Nil: they are the HSM's own.
	KeyFault func(error) KeyFault
	// ReservationLife is how long a device may lie between two steps of the line
	// before it and its identity are burned. Default: DefaultReservationLife.
	ReservationLife time.Duration
	Log             *slog.Logger // default: slog.Default()
	// Now is the clock of all that compares times: certificates, quotas,
	// challenges, cached keys, ages in metrics. Default: time.Now; tests set it.
	// Timers run on the runtime's monotonic clock, which does not jump.
	Now func() time.Time
}

// Assembly takes devices from chip to shipped. Its methods may be called
// concurrently, and every one may be repeated: the same request gets the same
// answer. Errors are *Refusal.
type Assembly struct {
	realm     identity.Realm
	lines     map[string]profile.Profile
	keys      *guard              // the only way to Config.Keys
	service   statement.PublicKey // Config.ServiceKey
	caLabel   string              // Config.DeviceCALabel
	pool      Pool
	records   Records
	metrics   *Metrics
	log       *slog.Logger
	now       func() time.Time
	life      time.Duration // of a reservation
	stations  stations
	cache     *keyCache
	locks     recordLocks
	quotas    quotas
	issued    challenges
	flights   *flights
	publisher *publisher
	heads     *headSigner
	stopping  atomic.Bool   // set by Stop
	halted    chan struct{} // closed by Halt
	halt      sync.Once
}

// New makes an Assembly. Run does what goes on beside the calls.
func New(c Config) (*Assembly, error) {
	if !c.Realm.Valid() || c.Name == "" || c.Keys == nil || c.Pool == nil || c.Records == nil || c.Sequencer == nil || c.AuditLog == nil || c.Metrics == nil {
		return nil, errors.New("make assembly: realm, name, keys, stores, sequencer, audit log or metrics is missing")
	}
	if len(c.Profiles) == 0 {
		return nil, errors.New("make assembly: there is no product line: name at least one profile")
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.ReservationLife == 0 {
		c.ReservationLife = DefaultReservationLife
	}
	if c.ReservationLife < MinReservationLife || c.ReservationLife > MaxReservationLife {
		return nil, fmt.Errorf("make assembly: a reservation's life of %s: %s to %s are allowed", c.ReservationLife, MinReservationLife, MaxReservationLife)
	}
	keys := newGuard(c)
	a := &Assembly{
		realm: c.Realm, lines: map[string]profile.Profile{}, keys: keys, service: c.ServiceKey, caLabel: cmp.Or(c.DeviceCALabel, DeviceCALabel(c.Realm)), pool: c.Pool, records: c.Records,
		metrics: c.Metrics, log: c.Log, now: c.Now, life: c.ReservationLife, stations: stations{cas: c.StationCAs, now: c.Now},
		flights: newFlights(c.Now, c.Metrics.flights), halted: make(chan struct{}),
	}
	for _, p := range c.Profiles {
		if _, twice := a.lines[p.Name]; twice {
			return nil, fmt.Errorf("make assembly: product line %q has two profiles", p.Name)
		}
		if p.Certifies() && c.DeviceCA == nil {
			return nil, fmt.Errorf("make assembly: product line %q has certificates: name the device CA's certificate", p.Name)
		}
		a.lines[p.Name] = p
		if e, ok := unshared(p); ok && c.ServiceKey.IsZero() {
			c.Log.Warn("a communication key of this line is not derived, and there is no transport key of a device service: no service will ever let these devices in by it",
				"line", p.Name, "entry", e, "next", "name service_transport_key before devices are made, unless the key is for something else")
		}
	}
	a.cache = newKeyCache(c.Now, c.Log, c.Metrics.deviceKeys)
	a.publisher = newPublisher(c, keys, a.cache.forget)
	a.heads = &headSigner{log: c.AuditLog, sign: keys.SignAuditHead, logger: c.Log, now: c.Now}
	return a, nil
}

// finishTime is how long work in the background that is under way at a stop may
// still take: a submission takes tens of milliseconds. What it does not finish
// is done again by whoever runs next.
const finishTime = 4 * time.Second

// outlive gives a context that ends finishTime after ctx.
func outlive(ctx context.Context) (context.Context, context.CancelFunc) {
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(finishTime, cancel) })
	return work, func() { stop(); cancel() }
}

// Run publishes entries, signs heads of the audit log, forgets old device keys,
// ends what a crash left between records and pool, burns what is stale, closes
// the HSM's circuit breaker and updates gauges, until ctx ends. It returns after
// its last write is done, and never because something else failed: that is
// retried and logged.
func (a *Assembly) Run(ctx context.Context) {
	var work sync.WaitGroup
	work.Go(func() { a.publisher.run(ctx) })
	work.Go(func() { a.heads.run(ctx) })
	work.Go(func() { a.houseKeeping(ctx) })
	work.Go(func() { a.keys.run(ctx) })
	work.Wait()
}

// Check tells whether the HSM works, by reading a key; after a refused PIN it
// says so and asks nothing.
func (a *Assembly) Check(ctx context.Context) error { return a.keys.check(ctx) }

// Stop begins a graceful stop: from now on no device is begun, stations are
// told to come back. Devices that were begun go on.
func (a *Assembly) Stop() { a.stopping.Store(true) }

// Drain stops and waits until no device is in flight here or ctx ends; it tells
// how many are left. They are safe where they are: the next process, or another
// SPP, goes on with them.
func (a *Assembly) Drain(ctx context.Context) (left int) {
	a.Stop()
	return a.flights.wait(ctx)
}

// Halt ends waiting too: calls that wait for the registry are told to come back.
// Calls under way finish.
func (a *Assembly) Halt() {
	a.Stop()
	a.halt.Do(func() { close(a.halted) })
}

// Close destroys the device keys that still wait in the HSM. No call may be
// under way.
func (a *Assembly) Close(ctx context.Context) {
	a.Halt()
	a.cache.sweep(ctx, true)
}

// device reads one generation for a call of a station of its product line.
func (a *Assembly) device(ctx context.Context, s Station, id deviceID) (records.Device, error) {
	d, err := a.records.Get(ctx, id.Record, id.Generation)
	if errors.Is(err, records.ErrNotFound) {
		return d, unknownDevice(id.Record)
	}
	if err != nil {
		return d, err
	}
	// Another line's devices don't exist for this station.
	if d.Line != s.Line {
		return records.Device{}, unknownDevice(id.Record)
	}
	return d, nil
}

func unknownDevice(r identity.RecordID) *Refusal {
	return refuse(CodeUnknown, "begin the device first", "record %s is not known at this generation", r.Short())
}
