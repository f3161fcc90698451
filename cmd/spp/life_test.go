package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/devicekeys/devicekeys/audit"
	"github.com/devicekeys/devicekeys/device/chip"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning/pool"
	"github.com/devicekeys/devicekeys/provisioning/records"
	"github.com/devicekeys/devicekeys/registry"
	"github.com/devicekeys/devicekeys/registry/registrytest"
)

// scriptCommands bring databases into the states that commands are tried in. What they write is what an SPP writes, but
// for the bytes of packages and backups, which these commands don't read.
//
//	chip NAME                    a chip on a delivery list; its record id is $NAME
//	device NAME STATE            a device of it in a state
//	device NAME STATE GENERATION its next generation, in a state
//	published NAME               a device, published, of a line that publishes certificates
//	setaside NAME GENERATION [TYPE] the registry refused an entry
//	noticed NAME GENERATION      the registry has acknowledged a scrap entry
//	incident NAME KIND           one incident
//	wrapkeys FILE ID,ENTRY...     symmetric keys from outside, wrapped to the SPP's HSM
//	clearkeys FILE ID,ENTRY,FORM... keys and secrets in clear, as their sender has them; FORM may end in =SIZE, or in
//	                             =dDIGITS, or in =@NAME for a pair that another line of that name has too
//	audited TEXT                 the audit log has exactly one entry with this actor and note, serial numbers counted
var scriptCommands = map[string]func(*testscript.TestScript, bool, []string){
	"chip":   func(ts *testscript.TestScript, _ bool, args []string) { stage(ts).chip(args[0]) },
	"device": func(ts *testscript.TestScript, _ bool, args []string) { stage(ts).device(args) },
	"published": func(ts *testscript.TestScript, _ bool, args []string) {
		s := stage(ts)
		s.certificates = []byte("certificates entry")
		s.device([]string{args[0], string(records.Published)})
		s.certificates = nil
	},
	"setaside":  func(ts *testscript.TestScript, _ bool, args []string) { stage(ts).setAside(args) },
	"noticed":   func(ts *testscript.TestScript, _ bool, args []string) { stage(ts).noticed(args) },
	"incident":  func(ts *testscript.TestScript, _ bool, args []string) { stage(ts).incident(args) },
	"wrapkeys":  func(ts *testscript.TestScript, _ bool, args []string) { stage(ts).wrapKeys(args[0], args[1:]) },
	"clearkeys": func(ts *testscript.TestScript, _ bool, args []string) { stage(ts).clearKeys(args[0], args[1:]) },
	"audited":   func(ts *testscript.TestScript, neg bool, args []string) { stage(ts).audited(neg, args) },
}

// stageKey is the name of a script's stage among its values.
type stageKey struct{}

// player is who brings the databases into a state: a script, or a test.
type player interface {
	Check(error)
	Fatalf(format string, args ...any)
	Setenv(key, value string)
}

// onStage is one player with its databases.
type onStage struct {
	player
	*scene
}

// scene is what a script's commands made so far.
type scene struct {
	place   *place
	chips   map[string]identity.ChipID
	pool    *pool.Store
	records *records.Store
	// certificates is the certificates entry of the device that is made now; empty: none.
	certificates []byte
}

// stage gives a script's stage; the first command comes after spp migrate.
func stage(ts *testscript.TestScript) onStage {
	return onStage{ts, ts.Value(stageKey{}).(*scene).open()}
}

func (s *scene) open() *scene {
	if s.records == nil {
		s.pool, s.records = pool.New(s.place.pool.As("spp")), records.New(s.place.records.As("spp"))
		s.chips = map[string]identity.ChipID{}
	}
	return s
}

// record is the record id of a chip.
func (s *scene) record(name string) identity.RecordID { return s.chips[name].RecordID() }

func (s onStage) chip(name string) {
	c, err := chip.NewSoftware(identity.Development, 32, "")
	s.Check(err)
	maker := registrytest.NewSigner(s.place.t, "chip maker").Public()
	list := keypackage.DeliveryList{Realm: identity.Development, Maker: "chip maker", Lot: "lot of " + name, Chips: []keypackage.DeliveredChip{
		{Record: c.ID().RecordID(), Attestation: c.Attester().Public()},
	}}
	_, _, err = s.records.ImportChips(context.Background(), list, maker)
	s.Check(err)
	s.chips[name] = c.ID()
	s.Setenv(name, c.ID().RecordID().String())
}

