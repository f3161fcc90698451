package formats_test

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/device"
	"github.com/devicekeys/devicekeys/device/chip"
	"github.com/devicekeys/devicekeys/device/chip/chiptest"
	"github.com/devicekeys/devicekeys/device/flash"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning/records"
	"github.com/devicekeys/devicekeys/registry"
	"github.com/devicekeys/devicekeys/statement"
	"github.com/devicekeys/devicekeys/station"
	"github.com/devicekeys/devicekeys/station/stationtest"
)

const dev = identity.Development

// newChip makes a software chip and gives its key, which its file has.
func newChip(t testing.TB, size int) (c *chip.Software, key []byte) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "chip")
	c, err := chip.NewSoftware(dev, size, path)
	must(t, err)
	var state struct {
		_           struct{} `cbor:",toarray"`
		Version     uint
		Realm       identity.Realm
		ChipID      []byte
		ChipKey     []byte
		Attestation []byte
		ROMKey      []byte
		Locked      bool
		Floor       identity.Generation
	}
	must(t, detcbor.Unmarshal(read(t, path), &state, 4096))
	return c, state.ChipKey
}

func newDevice(t testing.TB, c chip.Chip) *device.Device {
	t.Helper()
	d, err := device.Open(t.Context(), device.Config{Chip: c, Flash: flash.NewMemory()})
	must(t, err)
	t.Cleanup(func() { must(t, d.Close(t.Context())) })
	return d
}

func hexID(id identity.ChipID) string { return hex.EncodeToString(id.Bytes()) }

// lineTime bounds one device on the line; it takes a second.
const lineTime = time.Minute

// TestLine: a device with a software chip comes down a whole line (station and
// SPP over mutual TLS, the maker's keys in SoftHSM, Postgres, sequencer), and
// what the line leaves is enough to restore it, in Python.
func TestLine(t *testing.T) {
	t.Parallel()
	python(t)
	p := stationtest.New(t)
	p.Stock(t, 4)
	c, key := newChip(t, 32)
	p.Deliver(t, c)
	image := flash.NewMemory()

	grant := stationtest.Grant("line-1")
	j, err := station.OpenJournal(filepath.Join(t.TempDir(), "journal"))
	must(t, err)
	l := &station.Line{Client: station.NewClient(p.HTTP(t, grant.URI()), p.SPP.URL), Journal: j, Modules: p.Modules, Suite: keypackage.SuiteAttested, Hands: 1}
	must(t, l.Prepare(t.Context()))
	outcome := l.Run(t.Context(), []station.Fixture{{Name: "device-0001", Open: openDevice(c, image)}}, lineTime)[0]
	if !outcome.Shipped {
		t.Fatalf("the device was not shipped: %+v", outcome)
	}
	left, ok := p.Newest(t, c.ID().RecordID())
	if !ok {
		t.Fatal("the records don't know the device")
	}
	folder := t.TempDir()
	write(t, folder, "entry", left.Entry)
	write(t, folder, "rom.pem", p.Keys.ROMKey().PEM())
	write(t, folder, "chip.key", key)

	accepts(t, folder, "canonical", "entry")
	out := accepts(t, folder, "open", "entry", "--chip-id", hexID(c.ID()), "--rom-key", "rom.pem", "--certificate", "certificate", "--backup", "backup")
	for _, want := range []string{"type: register\n", "subject: " + left.Identity.URN() + "\n", "record id: " + left.Record.String() + "\n", "generation: 1\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if !bytes.Equal(read(t, folder, "certificate"), left.Certificate) || !bytes.Equal(read(t, folder, "backup"), left.Backup) {
		t.Error("the entry held another certificate or backup than the records have")
	}
	accepts(t, folder, "canonical", "certificate", "backup")
	accepts(t, folder, "check", "certificate", "--rom-key", "rom.pem", "--chip-id", hexID(c.ID()), "--backup", "backup")
	accepts(t, folder, "restore", "backup", "--certificate", "certificate", "--rom-key", "rom.pem", "--chip-key", "chip.key", "--out", "values")
	restoredAsTheSPPKnows(t, filepath.Join(folder, "values"), left)
}

