package provisioning_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"flag"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"pgregory.net/rapid"

	"github.com/devicekeys/devicekeys/audit"
	"github.com/devicekeys/devicekeys/audit/check"
	"github.com/devicekeys/devicekeys/device/chip"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning"
	"github.com/devicekeys/devicekeys/provisioning/pool"
	"github.com/devicekeys/devicekeys/provisioning/records"
	"github.com/devicekeys/devicekeys/registry"
	"github.com/devicekeys/devicekeys/registry/sequencer"
)

// TestModel takes a few chips through random calls of stations and acts of
// operators, on two SPPs over the same stores, next to a model, which foretells
// each call's code and what the records hold after it. The sequencer comes and
// goes, the SPPs' clocks advance, SPPs crash. After each history pool and model
// agree, and the checker finds nothing.
//
// The devices are played with the keys that the HSM derives for them: whether a
// real one opens its package, other tests show.
func TestModel(t *testing.T) {
	t.Parallel()
	// A history takes a good half second, so a few of them; -rapid.checks and
	// -rapid.steps ask for more.
	for name, value := range map[string]string{"rapid.checks": "10", "rapid.steps": "80"} {
		if f := flag.Lookup(name); f.Value.String() == f.DefValue {
			if err := flag.Set(name, value); err != nil {
				t.Fatal(err)
			}
		}
	}
	p := newPlant(t)
	rapid.Check(t, func(rt *rapid.T) {
		m := p.history(rt)
		defer p.turn(true)
		rt.Repeat(m.actions())
		m.end(rt)
	})
}

// plant is what all histories share: stores, HSM, two SPPs.
type plant struct {
	*line
	t       *testing.T
	clock   atomic.Int64 // how far the SPPs' clock is ahead, in nanoseconds
	gate    *gate
	spps    [2]*process
	sources check.Sources
}

// gate is the way to the sequencer, which may be shut.
type gate struct {
	provisioning.Sequencer
	shut atomic.Bool
}

func (g *gate) Submit(ctx context.Context, submission []byte) ([]sequencer.Ack, error) {
	if g.shut.Load() {
		return nil, errors.New("the sequencer is away")
	}
	return g.Sequencer.Submit(ctx, submission)
}

// process is an SPP without its server.
type process struct {
	*provisioning.Assembly
	kill func()
}

func newPlant(t *testing.T) *plant {
	p := &plant{line: newLine(t, strings.Replace(phone(t), "allow_unattested: false", "allow_unattested: true", 1)), t: t}
	p.spp.stop() // it has no gate
	p.stock(t, 0, 5000)
	p.gate = &gate{Sequencer: &p.submitter}
	p.sources = check.Sources{
		Realm: dev, Pool: pool.New(p.pool.As("auditor")), Records: records.New(p.records.As("auditor")), Audit: audit.New(p.records.As("auditor"), dev),
		RegistryStore: p.registry.Reader(), ROMKey: p.keys.ROMKey(), AuditKey: p.keys.AuditKey(), ReservationLife: provisioning.DefaultReservationLife,
	}
	for i := range p.spps {
		p.restart(t, i)
	}
	t.Cleanup(func() {
		for _, s := range p.spps {
			s.kill()
		}
	})
	return p
}

// failer is what ends a test or a history.
type failer interface {
	Helper()
	Fatal(...any)
}

