package slots_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/devicekeys/devicekeys/device/chip"
	"github.com/devicekeys/devicekeys/device/chip/chiptest"
	"github.com/devicekeys/devicekeys/device/flash"
	"github.com/devicekeys/devicekeys/device/slots"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/softhsm"
	"github.com/devicekeys/devicekeys/statement"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestBench makes a bench, makes it longer, and has its devices work at the
// same time.
func TestBench(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	h := softhsm.New(t)
	r, err := chip.OpenRack(ctx, h.Directory.Module(), h.Directory.LockFile(), identity.Development)
	must(t, err)
	t.Cleanup(func() { must(t, r.Close()) })
	dir := t.TempDir()

	var told []int
	o := slots.MakeOptions{Realm: identity.Development, ChipIDBytes: 24, Progress: func(done, _ int) { told = append(told, done) }}
	first, err := slots.Create(ctx, dir, r, 3, o)
	must(t, err)
	if len(first.Created) != 3 || len(told) != 3 || told[2] != 3 {
		t.Errorf("report %+v, progress %v", first, told)
	}
	o.ChipIDBytes, o.Progress = 16, nil
	second, err := slots.Create(ctx, dir, r, 5, o)
	must(t, err)
	if len(second.Created) != 2 || second.Kept != 3 || second.Delivery == first.Delivery {
		t.Errorf("report %+v", second)
	}
	third, err := slots.Create(ctx, dir, r, 5, o)
	must(t, err)
	if third.Kept != 5 || third.Delivery != "" {
		t.Errorf("report %+v", third)
	}

	s, err := slots.Open(ctx, dir, r, slots.Options{})
	must(t, err)
	if names := s.Names(); !slices.Equal(names, []string{"device-0001", "device-0002", "device-0003", "device-0004", "device-0005"}) {
		t.Fatalf("names %q", names)
	}
	maker := readPublic(t, first.Maker)
	checkDelivery(t, s, maker, []string{first.Delivery, second.Delivery})
	checkFiles(t, dir, s)

	// Several in flight, each with its own token and sessions.
	spp := chiptest.NewSPP(t, identity.Development)
	var wg sync.WaitGroup
	for i, name := range s.Names() {
		wg.Go(func() {
			if err := provision(t, s, spp, name, i); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	wg.Wait()

	d, err := s.Device(ctx, "device-0001")
	must(t, err)
	if _, err := s.Device(ctx, "device-0001"); !errors.Is(err, flash.ErrInUse) {
		t.Errorf("opening a device twice: %v, want ErrInUse", err)
	}
	if state, err := s.FlashState("device-0001"); err != nil || state != "in use" {
		t.Errorf("flash of an open device: %q, %v", state, err)
	}
	must(t, d.Close(ctx))
	if state, err := s.FlashState("device-0002"); err != nil || state != "whole" {
		t.Errorf("flash of a provisioned device: %q, %v", state, err)
	}
	if _, err := s.Device(ctx, "device-0006"); !errors.Is(err, slots.ErrNoSlot) {
		t.Errorf("a device that is not there: %v, want ErrNoSlot", err)
	}
	// A slot that holds another slot's files.
	must(t, os.Rename(filepath.Join(dir, "slots", "device-0005"), filepath.Join(dir, "slots", "device-0009")))
	if _, err := slots.Open(ctx, dir, r, slots.Options{}); err == nil || !strings.Contains(err.Error(), "renamed or copied") {
		t.Errorf("a renamed slot: %v", err)
	}
}

// provision takes one device through the line and lets it prove itself.
func provision(t *testing.T, s *slots.Slots, spp *chiptest.SPP, name string, serial int) (err error) {
	ctx := t.Context()
	slot, err := s.Slot(name)
	if err != nil {
		return err
	}
	d, err := s.Device(ctx, name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close(ctx)) }()
	if err := d.WriteROM(ctx, spp.ROMKey()); err != nil {
		return err
	}
	raw, err := d.Hello(ctx, keypackage.SuiteAttested)
	if err != nil {
		return err
	}
	m1, err := statement.Open(raw, statement.Attestation, slot.Attestation, keypackage.MaxHello)
	if err != nil {
		return err
	}
	a := spp.Assemble(t, m1, chiptest.Order{Identity: chiptest.TestIMEI(t, serial)})
	accepted, err := d.Accept(ctx, a.Package, nil)
	if err != nil {
		return err
	}
	if !bytes.Equal(accepted.Confirm, a.Confirm(accepted.Backup)) {
		return errors.New("wrong confirmation")
	}
	if err := errors.Join(d.Erase(ctx), d.Restore(ctx, a.Certificate.Bytes(), accepted.Backup)); err != nil {
		return err
	}
	if _, err := d.Boot(ctx); err != nil {
		return err
	}
	_, err = d.Published(ctx, a.Published())
	return err
}

func readPublic(t *testing.T, path string) statement.PublicKey {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	k, err := statement.ParsePEM(b)
	must(t, err)
	return k
}

// checkDelivery checks that the lists name each slot's chip once.
func checkDelivery(t *testing.T, s *slots.Slots, maker statement.PublicKey, lists []string) {
	t.Helper()
	named := map[identity.RecordID]statement.PublicKey{}
	for _, path := range lists {
		raw, err := os.ReadFile(path)
		must(t, err)
		l, err := keypackage.ParseDeliveryList(raw, maker)
		must(t, err)
		for _, c := range l.Chips {
			if _, twice := named[c.Record]; twice {
				t.Errorf("record %s was delivered twice", c.Record.Short())
			}
			named[c.Record] = c.Attestation
		}
	}
	if len(named) != len(s.Names()) {
		t.Errorf("%d chips were delivered, %d are there", len(named), len(s.Names()))
	}
	for _, name := range s.Names() {
		slot, err := s.Slot(name)
		must(t, err)
		if named[slot.Record] != slot.Attestation {
			t.Errorf("%s is delivered with another key, or not at all", name)
		}
	}
}

// checkFiles checks modes, and that nothing is left of the making.
func checkFiles(t *testing.T, dir string, s *slots.Slots) {
	t.Helper()
	for _, name := range s.Names() {
		folder := filepath.Join(dir, "slots", name)
		entries, err := os.ReadDir(folder)
		must(t, err)
		var files []string
		for _, e := range entries {
			files = append(files, e.Name())
		}
		if !slices.Equal(files, []string{"flash.img", "pin", "slot.json"}) {
			t.Errorf("%s holds %q", name, files)
		}
		info, err := os.Stat(filepath.Join(folder, "pin"))
		must(t, err)
		if info.Mode().Perm() != 0o400 {
			t.Errorf("%s: PIN file of mode %v", name, info.Mode())
		}
	}
}

// TestKilled kills Create again and again, and shows that the last call has
// made everything.
func TestKilled(t *testing.T) {
	t.Parallel()
	softhsm.New(t) // skips where there is no SoftHSM
	const n = 12
	dir := t.TempDir()
	kills := 0
	for try := range 30 {
		c := child(t.Context(), "create", dir, n)
		must(t, c.Start())
		// Longer and longer, so that each try gets a little further.
		time.Sleep(time.Duration(20+15*try+rand.IntN(20)) * time.Millisecond)
		if c.Process.Kill() == nil {
			kills++
		}
		if c.Wait() == nil {
			break // it was quicker than the kill
		}
	}
	c := child(t.Context(), "create", dir, n)
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		t.Fatalf("after %d kills: %v\n%s", kills, err, &stderr)
	}
	var report slots.Report
	must(t, json.Unmarshal(out, &report))
	if got := len(report.Created) + len(report.Finished) + report.Kept; got != n {
		t.Errorf("report %+v", report)
	}
	t.Logf("%d kills; the last call kept %d, finished %q, made %q, abandoned %q", kills, report.Kept, report.Finished, report.Created, report.Abandoned)

	s, err := slots.Open(t.Context(), dir, nil, slots.Options{})
	must(t, err)
	lists, err := filepath.Glob(filepath.Join(dir, "chip-maker", "delivery-*.cbor"))
	must(t, err)
	checkDelivery(t, s, readPublic(t, report.Maker), lists)
	hello := child(t.Context(), "hello", dir, 0)
	if out, err := hello.CombinedOutput(); err != nil {
		t.Errorf("devices after the kills: %v\n%s", err, out)
	}
}

// TestTwoAtOnce has two processes make slots in one folder.
func TestTwoAtOnce(t *testing.T) {
	t.Parallel()
	softhsm.New(t)
	dir := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(dir, "slots"), 0o700))
	unlock, err := slots.Lock(dir)
	must(t, err)
	out, err := child(t.Context(), "create", dir, 1).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "another process is creating") {
		t.Errorf("%v: %s", err, out)
	}
	unlock()
	if out, err := child(t.Context(), "create", dir, 1).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func TestCreateRefuses(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, -1, slots.MaxSlots + 1} {
		if _, err := slots.Create(t.Context(), t.TempDir(), nil, n, slots.MakeOptions{}); err == nil {
			t.Errorf("%d slots were created", n)
		}
	}
}