func openDevice(c chip.Chip, image *flash.Image) func(context.Context) (station.Device, error) {
	return func(ctx context.Context) (station.Device, error) {
		return device.Open(ctx, device.Config{Chip: c, Flash: image})
	}
}

// restoredAsTheSPPKnows holds the restored proving key against the MACs that
// the SPP took from the device, which it checked with a key derived in its HSM.
func restoredAsTheSPPKnows(t *testing.T, values string, left records.Device) {
	t.Helper()
	channel := read(t, values, "channel")
	transcript := keypackage.Transcript(left.Hello, left.Point, left.Claims)
	if want := keypackage.ConfirmMessage(transcript, sha256.Sum256(left.Backup)); !bytes.Equal(chiptest.MAC(channel, want), left.Confirm) {
		t.Error("the restored key does not make the device's confirmation")
	}
	if got := read(t, values, "model"); string(got) != "phone, development" {
		t.Errorf("model is %q", got)
	}
	if code := read(t, values, "sim-unlock"); len(code) != 16 || strings.Trim(string(code), "0123456789") != "" {
		t.Errorf("the code has %d characters, or others than digits", len(code))
	}
	info, err := os.Stat(filepath.Join(values, "channel"))
	must(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the restored key has mode %v", info.Mode())
	}
}

// bench is a device's remains in a folder: entries of every form, made by the
// product's own device and its tests' SPP.
type bench struct {
	folder string
	chip   *chip.Software
	spp    *chiptest.SPP
	entry  registry.Entry
}

func newBench(t *testing.T) (*bench, chiptest.Assembly) {
	t.Helper()
	c, key := newChip(t, 16)
	b := &bench{folder: t.TempDir(), chip: c, spp: chiptest.NewSPP(t, dev)}
	d := newDevice(t, c)
	must(t, d.WriteROM(t.Context(), b.spp.ROMKey()))
	raw, err := d.Hello(t.Context(), keypackage.SuiteAttested)
	must(t, err)
	a := b.spp.Assemble(t, chiptest.ParseHello(t, raw, c.Attester().Public()), chiptest.Order{Items: chiptest.Everything()})
	accepted, err := d.Accept(t.Context(), a.Package, nil)
	must(t, err)
	b.entry, err = registry.Seal(rand.Reader, c.ID(), registry.Entry{Realm: dev, Type: registry.Register, Generation: 1},
		registry.Record{Certificate: a.Certificate.Bytes(), Backup: accepted.Backup, X509: [][]byte{{0x30, 0}}})
	must(t, err)
	entry, err := b.entry.Encode()
	must(t, err)
	for name, content := range map[string][]byte{
		"entry": entry, "certificate": a.Certificate.Bytes(), "backup": accepted.Backup, "rom.pem": b.spp.ROMKey().PEM(), "rom.point": b.spp.ROMKey().Point(),
		"other.pem": chiptest.NewSPP(t, dev).ROMKey().PEM(), "chip.key": key, "chip.hex": []byte(hex.EncodeToString(key) + "\n"), "other.key": chiptest.Random(32),
	} {
		write(t, b.folder, name, content)
	}
	return b, a
}

func (b *bench) open(entry, chipID string, more ...string) []string {
	return append([]string{"open", entry, "--chip-id", chipID, "--rom-key", "rom.pem"}, more...)
}

func (b *bench) restore(backup, certificate, key string, more ...string) []string {
	return append([]string{"restore", backup, "--certificate", certificate, "--rom-key", "rom.pem", "--chip-key", key}, more...)
}