func done(t failer, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// restart kills an SPP, if it runs, and starts another one in its place, which
// knows nothing of what the first one had in memory.
func (p *plant) restart(t failer, i int) {
	t.Helper()
	if s := p.spps[i]; s != nil {
		s.kill()
	}
	a, err := provisioning.New(provisioning.Config{
		Realm: dev, Name: "spp-1", Profiles: p.profiles, Keys: p.keys, Pool: p.pool.Store, Records: p.records.Store, Sequencer: p.gate,
		AuditLog: audit.New(p.records.As("spp"), dev), Metrics: provisioning.NewMetrics(prometheus.NewRegistry()), Log: slog.New(slog.DiscardHandler),
		Now: func() time.Time { return time.Now().Add(time.Duration(p.clock.Load())) },
	})
	done(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		a.Run(ctx)
	}()
	p.spps[i] = &process{a, func() {
		cancel()
		<-ended
		a.Close(context.Background()) // a dead process's session objects end with it
	}}
}

// turn opens or shuts the way to the sequencer.
func (p *plant) turn(open bool) { p.gate.shut.Store(!open) }

// history is one random history and its model.
type history struct {
	*plant
	ctx     context.Context
	station provisioning.Station
	chips   []*modelChip
	plans   []*modelPlan
	used    map[identity.Identity]*modelChip // who has an identity, or had it last
	before  pool.Batch                       // the pool's numbers before it
}

// modelChip is a chip and what the records should hold of it.
type modelChip struct {
	*chip.Software
	record    identity.RecordID
	listed    bool
	contested bool
	gens      []*modelGen // from generation 1
	unlocked  identity.Generation
	released  identity.Identity // what a board swap may give away
	told      bool              // the registry knows that it is scrapped, or need not
	hello     []byte            // the newest that it sent
	suite     keypackage.Suite  // of that
}

// modelGen is one generation. What the SPP drew by chance is read back and must
// stay as it is.
type modelGen struct {
	State, Held records.State
	Identity    identity.Identity
	Published   bool
	Aside       bool

	suite   keypackage.Suite
	pooled  bool // its identity came from the pool
	lost    bool // it was burned, whatever came after
	hello   []byte
	pack    []byte
	backup  []byte
	confirm []byte
	proof   []byte
	nonce   [32]byte // the challenge
	by      int      // the SPP that took its proof
}

type modelPlan struct {
	from, to *modelChip
	id       identity.Identity
	taken    bool
}

// How many chips a history has: the last one is listed late, the one before it is
// a spare board, which mostly waits for a swap.
const (
	chipsOfModel = 5
	spare        = chipsOfModel - 2
)

func (p *plant) history(rt *rapid.T) *history {
	m := &history{plant: p, ctx: p.t.Context(), used: map[identity.Identity]*modelChip{}, station: provisioning.Station{
		Grant: stationGrant(), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * 24 * time.Hour),
	}}
	m.station.Quota = 1 << 30
	m.before = m.batch(rt)
	for n := range chipsOfModel {
		c, err := chip.NewSoftware(dev, 32, "")
		done(rt, err)
		m.chips = append(m.chips, &modelChip{Software: c, record: c.ID().RecordID(), told: true})
		if n < chipsOfModel-1 {
			m.listed(rt, m.chips[n])
		}
	}
	return m
}

func (m *history) listed(rt *rapid.T, c *modelChip) {
	if c.listed {
		return
	}
	list := keypackage.DeliveryList{Realm: dev, Maker: "chips and sons", Lot: "lot " + rand.Text(),
		Chips: []keypackage.DeliveredChip{{Record: c.record, Attestation: c.Attester().Public()}}}
	_, _, err := m.records.Store.ImportChips(m.ctx, list, m.maker.Public())
	done(rt, err)
	c.listed = true
}

// was gives the state, of a quarantined generation the one before.
func (g *modelGen) was() records.State {
	if g.State == records.Quarantined {
		return g.Held
	}
	return g.State
}

func (g *modelGen) active() bool { return g.was().OnLine() || g.was().InField() }

func (c *modelChip) newest() *modelGen {
	if len(c.gens) == 0 {
		return nil
	}
	return c.gens[len(c.gens)-1]
}

func (c *modelChip) any(is func(*modelGen) bool) bool { return slices.ContainsFunc(c.gens, is) }

// before gives the newest generation before the newest that is not burned.
func (c *modelChip) before() *modelGen {
	for i := len(c.gens) - 2; i >= 0; i-- {
		if c.gens[i].State != records.Burned {
			return c.gens[i]
		}
	}
	return nil
}

// planned gives the plan that waits for the chip.
func (m *history) planned(c *modelChip) *modelPlan {
	for _, p := range m.plans {
		if p.to == c && !p.taken {
			return p
		}
	}
	return nil
}

// quarantine sets apart all that is active.
func (c *modelChip) quarantine() {
	for _, g := range c.gens {
		if g.active() && g.State != records.Quarantined {
			g.State, g.Held = records.Quarantined, g.State
		}
	}
}

// onLine is what the SPP may set apart by itself.
func (c *modelChip) onLine() bool {
	return c.any((*modelGen).active) && !c.any(func(g *modelGen) bool { return g.was().InField() })
}

// out is how calls for a generation that is not in use are refused.
func out(g *modelGen) provisioning.Code {
	switch {
	case g == nil:
		return provisioning.CodeUnknown
	case g.State == records.Scrapped || g.State == records.Quarantined:
		return provisioning.CodeOutOfUse
	}
	return provisioning.CodeState
}

// refusedAs checks a call's outcome: "" is success.
func refusedAs(rt *rapid.T, call string, err error, want provisioning.Code) bool {
	rt.Helper()
	var r *provisioning.Refusal
	switch {
	case err == nil && want == "":
		return true
	case err == nil:
		rt.Fatalf("%s: done, refusal %q is expected", call, want)
	case !errors.As(err, &r):
		rt.Fatalf("%s: %v, refusal %q is expected", call, err, want)
	case r.Code() != want:
		rt.Fatalf("%s: refused as %q: %v (%v); %q is expected", call, r.Code(), err, r.Unwrap(), want)
	}
	return false
}

