package formats_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/devicekeys/devicekeys/audit"
	"github.com/devicekeys/devicekeys/device"
	"github.com/devicekeys/devicekeys/device/chip"
	"github.com/devicekeys/devicekeys/device/chip/chiptest"
	"github.com/devicekeys/devicekeys/device/flash"
	"github.com/devicekeys/devicekeys/deviceservice/call"
	"github.com/devicekeys/devicekeys/hsm/transport"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning/records/recordstest"
	"github.com/devicekeys/devicekeys/statement"
)

// TestEveryArtefact: what the product makes in CBOR and no golden value holds, the Python agrees to be canonical: statements, messages, what
// waits, what travels, what is in flash, and the body of every statement by itself.
func TestEveryArtefact(t *testing.T) {
	t.Parallel()
	python(t)
	ctx, made := t.Context(), map[string][]byte{}
	keep := func(name string, b []byte, err error) {
		t.Helper()
		must(t, err)
		if len(b) == 0 {
			t.Fatalf("%s is empty", name)
		}
		made[name] = b
	}
	maker := chiptest.NewSPP(t, dev)
	signed := func(name string, typ statement.Type, b []byte, err error) {
		t.Helper()
		keep(name, b, err)
		payload, err := statement.Open(b, typ, maker.ROMKey(), keypackage.MaxDeliveryList)
		keep(name+" payload", payload, err)
	}

	// A device with everything in flash, and its chip's file.
	file := filepath.Join(t.TempDir(), "chip")
	c, err := chip.NewSoftware(dev, 24, file)
	must(t, err)
	image := flash.NewMemory()
	d, err := device.Open(ctx, device.Config{Chip: c, Flash: image})
	must(t, err)
	must(t, d.WriteROM(ctx, maker.ROMKey()))
	must(t, d.LoadModules(ctx, []device.Module{{Name: "boot", SHA256: sha256.Sum256([]byte("code")), Content: []byte("code")}}))
	m1, err := d.Hello(ctx, keypackage.SuiteUnattested)
	keep("hello", m1, err)
	a := maker.Assemble(t, m1, chiptest.Order{Items: chiptest.Everything()})
	_, err = d.Accept(ctx, a.Package, nil)
	must(t, err)
	must(t, d.Close(ctx))
	stored, err := image.Identity()
	keep("flash", stored, err)
	modules, err := image.Modules()
	keep("modules", modules, err)
	keep("chip's file", read(t, file), nil)

	// Statements.
	list, err := keypackage.SignDeliveryList(ctx, maker, keypackage.DeliveryList{Realm: dev, Maker: "Chipworks", Lot: "2026-47",
		Chips: []keypackage.DeliveredChip{{Record: c.ID().RecordID(), Attestation: c.Attester().Public()}}})
	signed("delivery list", statement.DeliveryList, list, err)
	log := audit.New(recordstest.New(t).As("spp"), dev)
	for i, e := range []audit.Event{
		{Kind: audit.Assemble, Key: "dev-identity-signing", Record: c.ID().RecordID(), Generation: 1, Actor: "line-1", Note: "a note"},
		{Kind: audit.Order, Actor: "operator alice"},
	} {
		b, err := e.Encode()
		keep(fmt.Sprintf("audit event %d", i), b, err)
		must(t, log.Append(ctx, e))
	}
	head, err := log.SignHead(ctx, func(ctx context.Context, payload []byte) ([]byte, error) {
		return statement.Sign(ctx, maker, statement.AuditHead, payload)
	})
	signed("audit head", statement.AuditHead, head.Statement, err)

	// What waits, and what travels.
	waiting, err := keypackage.WaitingKey{Algorithm: keypackage.ES256, Wrapped: make([]byte, 80), Public: maker.ROMKey().Point()}.Encode()
	keep("waiting key", waiting, err)
	keep("sealed", keypackage.Sealed{Ciphertext: make([]byte, 40)}.Encode(), nil)
	keep("pool's associated data", keypackage.PoolAAD(dev, 7, chiptest.TestIMEI(t, 1), "sim-lock"), nil)
	blob, err := transport.WrapSoftware(dev, maker.ROMKey(), "device urn:gsma:imei:00440245-000001-0 channel", make([]byte, 32))
	keep("transport blob", blob, err)

	secret, err := transport.SealSoftware(dev, maker.ROMKey(), "secret urn:gsma:imei:00440245-000001-0 sim-lock", []byte("73318500"))
	keep("transport secret", secret, err)

	// What is authenticated on the line, and the calls of a device.
	keep("confirm", keypackage.ConfirmMessage([32]byte{1}, [32]byte{2}), nil)
	keep("restored", keypackage.RestoredMessage([32]byte{1}, [32]byte{2}, [32]byte{3}), nil)
	keep("published", keypackage.PublishedMessage([32]byte{1}), nil)
	keep("locked", keypackage.LockedMessage([32]byte{1}), nil)
	keep("alive", keypackage.AliveMessage([32]byte{1}, [32]byte{2}), nil)
	request, err := call.Request{ID: 300, Method: call.MethodEcho, Body: []byte("hi")}.Encode()
	keep("request", request, err)
	answer, err := call.Answer{ID: 300, Status: call.Refused}.Encode()
	keep("answer", answer, err)
	keep("status", call.DeviceStatus{Generation: 2, Newest: 3}.Encode(), nil)
	keep("time", call.EncodeTime(time.UnixMilli(1_700_000_000_123)), nil)
	keep("retry", call.EncodeRetry(1500*time.Millisecond), nil)

	folder, args := t.TempDir(), []string{"canonical"}
	names := slices.Sorted(maps.Keys(made))
	for _, name := range names {
		write(t, folder, name, made[name])
		args = append(args, name)
	}
	out := accepts(t, folder, args...)
	if n := strings.Count(out, ": canonical\n"); n != len(names) {
		t.Errorf("%d of %d are canonical:\n%s", n, len(names), out)
	}

	// Vectors of formats.md §18.
	page := string(read(t, "..", "formats.md"))
	for _, name := range []string{"request", "answer", "status", "time", "retry"} {
		if name != "request" && !strings.Contains(strings.ReplaceAll(page, " ", ""), fmt.Sprintf("`%x`", made[name])) {
			t.Errorf("the page has not %s, %x", name, made[name])
		}
	}
	if first, err := (call.Request{ID: 1, Method: call.MethodEcho, Body: []byte("hi")}).Encode(); err != nil || !strings.Contains(strings.ReplaceAll(page, " ", ""), fmt.Sprintf("`%x`", first)) {
		t.Errorf("the page has not the request, %x: %v", first, err)
	}
}