// TestDevice: a backup with entries of every form is restored to what was sent.
func TestDevice(t *testing.T) {
	t.Parallel()
	python(t)
	b, a := newBench(t)
	accepts(t, b.folder, b.open("entry", hexID(b.chip.ID()), "--generation", "1", "--certificate", "found.certificate", "--backup", "found.backup")...)
	accepts(t, b.folder, b.restore("found.backup", "found.certificate", "chip.hex", "--out", "values")...)
	accepts(t, b.folder, "check", "certificate", "--rom-key", "rom.point", "--backup", "backup")
	accepts(t, b.folder, "canonical", "entry", "certificate", "backup")
	for _, item := range a.Items {
		if item.Algorithm.Pair() {
			continue // held against its public key
		}
		if got := read(t, b.folder, "values", item.Name); !bytes.Equal(got, item.Value) {
			t.Errorf("value %s is another", item.Name)
		}
	}
	refuses(t, b.folder, 2, "File exists", b.restore("backup", "certificate", "chip.key", "--out", "values")...)
}

// TestSession: the session of the help page is the auditors' guide's, and works.
func TestSession(t *testing.T) {
	t.Parallel()
	python(t)
	b, _ := newBench(t)
	must(t, os.Remove(filepath.Join(b.folder, "certificate")))
	must(t, os.Remove(filepath.Join(b.folder, "backup")))
	guide := string(read(t, "..", "guide-auditor.md"))
	help := regexp.MustCompile(`\\\n\s+`).ReplaceAllString(accepts(t, b.folder, "--help"), "")
	session := regexp.MustCompile(`(?m)^  \$ (devicekeys\.py (.*))$`).FindAllStringSubmatch(help, -1)
	if len(session) != 2 {
		t.Fatalf("the help page shows %d commands\n%s", len(session), help)
	}
	for _, line := range session {
		if !strings.Contains(guide, "\n"+line[1]+"\n") {
			t.Errorf("the guide does not show %q", line[1])
		}
		accepts(t, b.folder, strings.Fields(strings.ReplaceAll(line[2], "HEX", hexID(b.chip.ID())))...)
	}
}