// actions are the calls and acts, by name. Each draws its chip and its SPP.
func (m *history) actions() map[string]func(*rapid.T) {
	// Drawn again and again: a line does more of what leads somewhere.
	all := map[string]func(*rapid.T){
		"": func(rt *rapid.T) {
			for _, c := range m.chips {
				m.compare(rt, c)
			}
		},
		"list":    func(rt *rapid.T) { m.listed(rt, m.chips[chipsOfModel-1]) },
		"advance": func(rt *rapid.T) { m.clock.Add(int64(rapid.IntRange(1, 20).Draw(rt, "minutes")) * int64(time.Minute)) },
		"crash":   func(rt *rapid.T) { m.restart(rt, m.spp(rt)) },
		"sequencer": func(rt *rapid.T) {
			m.turn(m.gate.shut.Load())
			m.settle(rt)
		},
	}
	newest := func(is func(*modelGen) bool) func(*modelChip) bool {
		return func(c *modelChip) bool { return c.newest() != nil && is(c.newest()) }
	}
	in := func(states ...records.State) func(*modelChip) bool {
		return newest(func(g *modelGen) bool { return slices.Contains(states, g.State) })
	}
	known := newest(func(*modelGen) bool { return true })
	any := func(c *modelChip) bool { return c != m.chips[spare] || m.planned(c) != nil || c.newest() != nil }
	for name, a := range map[string]struct {
		do     func(*rapid.T, *modelChip)
		good   func(*modelChip) bool // chips of which there is something to do it with
		seldom bool
	}{
		"forward 1": {m.forward, any, false}, "forward 2": {m.forward, any, false}, "forward 3": {m.forward, any, false}, "forward 4": {m.forward, any, false},
		"begin": {m.begin, any, false}, "confirm": {m.confirm, in(records.Packaged, records.Confirmed, records.Published), false},
		"restored": {m.restored, in(records.Confirmed, records.Restored), false}, "publish": {m.publish, in(records.Restored, records.Published, records.Shipped), false},
		"locked": {m.locked, in(records.Published, records.Shipped), false}, "status": {m.status, any, false},
		"unlock": {m.unlock, in(records.Published, records.Shipped, records.Burned), false},
		"return": {m.returned, in(records.Shipped), true}, "abandon": {m.abandon, func(c *modelChip) bool { return len(c.gens) > 1 && c.newest().State.OnLine() }, true},
		"stale": {m.stale, in(records.Packaged, records.Confirmed), true}, "contest": {m.contest, known, true}, "release 2": {m.release, func(c *modelChip) bool { return c.contested }, false},
		"quarantine": {m.quarantined, newest((*modelGen).active), true}, "release": {m.release, in(records.Quarantined), false},
		"scrap": {m.scrap, newest((*modelGen).active), true}, "board swap": {m.moved, newest((*modelGen).active), true}, "swap": {m.swap, func(c *modelChip) bool { return c.released != nil }, false},
		"aside": {m.aside, in(records.Restored), false}, "put back": {m.putBack, newest(func(g *modelGen) bool { return g.Aside }), true},
	} {
		all[name] = func(rt *rapid.T) {
			if a.seldom && rapid.SampledFrom([]bool{true, true, true, false}).Draw(rt, "not now") {
				return
			}
			a.do(rt, m.chip(rt, "chip", a.good))
		}
	}
	return all
}

func (m *history) spp(rt *rapid.T) int { return rapid.IntRange(0, 1).Draw(rt, "spp") }

// chip draws a chip, mostly one of the good ones.
func (m *history) chip(rt *rapid.T, name string, good func(*modelChip) bool) *modelChip {
	var of []int
	for n, c := range m.chips {
		of = append(of, n)
		if good(c) {
			of = append(of, n, n, n, n, n)
		}
	}
	return m.chips[rapid.SampledFrom(of).Draw(rt, name)]
}

func oneOf(rt *rapid.T, kinds ...string) string { return rapid.SampledFrom(kinds).Draw(rt, "kind") }

// begin says hello: a new one, the one before again, or one of another suite.
func (m *history) begin(rt *rapid.T, c *modelChip) {
	m.hello(rt, c, oneOf(rt, "new", "new", "same", "other suite"))
	m.saysHello(rt, c, m.spp(rt))
}

func (m *history) hello(rt *rapid.T, c *modelChip, kind string) {
	if kind == "same" && c.hello != nil {
		return
	}
	h := keypackage.Hello{Realm: dev, Suite: keypackage.SuiteUnattested, ChipID: c.ID(), ROMKey: m.keys.ROMKey().Hash(), Point: point(m.t)}
	if c.listed != (kind == "other suite") {
		h.Suite = keypackage.SuiteAttested
		c.hello = attest(m.t, c.Attester(), h)
	} else {
		var err error
		c.hello, err = h.Encode()
		done(rt, err)
	}
	c.suite = h.Suite
}