func TestOpenEmpty(t *testing.T) {
	t.Parallel()
	s, err := slots.Open(t.Context(), filepath.Join(t.TempDir(), "none"), nil, slots.Options{})
	must(t, err)
	if len(s.Names()) != 0 {
		t.Errorf("names %q", s.Names())
	}
	if _, err := s.FlashState("device-0001"); !errors.Is(err, slots.ErrNoSlot) || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("flash of a slot that is not there: %v", err)
	}
}

func FuzzSlot(f *testing.F) {
	f.Add([]byte(`{"name":"device-0001","token":"dev-device-0001","realm":"development"}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := slots.ParseSlot(b); err == nil && (s.Attestation.IsZero() || !s.Realm.Valid() || s.Token == "") {
			t.Errorf("%q reads as %+v", b, s)
		}
	})
}

// TestTokenOfAnother finds a slot's label on a token that is not the bench's,
// as on one that a crash left unusable: it is left alone, and named.
func TestTokenOfAnother(t *testing.T) {
	t.Parallel()
	softhsm.New(t)
	dir := t.TempDir()
	d, err := softhsm.NewDirectory(dir)
	must(t, err)
	d.Token(t, "dev-device-0001")
	d.Token(t, "dev-chip-maker")
	out, err := child(t.Context(), "create", dir, 2).Output()
	must(t, err)
	var report slots.Report
	must(t, json.Unmarshal(out, &report))
	if !slices.Equal(report.Abandoned, []string{"dev-device-0001"}) || len(report.Created) != 2 {
		t.Errorf("report %+v", report)
	}
	s, err := slots.Open(t.Context(), dir, nil, slots.Options{})
	must(t, err)
	slot, err := s.Slot("device-0001")
	must(t, err)
	if slot.Token != "dev-device-0001-2" {
		t.Errorf("the slot's token is %q", slot.Token)
	}
	checkDelivery(t, s, readPublic(t, report.Maker), []string{report.Delivery})
	if out, err := child(t.Context(), "hello", dir, 0).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