// TestRefused: nothing but the device's own, unchanged, is taken.
func TestRefused(t *testing.T) {
	t.Parallel()
	python(t)
	b, _ := newBench(t)
	id := hexID(b.chip.ID())
	files := 0
	changed := func(name string, change func([]byte) []byte) string {
		files++
		out := fmt.Sprintf("%s-%d", name, files)
		write(t, b.folder, out, change(read(t, b.folder, name)))
		return out
	}
	// flipped changes one bit; a negative place counts from the end.
	flipped := func(name string, at int) string {
		return changed(name, func(c []byte) []byte { c[(at+len(c))%len(c)] ^= 1; return c })
	}
	moved := func(name string, change func(*registry.Entry)) string {
		e := b.entry
		change(&e)
		raw, err := e.Encode()
		must(t, err)
		write(t, b.folder, name, raw)
		return name
	}
	elsewhere := chip16(t)
	scrap := registry.Entry{Realm: dev, Type: registry.Scrap, Record: b.chip.ID().RecordID(), Generation: 1}
	withdraw := func(name string, s statement.Signer) string {
		said, err := registry.SignStatement(t.Context(), s, scrap)
		must(t, err)
		return moved(name, func(e *registry.Entry) { *e = scrap; e.Statement = said })
	}
	cut := func(n int) func([]byte) []byte { return func(c []byte) []byte { return c[:len(c)-n] } }

	for name, c := range map[string]struct {
		message string
		args    []string
	}{
		"bit of the signature":   {"the signature does not verify", []string{"check", flipped("certificate", -1), "--rom-key", "rom.pem"}},
		"bit of the subject":     {"the signature does not verify", []string{"check", flipped("certificate", 90), "--rom-key", "rom.pem"}},
		"bit of the type":        {"its type is not", []string{"check", flipped("certificate", 30), "--rom-key", "rom.pem"}},
		"bit of the key id":      {"signed by another key", []string{"check", flipped("certificate", 10), "--rom-key", "rom.pem"}},
		"wrong ROM key":          {"signed by another key", []string{"check", "certificate", "--rom-key", "other.pem"}},
		"certificate of another": {"another chip", []string{"check", "certificate", "--rom-key", "rom.pem", "--chip-id", elsewhere}},
		"certificate with more":  {"bytes follow", []string{"check", changed("certificate", func(c []byte) []byte { return append(c, 0) }), "--rom-key", "rom.pem"}},
		"another chip's ID":      {"record id is not that of this chip", b.open("entry", elsewhere)},
		"entry under a wrong ROM key": {"signed by another key",
			[]string{"open", "entry", "--chip-id", id, "--rom-key", "other.pem"}},
		"entry cut short":         {"cut short", b.open(changed("entry", cut(200)), id)},
		"entry without its end":   {"ends at byte", b.open(changed("entry", cut(1)), id)},
		"empty entry":             {"ends at byte 0", b.open(changed("entry", func([]byte) []byte { return nil }), id)},
		"entry too long":          {"more than 65535 bytes", b.open(changed("entry", func([]byte) []byte { return make([]byte, 1<<17) }), id)},
		"entry not canonical":     {"not in its shortest form", b.open(changed("entry", func(c []byte) []byte { return append([]byte{0x98, 7}, c[1:]...) }), id)},
		"entry with a long realm": {"not in its shortest form", b.open(changed("entry", func(c []byte) []byte { return append([]byte{c[0], c[1], 0x18, 1}, c[3:]...) }), id)},
		"bit of the sealed":       {"does not decrypt", b.open(flipped("entry", -2), id)},
		"entry of another record": {"record id is not that of this chip",
			b.open(moved("record", func(e *registry.Entry) { e.Record[0] ^= 1 }), id)},
		"entry at another generation": {"does not decrypt", b.open(moved("generation", func(e *registry.Entry) { e.Generation = 2 }), id)},
		"entry of another type":       {"does not decrypt", b.open(moved("type", func(e *registry.Entry) { e.Type = registry.Supersede }), id)},
		"entry in another realm":      {"does not decrypt", b.open(moved("realm", func(e *registry.Entry) { e.Realm = identity.Production }), id)},
		"generation not asked for":    {"of generation 1, not 2", b.open("entry", id, "--generation", "2")},
		"scrapped":                    {"the maker says scrap", b.open(withdraw("scrap", b.spp), id)},
		"scrapped by another":         {"signed by another key", b.open(withdraw("false-scrap", chiptest.NewSPP(t, dev)), id)},
		"another chip's key":          {"does not decrypt", b.restore("backup", "certificate", "other.key")},
		"restored under a wrong ROM key": {"signed by another key",
			[]string{"restore", "backup", "--certificate", "certificate", "--rom-key", "other.pem", "--chip-key", "chip.key"}},
		"package code":            {"does not begin with the backup code", b.restore(changed("backup", func(c []byte) []byte { c[7] = 'D'; return c }), "certificate", "chip.key")},
		"bit of the backup":       {"does not decrypt", b.restore(flipped("backup", -1), "certificate", "chip.key")},
		"bit of the manifest":     {"not the one that the certificate names", b.restore(flipped("backup", 40), "certificate", "chip.key")},
		"backup cut short":        {"cut short", b.restore(changed("backup", cut(9)), "certificate", "chip.key")},
		"restored to another":     {"another chip", b.restore("backup", "certificate", "chip.key", "--chip-id", elsewhere)},
		"a certificate as backup": {"does not begin with the backup code", b.restore("certificate", "certificate", "chip.key")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			refuses(t, b.folder, 1, c.message, c.args...)
		})
	}
}

func chip16(t testing.TB) string {
	c, err := chip.NewSoftware(dev, 16, "")
	must(t, err)
	return hexID(c.ID())
}