func (m *history) saysHello(rt *rapid.T, c *modelChip, spp int) {
	suite := c.suite
	want, next := m.foretell(c, suite)
	begun, err := m.spps[spp].Begin(m.ctx, m.station, c.hello)
	if !refusedAs(rt, "begin", err, want) {
		if want == provisioning.CodeTransferLost {
			c.newest().State, c.newest().lost = records.Burned, true
		}
		return
	}
	d, err := m.records.Store.Newest(m.ctx, c.record)
	done(rt, err)
	switch next {
	case "same":
		if g := c.newest(); !bytes.Equal(begun.Package, g.pack) {
			rt.Fatal("the same hello got another package")
		}
		return
	case "again":
		g := c.newest()
		if bytes.Equal(begun.Package, g.pack) {
			rt.Fatal("a new hello got the package of the one before")
		}
		g.State, g.hello, g.pack = records.Packaged, bytes.Clone(c.hello), begun.Package
	default:
		g := &modelGen{State: records.Packaged, Identity: d.Identity, suite: suite, hello: bytes.Clone(c.hello), pack: begun.Package, pooled: next == "new"}
		owner, known := m.used[d.Identity]
		switch p := m.planned(c); {
		case next == "new" && known:
			rt.Fatalf("the pool gave %s, which record %s had", d.Identity, owner.record.Short())
		case next == "planned" && d.Identity != p.id:
			rt.Fatalf("the board swap gives %s, the chip got %s", p.id, d.Identity)
		case next == "planned":
			p.taken = true
		case next == "next" && owner != c:
			rt.Fatalf("the next generation has %s, which is not the chip's", d.Identity)
		}
		m.used[d.Identity] = c
		c.gens = append(c.gens, g)
	}
	if want := identity.Generation(len(c.gens)); begun.Generation != want || begun.Record != c.record || !bytes.Equal(d.Package, begun.Package) {
		rt.Fatalf("begun generation %d, %d is expected, or another package than the record's", begun.Generation, want)
	}
	if (len(begun.Unlock) > 0) != (c.unlocked == begun.Generation) {
		rt.Fatalf("an unlock statement of %d bytes with generation %d, unlocked is %d", len(begun.Unlock), begun.Generation, c.unlocked)
	}
}

// foretell says how a hello is refused, or what it gets: the package before, the
// same one transferred again, a next generation, a new identity or a planned one.
func (m *history) foretell(c *modelChip, suite keypackage.Suite) (refused provisioning.Code, gets string) {
	attested := suite == keypackage.SuiteAttested
	g := c.newest()
	holds := g
	switch {
	case c.contested:
		return provisioning.CodeContested, ""
	case c.listed && !attested:
		return provisioning.CodeUnattested, ""
	case !c.listed && attested:
		return provisioning.CodeUnlistedChip, ""
	case g == nil:
		return m.first(c)
	case g.State == records.Scrapped || g.State == records.Quarantined:
		return provisioning.CodeOutOfUse, ""
	case g.State == records.Burned:
		switch holds = c.before(); {
		case holds == nil:
			return m.first(c)
		case !holds.State.InField():
			return provisioning.CodeOutOfUse, ""
		}
	case bytes.Equal(c.hello, g.hello):
		return "", "same"
	case g.State == records.Packaged && g.suite != suite:
		return provisioning.CodeConflict, ""
	case g.State == records.Packaged && !attested:
		return provisioning.CodeTransferLost, ""
	case g.State == records.Packaged:
		return "", "again"
	case g.State == records.Confirmed || g.State == records.Restored:
		return provisioning.CodeActive, ""
	}
	switch {
	case c.unlocked != identity.Generation(len(c.gens))+1:
		return provisioning.CodeActive, ""
	case suite != holds.suite:
		return provisioning.CodeConflict, ""
	}
	return "", "next"
}

func (m *history) first(c *modelChip) (provisioning.Code, string) {
	switch p := m.planned(c); {
	case p == nil:
		return "", "new"
	case !p.from.told:
		return provisioning.CodePublication, ""
	}
	return "", "planned"
}

// row gives the newest generation's row, which the device's messages are made of.
func (m *history) row(rt *rapid.T, c *modelChip) records.Device {
	rt.Helper()
	d, err := m.records.Store.Newest(m.ctx, c.record)
	if err != nil && !errors.Is(err, records.ErrNotFound) {
		rt.Fatal(err)
	}
	return d
}

// mac is the device's, under the key that the HSM derives for it.
func (m *history) mac(rt *rapid.T, d records.Device, message []byte) []byte {
	rt.Helper()
	manifest, err := keypackage.ParseManifest(d.Manifest)
	done(rt, err)
	at, _ := manifest.Proving()
	id := manifest.Entries[at].Key
	key, err := m.keys.DeviceKey(m.ctx, id, keypackage.DeviceKeyContext(dev, id, d.Identity, d.Generation, d.Record))
	done(rt, err)
	mac, err := key.MAC(m.ctx, message)
	done(rt, errors.Join(err, key.Destroy(m.ctx)))
	return mac
}

