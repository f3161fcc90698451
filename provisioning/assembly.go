package provisioning

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/provisioning/profile"
	"github.com/devicekeys/devicekeys/provisioning/records"
)

// Config is what an Assembly is made of. All fields but Log and Now are needed.
type Config struct {
	Realm identity.Realm
	// Name is the SPP's own, as its TLS certificate has it: the sequencer
	// compares the two.
	Name     string
	Profiles []profile.Profile // the product lines served, names unique
	Keys     Keys
	Pool     Pool
	Records  Records
	// Sequencer takes registry entries.
	Sequencer Sequencer
	AuditLog  AuditLog
	Metrics   *Metrics
	Log       *slog.Logger     // default: slog.Default()
	Now       func() time.Time // default: time.Now; tests set it
}

// Assembly takes devices from chip to shipped. Its methods may be called
// concurrently, and every one may be repeated: the same request gets the same
// answer. Errors are *Refusal.
type Assembly struct {
	realm     identity.Realm
	lines     map[string]profile.Profile
	keys      Keys
	pool      Pool
	records   Records
	metrics   *Metrics
	log       *slog.Logger
	now       func() time.Time
	cache     *keyCache
	locks     recordLocks
	quotas    quotas
	issued    challenges
	publisher *publisher
	heads     *headSigner
	stopping  chan struct{} // closed by Stop
	stop      sync.Once
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
	a := &Assembly{
		realm: c.Realm, lines: map[string]profile.Profile{}, keys: c.Keys, pool: c.Pool, records: c.Records,
		metrics: c.Metrics, log: c.Log, now: c.Now, stopping: make(chan struct{}),
	}
	for _, p := range c.Profiles {
		if _, twice := a.lines[p.Name]; twice {
			return nil, fmt.Errorf("make assembly: product line %q has two profiles", p.Name)
		}
		a.lines[p.Name] = p
	}
	a.cache = newKeyCache(c.Now, c.Log, c.Metrics.deviceKeys)
	a.publisher = newPublisher(c)
	a.heads = &headSigner{log: c.AuditLog, sign: c.Keys.SignAuditHead, logger: c.Log, now: c.Now}
	return a, nil
}

// Run publishes entries, signs heads of the audit log, forgets old device keys,
// ends what a crash left between records and pool, and updates gauges, until
// ctx ends. It returns after its last write is done, and never because
// something else failed: that is retried and logged.
func (a *Assembly) Run(ctx context.Context) {
	var work sync.WaitGroup
	work.Go(func() { a.publisher.run(ctx) })
	work.Go(func() { a.heads.run(ctx) })
	work.Go(func() { a.houseKeeping(ctx) })
	work.Wait()
}

// Stop ends waiting: calls that wait for the registry are told to come back.
// It is the first step of a graceful stop; calls under way finish.
func (a *Assembly) Stop() { a.stop.Do(func() { close(a.stopping) }) }

// Close destroys the device keys that still wait in the HSM. No call may be
// under way.
func (a *Assembly) Close(ctx context.Context) {
	a.Stop()
	a.cache.sweep(ctx, true)
}

// line gives the profile of the station's product line.
func (a *Assembly) line(s Station) (profile.Profile, error) {
	if s.Realm != a.realm {
		return profile.Profile{}, refuse(CodeStation, "use a certificate of this realm", "station %q is of realm %s, this SPP of %s", s.Station, s.Realm, a.realm)
	}
	if a.now().After(s.NotAfter) {
		return profile.Profile{}, refuse(CodeStation, "have the certificate renewed", "the certificate of station %q expired at %s", s.Station, s.NotAfter.UTC().Format(time.RFC3339))
	}
	p, ok := a.lines[s.Line]
	if !ok {
		return p, refuse(CodeLine, "use the SPP of this product line, or add its profile to this one", "product line %q is not served here", s.Line)
	}
	return p, nil
}

// device reads one generation for a call of a station of its product line.
func (a *Assembly) device(ctx context.Context, s Station, id deviceID) (records.Device, error) {
	if _, err := a.line(s); err != nil {
		return records.Device{}, err
	}
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

// incident keeps what should not have happened, for people. The call is refused
// whether or not that works; then the log has it alone.
func (a *Assembly) incident(ctx context.Context, s Station, id deviceID, code Code, detail string) {
	a.log.WarnContext(ctx, "incident", "kind", string(code), "record", id.Record.Short(), "generation", id.Generation,
		"line", s.Line, "station", s.Station, "detail", detail)
	err := a.records.Incident(ctx, records.Incident{
		Kind: string(code), Record: id.Record, Generation: id.Generation, Line: s.Line, Station: s.Station, Detail: detail,
	})
	if err != nil {
		a.log.ErrorContext(ctx, "an incident was not recorded", "kind", string(code), "record", id.Record.Short(), "error", err)
	}
}