func (s onStage) device(args []string) {
	ctx, name, to, g := context.Background(), args[0], records.State(args[1]), uint64(1)
	if _, there := s.chips[name]; !there {
		s.chip(name)
	}
	if len(args) > 2 {
		var err error
		g, err = strconv.ParseUint(args[2], 10, 32)
		s.Check(err)
	}
	d := records.Device{
		Record: s.chips[name].RecordID(), ChipID: s.chips[name], Generation: identity.Generation(g), Realm: identity.Development,
		Line: "phone", Station: "line-1", Suite: keypackage.SuiteAttested, IssuedAt: 1_700_000_000, KDF: 1, Master: 1,
	}
	if before, err := s.records.Newest(ctx, d.Record); err == nil {
		d.Identity, d.Batch = before.Identity, before.Batch
	} else {
		r, err := s.pool.Reserve(ctx, d.Line, nil, nil, d.Record, d.Generation)
		s.Check(err)
		d.Identity, d.Batch = r.Identity, r.Batch
	}
	text := func(what string) []byte { return fmt.Appendf(nil, "%s %d", what, g) }
	d.Hello, d.Manifest, d.Claims, d.Certificate, d.Package = text("hello"), text("manifest"), text("claims"), text("certificate"), text("package")
	d.Point = bytes.Repeat([]byte{4}, 65)
	for _, step := range []struct {
		state records.State
		take  func() error
	}{
		{records.Reserved, func() error {
			return s.records.Reserve(ctx, d, audit.Event{Kind: audit.Assemble, Key: "dev-purpose-channel-1", Record: d.Record, Generation: d.Generation, Actor: "station line-1"})
		}},
		{records.Packaged, func() error { return s.records.Packaged(ctx, d) }},
		{records.Confirmed, func() error {
			_, err := s.records.Confirmed(ctx, d.Record, d.Generation, d.Point, text("backup"), make([]byte, 32), [32]byte{1})
			return err
		}},
		{records.Restored, func() error {
			err := s.records.Restored(ctx, d.Record, d.Generation, make([]byte, 32), text("entry"), s.certificates)
			return err
		}},
		{records.Published, func() error {
			return s.records.Published(ctx, d.Record, d.Generation, s.sequence(d))
		}},
		{records.Shipped, func() error { return s.records.Shipped(ctx, d.Record, d.Generation) }},
	} {
		s.Check(step.take())
		if step.state == records.Published {
			s.Check(s.pool.Use(ctx, d.Identity))
		}
		if step.state == to {
			return
		}
	}
	s.Fatalf("state %q is none that a line leaves a device in", to)
}

// sequence is some place in the registry, another one for each entry.
func (s onStage) sequence(d records.Device) int64 {
	return int64(binary.BigEndian.Uint32(d.Record[:]))<<8 + int64(d.Generation)
}

func (s onStage) generation(text string) identity.Generation {
	g, err := strconv.ParseUint(text, 10, 32)
	s.Check(err)
	return identity.Generation(g)
}

func (s onStage) setAside(args []string) {
	typ := uint8(0)
	if len(args) > 2 {
		t, err := registry.ParseEntryType(args[2])
		s.Check(err)
		typ = uint8(t)
	}
	s.Check(s.records.SetAside(context.Background(), s.chips[args[0]].RecordID(), s.generation(args[1]), typ, "the registry refused it"))
}

func (s onStage) noticed(args []string) {
	record := s.chips[args[0]].RecordID()
	s.Check(s.records.Noticed(context.Background(), record, s.generation(args[1]), 3, s.sequence(records.Device{Record: record, Generation: 200})))
}

func (s onStage) incident(args []string) {
	s.Check(s.records.Incident(context.Background(), records.Incident{
		Kind: args[1], Record: s.chips[args[0]].RecordID(), Generation: 1, Line: "phone", Station: "line-1", Detail: "the MAC is wrong", Facts: map[string]string{"step": "confirm", "suite": "1"},
	}))
}

func (s onStage) audited(neg bool, args []string) {
	text, n := strings.Join(args, " "), 0
	_, err := audit.New(s.place.records.As("auditor"), identity.Development).Verify(context.Background(), audit.Head{}, nil, func(e audit.Entry) error {
		note := e.Note
		if serials := e.Serials(); len(serials) > 0 {
			note = strings.Replace(note, strings.Join(serials, " "), fmt.Sprintf("of %d serial numbers", len(serials)), 1)
		}
		line := fmt.Sprintf("%s, %s: %s", e.Kind, e.Actor, note)
		if found, err := regexp.MatchString("^"+text+"$", line); line == text || err == nil && found {
			n++
		}
		return nil
	})
	s.Check(err)
	if want := map[bool]int{false: 1}[neg]; n != want {
		s.Fatalf("%d audit entries %q, want %d", n, text, want)
	}
}