func drawn(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

func aBackup(rt *rapid.T, manifest []byte) []byte {
	rt.Helper()
	b, err := keypackage.Backup{Manifest: manifest, Sealed: keypackage.Sealed{Nonce: [keypackage.NonceSize]byte(drawn(keypackage.NonceSize)), Ciphertext: drawn(120)}}.Encode()
	done(rt, err)
	return b
}

// generation is the one that calls are about; a chip without one is asked for its first.
func (c *modelChip) generation() identity.Generation { return identity.Generation(max(1, len(c.gens))) }

// confirm sends a backup: the right one, one more, another device's, or one with
// a wrong MAC.
func (m *history) confirm(rt *rapid.T, c *modelChip) {
	m.confirms(rt, c, oneOf(rt, "right", "right", "other", "another device's", "wrong MAC"), m.spp(rt))
}

func (m *history) confirms(rt *rapid.T, c *modelChip, kind string, spp int) {
	g, d := c.newest(), m.row(rt, c)
	backup, mac := drawn(100), drawn(32)
	confirmed := g != nil && len(g.backup) > 0
	if len(d.Manifest) > 0 {
		manifest := d.Manifest
		if kind == "another device's" {
			for _, other := range m.chips {
				if o := m.row(rt, other); other != c && len(o.Manifest) > 0 {
					manifest = o.Manifest
				}
			}
			if bytes.Equal(manifest, d.Manifest) {
				return // there is no other device
			}
		}
		backup = aBackup(rt, manifest)
		if confirmed && (kind == "right" || kind == "wrong MAC") {
			backup = g.backup
		}
		mac = m.mac(rt, d, keypackage.ConfirmMessage(keypackage.Transcript(d.Hello, d.Point, d.Claims), sha256.Sum256(backup)))
		if kind == "wrong MAC" {
			mac[0] ^= 1
		}
	}
	want := out(g)
	proven := false
	if g != nil && (g.State == records.Packaged || g.State == records.Confirmed || g.State == records.Restored || g.State.InField()) {
		packaged := g.State == records.Packaged
		switch {
		case kind == "another device's":
			want = provisioning.CodeManifest
		case kind == "wrong MAC" && packaged:
			want = provisioning.CodeMAC
		case packaged || kind == "right":
			want = ""
		default:
			want, proven = provisioning.CodeConflict, kind == "other"
		}
	}
	challenge, err := m.spps[spp].Confirm(m.ctx, m.station, c.record, c.generation(), backup, mac)
	if !refusedAs(rt, "confirm "+kind, err, want) {
		if proven && c.onLine() {
			c.quarantine()
		}
		return
	}
	if confirmed {
		if challenge != g.nonce {
			rt.Fatal("the same confirmation got another challenge")
		}
		return
	}
	g.State, g.backup, g.confirm, g.nonce = records.Confirmed, backup, mac, challenge
}

// restored sends a proof: the right one, which may be again, or a wrong one.
func (m *history) restored(rt *rapid.T, c *modelChip) {
	m.restores(rt, c, oneOf(rt, "right", "right", "wrong"), m.spp(rt))
}

func (m *history) restores(rt *rapid.T, c *modelChip, kind string, spp int) {
	g, d := c.newest(), m.row(rt, c)
	mac := drawn(32)
	if kind == "right" && len(d.Backup) > 0 {
		mac = m.mac(rt, d, keypackage.RestoredMessage(sha256.Sum256(d.Claims), sha256.Sum256(d.Backup), d.Challenge))
	}
	want := out(g)
	if g != nil && (g.State == records.Confirmed || g.State == records.Restored || g.State.InField()) {
		switch {
		case kind == "right":
			want = ""
		case g.State == records.Confirmed:
			want = provisioning.CodeMAC
		default:
			want = provisioning.CodeConflict
		}
	}
	err := m.spps[spp].Restored(m.ctx, m.station, c.record, c.generation(), mac)
	if refusedAs(rt, "restored "+kind, err, want) && g.State == records.Confirmed {
		g.State, g.proof, g.by = records.Restored, mac, spp
		m.settle(rt)
	}
}

// publish asks for the message that locks the device.
func (m *history) publish(rt *rapid.T, c *modelChip) {
	spp := m.spp(rt)
	g, d := c.newest(), m.row(rt, c)
	want := out(g)
	switch {
	case g == nil:
	case g.State.InField():
		want = ""
	case g.State == records.Restored && g.Aside:
		want = provisioning.CodeSetAside
	case g.State == records.Restored:
		want, spp = provisioning.CodePublication, g.by // the other one may take two seconds to find out
	}
	p, err := m.spps[spp].Publish(m.ctx, m.station, c.record, c.generation())
	if !refusedAs(rt, "publish", err, want) {
		return
	}
	if !bytes.Equal(p.MAC, m.mac(rt, d, keypackage.PublishedMessage(sha256.Sum256(d.Claims)))) || p.Sequence != d.Sequence {
		rt.Fatal("publish gave another message or place than the device's")
	}
}

// locked sends a device's word that it is locked: the right one or a wrong one.
func (m *history) locked(rt *rapid.T, c *modelChip) {
	m.locks(rt, c, oneOf(rt, "right", "right", "wrong"), m.spp(rt))
}

func (m *history) locks(rt *rapid.T, c *modelChip, kind string, spp int) {
	g, d := c.newest(), m.row(rt, c)
	mac := drawn(32)
	if kind == "right" && len(d.Manifest) > 0 {
		mac = m.mac(rt, d, keypackage.LockedMessage(sha256.Sum256(d.Claims)))
	}
	want := out(g)
	if g != nil && g.State.InField() {
		want = ""
		if kind == "wrong" {
			want = provisioning.CodeMAC
		}
	}
	if refusedAs(rt, "locked "+kind, m.spps[spp].Locked(m.ctx, m.station, c.record, c.generation(), mac), want) {
		g.State = records.Shipped
	}
}

// status asks how far a device is.
func (m *history) status(rt *rapid.T, c *modelChip) {
	g := c.newest()
	var want provisioning.Code
	var state records.State
	switch planned := m.planned(c) != nil; {
	case planned && (g == nil || g.State == records.Burned):
		state = records.Planned
	case g == nil:
		want = provisioning.CodeUnknown
	default:
		state = g.State
	}
	d, err := m.spps[m.spp(rt)].Status(m.ctx, m.station, c.record)
	if refusedAs(rt, "status", err, want) && d.State != state {
		rt.Fatalf("status says %s, it is %s", d.State, state)
	}
}

// forward takes the steps that are due, as most calls on a line do.
func (m *history) forward(rt *rapid.T, c *modelChip) {
	for range rapid.IntRange(1, 5).Draw(rt, "steps") {
		spp := m.spp(rt)
		switch g := c.newest(); {
		case g == nil, g.State == records.Burned, g.State.InField() && c.unlocked == identity.Generation(len(c.gens))+1:
			m.hello(rt, c, "new")
			m.saysHello(rt, c, spp)
		case g.State == records.Packaged:
			m.confirms(rt, c, "right", spp)
		case g.State == records.Confirmed:
			m.restores(rt, c, "right", spp)
		case g.State == records.Published:
			m.locks(rt, c, "right", spp)
		}
	}
}

// settle lets an open sequencer take all that waits: an SPP that starts looks at
// once.
func (m *history) settle(rt *rapid.T) {
	rt.Helper()
	if m.gate.shut.Load() {
		return
	}
	waits := false
	for _, c := range m.chips {
		waits = waits || !c.told || c.any(func(g *modelGen) bool { return g.State == records.Restored && !g.Aside })
	}
	if !waits {
		return
	}
	for end, again := time.Now().Add(20*time.Second), time.Now().Add(20*time.Millisecond); ; time.Sleep(2 * time.Millisecond) {
		waiting, _, _, err := m.records.Store.Waiting(m.ctx)
		done(rt, err)
		if waiting == 0 {
			break
		}
		if time.Now().After(again) {
			m.restart(rt, 0)
			again = end
		}
		if time.Now().After(end) {
			rt.Fatalf("%d entries still wait for the registry", waiting)
		}
	}
	for _, c := range m.chips {
		c.told = true
		for i, g := range c.gens {
			if g.State != records.Restored || g.Aside {
				continue
			}
			for _, e := range c.gens[:i] {
				if e.State.InField() {
					e.State = records.Superseded
				}
			}
			g.State, g.Published = records.Published, true
		}
	}
}

// commanded is what operators say here.
var commanded = records.Order{Operator: "ann", Reason: "the model says so"}

// ordered checks an operator's act: nil is success.
func ordered(rt *rapid.T, act string, err, want error) bool {
	rt.Helper()
	if want == nil && err != nil || !errors.Is(err, want) {
		rt.Fatalf("%s: %v; %v is expected", act, err, want)
	}
	return err == nil
}

// scrap does what the operator's command does: licence, statement, record.
func (m *history) scrap(rt *rapid.T, c *modelChip) {
	last, entry := c.generation(), []byte(nil)
	for i := len(c.gens) - 1; i >= 0; i-- {
		if c.gens[i].Published {
			last = identity.Generation(i + 1)
			done(rt, m.records.Store.License(m.ctx, audit.Event{Kind: audit.Registry, Key: "dev-identity-signing", Record: c.record, Generation: last, Actor: "operator ann"}))
			e := registry.Entry{Realm: dev, Type: registry.Scrap, Record: c.record, Generation: last}
			var err error
			e.Statement, err = m.keys.SignRegistryStatement(m.ctx, e.Leaf())
			done(rt, err)
			entry, err = e.Encode()
			done(rt, err)
			break
		}
	}
	g := c.newest()
	var want error
	already := g != nil && g.State == records.Scrapped
	switch {
	case g == nil:
		want = records.ErrNotFound
	case already:
	case c.any(func(g *modelGen) bool { return g.was() == records.Restored && !g.Aside }), m.planned(c) != nil:
		want = records.ErrConflict
	}
	if !ordered(rt, "scrap", m.records.Store.Scrap(m.ctx, c.record, last, entry, commanded), want) || already {
		return
	}
	for _, one := range c.gens {
		if one.active() || one == g {
			if one.active() {
				c.released = one.Identity
			}
			if one.active() && one.pooled && !one.Published {
				done(rt, m.pool.Store.Use(m.ctx, one.Identity)) // house-keeping's, minutes later
			}
			one.State, one.Held = records.Scrapped, ""
		}
	}
	c.told = entry == nil
	m.settle(rt)
}

func (m *history) quarantined(rt *rapid.T, c *modelChip) {
	var want error
	switch {
	case c.newest() == nil:
		want = records.ErrNotFound
	case !c.any((*modelGen).active):
		want = records.ErrConflict
	}
	if ordered(rt, "quarantine", m.records.Store.Quarantine(m.ctx, c.record, commanded), want) {
		c.quarantine()
	}
}

func (m *history) release(rt *rapid.T, c *modelChip) {
	var want error
	switch {
	case c.contested:
	case c.newest() == nil:
		want = records.ErrNotFound
	case !c.any((*modelGen).active):
		want = records.ErrConflict
	}
	if !ordered(rt, "release", m.records.Store.Release(m.ctx, c.record, commanded), want) {
		return
	}
	c.contested = false
	for _, g := range c.gens {
		if g.State == records.Quarantined {
			g.State, g.Held = g.Held, ""
		}
	}
	m.settle(rt)
}

func (m *history) returned(rt *rapid.T, c *modelChip) {
	var want error
	field := slices.IndexFunc(c.gens, func(g *modelGen) bool { return g.State.InField() })
	switch {
	case c.newest() == nil:
		want = records.ErrNotFound
	case field < 0:
		want = records.ErrConflict
	}
	if ordered(rt, "return", m.records.Store.Return(m.ctx, c.record, commanded), want) {
		c.gens[field].State = records.Published
	}
}

func (m *history) abandon(rt *rapid.T, c *modelChip) {
	g := c.newest()
	var want error
	switch {
	case g == nil:
		want = records.ErrNotFound
	case !slices.ContainsFunc(c.gens[:len(c.gens)-1], func(e *modelGen) bool { return e.Published }):
		want = records.ErrConflict
	case g.State == records.Burned:
	case g.State != records.Packaged && g.State != records.Confirmed && (g.State != records.Restored || !g.Aside),
		!slices.ContainsFunc(c.gens[:len(c.gens)-1], func(e *modelGen) bool { return e.State.InField() }):
		want = records.ErrConflict
	}
	if ordered(rt, "abandon", m.records.Store.Abandon(m.ctx, c.record, c.generation(), commanded), want) {
		g.State, g.lost = records.Burned, true
	}
}

// stale does what house-keeping does with a device that nobody went on with.
func (m *history) stale(rt *rapid.T, c *modelChip) {
	g := c.newest()
	if g == nil || g.State != records.Packaged && g.State != records.Confirmed {
		return
	}
	d := m.row(rt, c)
	if c.before() != nil {
		done(rt, m.records.Store.AbandonStale(m.ctx, c.record, c.generation(), "stale"))
	} else {
		done(rt, m.records.Store.Burned(m.ctx, d.Identity, d.Batch, "stale"))
		done(rt, m.pool.Store.Burn(m.ctx, d.Identity, "stale"))
	}
	g.State, g.lost = records.Burned, true
}

// unlock signs an unlock statement for the next generation.
func (m *history) unlock(rt *rapid.T, c *modelChip) {
	if len(c.gens) == 0 {
		return
	}
	next := c.generation() + 1
	done(rt, m.records.Store.License(m.ctx, audit.Event{Kind: audit.Unlock, Key: "dev-identity-signing", Record: c.record, Generation: next, Actor: "operator ann"}))
	signed, err := m.keys.SignUnlock(m.ctx, identity.Unlock{Realm: dev, Record: c.record, Next: next})
	done(rt, err)
	done(rt, m.records.Store.Unlock(m.ctx, c.record, next, signed, commanded.Reason, commanded.Operator))
	c.unlocked = next
}

// swap plans a board swap from a chip to another one.
func (m *history) swap(rt *rapid.T, from *modelChip) {
	m.swaps(rt, from, m.chip(rt, "to", func(c *modelChip) bool { return c != from && !c.any((*modelGen).active) }))
}

// moved is the whole of a board swap: the old chip is scrapped, its identity
// planned for the spare board, which says hello.
func (m *history) moved(rt *rapid.T, from *modelChip) {
	to := m.chips[spare]
	if from == to {
		return
	}
	m.scrap(rt, from)
	m.swaps(rt, from, to)
	m.forward(rt, to)
}

func (m *history) swaps(rt *rapid.T, from, to *modelChip) {
	if from == to {
		return
	}
	var want error
	same := slices.ContainsFunc(m.plans, func(p *modelPlan) bool { return p.from == from && p.to == to })
	switch g := from.newest(); {
	case same:
	case g == nil:
		want = records.ErrNotFound
	case g.State != records.Scrapped:
		want = records.ErrConflict
	case to.any((*modelGen).active):
		want = records.ErrChipActive
	case to.newest() != nil && to.newest().State == records.Scrapped, to.contested:
		want = records.ErrOutOfUse
	case from.released == nil:
		want = records.ErrConflict
	case m.planned(to) != nil:
		want = records.ErrChipActive
	}
	plan, err := m.records.Store.Plan(m.ctx, from.record, to.record, commanded)
	if !ordered(rt, "swap", err, want) || same {
		return
	}
	if plan.Identity != from.released {
		rt.Fatalf("the plan gives %s, released was %s", plan.Identity, from.released)
	}
	m.plans = append(m.plans, &modelPlan{from: from, to: to, id: from.released})
	from.released = nil
}

// contest is what an import of a contradicting delivery list does.
func (m *history) contest(rt *rapid.T, c *modelChip) {
	var want error
	if !c.listed {
		want = records.ErrNotFound
	}
	already := c.contested
	if !ordered(rt, "contest", m.records.Store.Contest(m.ctx, c.record, "two lists", nil), want) || already {
		return
	}
	c.contested = true
	if c.onLine() {
		c.quarantine()
	}
}

// aside is what the publisher does with an entry that the sequencer refused.
func (m *history) aside(rt *rapid.T, c *modelChip) {
	if g := c.newest(); g != nil && g.State == records.Restored {
		done(rt, m.records.Store.SetAside(m.ctx, c.record, c.generation(), 0, "refused"))
		g.Aside = true
	}
}

func (m *history) putBack(rt *rapid.T, c *modelChip) {
	g := c.newest()
	var want error
	switch {
	case g == nil:
		want = records.ErrNotFound
	case g.State != records.Restored && !g.State.Ever():
		want = records.ErrConflict
	}
	if ordered(rt, "put back", m.records.Store.PutBack(m.ctx, c.record, c.generation(), 0, commanded), want) {
		g.Aside = false
		m.settle(rt)
	}
}

// compare holds the records of a chip against the model.
func (m *history) compare(rt *rapid.T, c *modelChip) {
	type row struct {
		State, Held      records.State
		Identity         string
		Published, Aside bool
	}
	var have, want []row
	for i := range len(c.gens) + 1 {
		d, err := m.records.Store.Get(m.ctx, c.record, identity.Generation(i+1))
		if errors.Is(err, records.ErrNotFound) {
			break
		}
		done(rt, err)
		have = append(have, row{d.State, d.Held, d.Identity.Value(), !d.PublishedAt.IsZero(), d.SetAside != "" && d.State == records.Restored})
	}
	for _, g := range c.gens {
		want = append(want, row{g.State, g.Held, g.Identity.Value(), g.Published, g.Aside && g.State == records.Restored})
	}
	if diff := cmp.Diff(want, have); diff != "" {
		rt.Fatalf("record %s: the records (+) are not as the model (-) says:\n%s", c.record.Short(), diff)
	}
}

// end opens the sequencer, lets everything settle and runs the checker.
func (m *history) end(rt *rapid.T) {
	m.turn(true)
	m.settle(rt)
	want := m.before
	for _, c := range m.chips {
		m.compare(rt, c)
		for _, g := range c.gens {
			switch {
			case !g.pooled:
				continue
			case g.was().OnLine():
				want.Reserved++
			case g.lost:
				want.Burned++
			default:
				want.Used++
			}
			want.Free--
		}
	}
	// The publisher tells the pool after it told the records.
	for end := time.Now().Add(10 * time.Second); m.batch(rt) != want; time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			rt.Fatalf("the pool says %+v, the model %+v", m.batch(rt), want)
		}
	}
	report := check.Run(m.ctx, m.sources)
	for _, i := range report.Invariants {
		if !i.Holds {
			rt.Errorf("%s: found %d, unread %q: %+v", i.Name, i.Found, i.Unread, i.Violations)
		}
	}
}

func (m *history) batch(rt *rapid.T) pool.Batch {
	rt.Helper()
	b, err := m.pool.Store.Batches(m.ctx)
	done(rt, err)
	return b[0]
}