// TestPackage: a package answers the hello whose private scalar is known, and
// opens for nobody else.
func TestPackage(t *testing.T) {
	t.Parallel()
	python(t)
	c, _ := newChip(t, 24)
	spp := chiptest.NewSPP(t, dev)
	d, err := ecdh.P256().GenerateKey(rand.Reader)
	must(t, err)
	point, err := statement.ParsePoint(d.PublicKey().Bytes())
	must(t, err)
	for suite, more := range map[keypackage.Suite][]string{
		keypackage.SuiteAttested:   {"--attestation-key", "attestation.pem"},
		keypackage.SuiteUnattested: nil,
	} {
		folder := t.TempDir()
		h := keypackage.Hello{Realm: dev, Suite: suite, ChipID: c.ID(), ROMKey: sha256.Sum256(spp.ROMKey().SPKI()), Point: point}
		m1, err := h.Encode()
		must(t, err)
		hello := m1
		if suite == keypackage.SuiteAttested {
			hello, err = statement.Sign(t.Context(), c.Attester(), statement.Attestation, m1)
			must(t, err)
		}
		a := spp.Assemble(t, m1, chiptest.Order{Items: chiptest.Everything(), Generation: 2})
		bare := spp.Assemble(t, m1, chiptest.Order{})
		exchanged := spp.Assemble(t, m1, chiptest.Order{Items: chiptest.Everything(), Package: func(p *keypackage.DataPackage) { p.Wrapped[0], p.Wrapped[2] = p.Wrapped[2], p.Wrapped[0] }})
		fewer := spp.Assemble(t, m1, chiptest.Order{Items: chiptest.Everything(), Package: func(p *keypackage.DataPackage) { p.Secrets = nil }})
		unlock, err := identity.SignUnlock(t.Context(), spp, identity.Unlock{Realm: dev, Record: c.ID().RecordID(), Next: 2})
		must(t, err)
		late, err := identity.SignUnlock(t.Context(), spp, identity.Unlock{Realm: dev, Record: c.ID().RecordID(), Next: 3})
		must(t, err)
		for name, content := range map[string][]byte{
			"hello": hello, "d": d.Bytes(), "other": chiptest.Random(32), "package": a.Package, "bare": bare.Package, "exchanged": exchanged.Package, "fewer": fewer.Package,
			"rom.pem": spp.ROMKey().PEM(), "attestation.pem": c.Attester().Public().PEM(), "unlock": unlock, "late": late,
		} {
			write(t, folder, name, content)
		}
		args := func(pkg, scalar string, even ...string) []string {
			return append(append([]string{"package", pkg, "--hello", "hello", "--private-d", scalar, "--rom-key", "rom.pem"}, more...), even...)
		}
		out := accepts(t, folder, args("package", "d", "--unlock", "unlock", "--floor", "1", "--out", "values")...)
		if !strings.Contains(out, "transcript: "+hex.EncodeToString(a.Transcript[:])+"\n") {
			t.Errorf("another transcript:\n%s", out)
		}
		for _, item := range a.Items {
			if got := read(t, folder, "values", item.Name); !item.Algorithm.Pair() && !bytes.Equal(got, item.Value) {
				t.Errorf("value %s is another", item.Name)
			}
		}
		accepts(t, folder, args("bare", "d")...)
		accepts(t, folder, "canonical", "package", "bare", "unlock", "hello")
		refuses(t, folder, 1, "not that of the hello", args("package", "other")...)
		refuses(t, folder, 1, "not above the floor", args("package", "d", "--floor", "2")...)
		refuses(t, folder, 1, "another chip, realm or generation", args("package", "d", "--unlock", "late")...)
		refuses(t, folder, 1, "not the one that the manifest vouches for", args("exchanged", "d")...)
		refuses(t, folder, 1, "secrets", args("fewer", "d")...)
		refuses(t, folder, 1, "code of an ordinary package", args("unlock", "d")...)
	}
}
