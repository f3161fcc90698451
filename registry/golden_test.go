package registry_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/registry"
	"github.com/devicekeys/devicekeys/registry/registrytest"
	"github.com/devicekeys/devicekeys/statement"
)

var update = flag.Bool("update", false, "write testdata/golden.json anew instead of comparing with it")

// hexBytes are bytes that the golden file spells in hexadecimal.
type hexBytes []byte

func (h hexBytes) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(h)), nil }

func (h *hexBytes) UnmarshalText(b []byte) error {
	v, err := hex.DecodeString(string(b))
	*h = v
	return err
}

// golden are the vectors of docs/formats.md for this package.
type golden struct {
	ChipID     hexBytes      `json:"chip_id"`
	RecordID   hexBytes      `json:"record_id"`
	ROMKey     hexBytes      `json:"rom_key"`
	Nonce      hexBytes      `json:"nonce"`
	Record     goldenRecord  `json:"record"`
	Register   goldenEntry   `json:"register"`
	Supersede  goldenEntry   `json:"supersede"`
	Scrap      goldenEntry   `json:"scrap"`
	Erase      goldenEntry   `json:"erase"`
	Published  goldenEntry   `json:"certificates"`
	Submission goldenSubmit  `json:"submission"`
	Batch      hexBytes      `json:"batch"`
	Refused    []goldenWrong `json:"refused"`
}

type goldenRecord struct {
	Certificate hexBytes   `json:"certificate"`
	Backup      hexBytes   `json:"backup"`
	X509        []hexBytes `json:"x509"`
	Encoded     hexBytes   `json:"encoded"`
}

type goldenEntry struct {
	Generation  identity.Generation `json:"generation"`
	SealContext hexBytes            `json:"seal_context,omitempty"`
	Sealed      hexBytes            `json:"sealed,omitempty"`
	Statement   hexBytes            `json:"statement,omitempty"`
	Entry       hexBytes            `json:"entry"`
	Leaf        hexBytes            `json:"leaf"`
	LeafHash    hexBytes            `json:"leaf_hash"`
}

type goldenSubmit struct {
	Key       hexBytes `json:"key"`
	Payload   hexBytes `json:"payload"`
	Statement hexBytes `json:"statement"`
}

type goldenWrong struct {
	Case  string   `json:"case"`
	Entry hexBytes `json:"entry"`
}

func describe(t *testing.T, e registry.Entry) goldenEntry {
	t.Helper()
	hash := e.LeafHash()
	g := goldenEntry{Generation: e.Generation, Sealed: e.Sealed, Statement: e.Statement,
		Entry: registrytest.Encode(t, e), Leaf: e.Leaf(), LeafHash: hash[:]}
	if e.Type.HasRecord() {
		g.SealContext = registry.SealContext(e)
	}
	return g
}

func makeGolden(t *testing.T) golden {
	chip, rom := registrytest.Chip(t, 1), registrytest.ROM(t)
	nonce := bytes.Repeat([]byte{0xa5}, 12)
	seal := func(kind registry.EntryType, g identity.Generation, x509 ...[]byte) registry.Entry {
		r := registrytest.Record(t, 1, g, 32)
		r.X509 = x509
		e, err := registry.Seal(bytes.NewReader(nonce), chip, registry.Entry{Realm: identity.Development, Type: kind, Generation: g}, r)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	register, supersede := seal(registry.Register, 1), seal(registry.Supersede, 2, []byte{0x30, 0x00})
	scrap, erase := registrytest.End(t, 1, 2, registry.Scrap, rom), registrytest.End(t, 1, 1, registry.Erase, rom)
	public, err := registry.PublicCertificates{Identity: "urn:gsma:imei:00440245-000001-0", X509: [][]byte{{0x30, 0x00}}}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	published := registry.Entry{Realm: identity.Development, Type: registry.Certificates, Record: chip.RecordID(), Generation: 2, Sealed: public}
	record := registrytest.Record(t, 1, 2, 32)
	record.X509 = [][]byte{{0x30, 0x00}}
	encoded, err := record.Encode()
	if err != nil {
		t.Fatal(err)
	}
	submission := registry.Submission{Realm: identity.Development, Submitter: "spp-1",
		Entries: [][]byte{registrytest.Encode(t, register), registrytest.Encode(t, scrap)}}
	payload, err := submission.Encode()
	if err != nil {
		t.Fatal(err)
	}
	key := registrytest.NewSigner(t, "submission")
	signed, err := registry.SignSubmission(t.Context(), key, submission)
	if err != nil {
		t.Fatal(err)
	}
	missing := registrytest.Chip(t, 2).RecordID()
	batch, err := registry.Batch{
		Entries: []registry.Answer{{Record: scrap.Record, Sequence: 3, Entry: registrytest.Encode(t, scrap)}},
		Missing: []identity.RecordID{missing},
	}.EncodeCBOR()
	if err != nil {
		t.Fatal(err)
	}
	id := chip.RecordID()
	return golden{
		ChipID: chip.Bytes(), RecordID: id[:], ROMKey: rom.Public().Point(), Nonce: nonce,
		Record:   goldenRecord{Certificate: record.Certificate, Backup: record.Backup, X509: []hexBytes{{0x30, 0x00}}, Encoded: encoded},
		Register: describe(t, register), Supersede: describe(t, supersede),
		Scrap: describe(t, scrap), Erase: describe(t, erase), Published: describe(t, published),
		Submission: goldenSubmit{Key: key.Public().Point(), Payload: payload, Statement: signed},
		Batch:      batch,
		Refused:    wrongEntries(t, register, scrap),
	}
}

// wrongEntries are entries that every reader must refuse.
func wrongEntries(t *testing.T, register, scrap registry.Entry) []goldenWrong {
	good := registrytest.Encode(t, register)
	end := registrytest.Encode(t, scrap)
	edit := func(b []byte, at int, to ...byte) hexBytes {
		out := bytes.Clone(b)
		copy(out[at:], to)
		return out
	}
	// 87 01 RR TT 58 20 <32> GG 58/59 …
	null := append(bytes.Clone(good[:len(good)-1]), 0xf6)
	long := append(append([]byte{0x87, 0x18, 0x01}, good[2:]...), 0x00)
	return []goldenWrong{
		{"a byte after the end", append(bytes.Clone(good), 0)},
		{"cut short", bytes.Clone(good[:len(good)-1])},
		{"version 2", edit(good, 1, 2)},
		{"version in two bytes", long[:len(long)-1]},
		{"realm 0", edit(good, 2, 0)},
		{"realm 3", edit(good, 2, 3)},
		{"type 0", edit(good, 3, 0)},
		{"type 6", edit(good, 3, 6)},
		{"a sealed record under certificates", edit(good, 3, byte(registry.Certificates))},
		{"generation 0", edit(good, 38, 0)},
		{"record id of zeros", edit(good, 6, make([]byte, 32)...)},
		{"null for the statement", null},
		{"a record under scrap", edit(good, 3, byte(registry.Scrap))},
		{"a statement under register", edit(end, 3, byte(registry.Register))},
	}
}

func TestGolden(t *testing.T) {
	t.Parallel()
	path := filepath.Join("testdata", "golden.json")
	made := makeGolden(t)
	if *update {
		b, err := json.MarshalIndent(made, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, append(b, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var want golden
	if err := json.Unmarshal(raw, &want); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, made); d != "" {
		t.Errorf("what the package makes differs from %s, which is frozen:\n%s", path, d)
	}

	// The way back, from the file alone.
	chip, err := identity.ParseChipID(want.ChipID)
	if err != nil {
		t.Fatal(err)
	}
	rom, err := statement.ParsePoint(want.ROMKey)
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range []goldenEntry{want.Register, want.Supersede} {
		e, err := registry.ParseEntry(g.Entry)
		if err != nil {
			t.Fatal(err)
		}
		r, cert, err := e.Check(chip, identity.Development, rom)
		if err != nil {
			t.Fatal(err)
		}
		if cert.Generation != g.Generation || !bytes.Equal(r.Backup, want.Record.Backup) {
			t.Errorf("the entry of generation %d opens to generation %d with a backup of %d bytes", g.Generation, cert.Generation, len(r.Backup))
		}
	}
	for _, g := range []goldenEntry{want.Scrap, want.Erase} {
		e, err := registry.ParseEntry(g.Entry)
		if err != nil {
			t.Fatal(err)
		}
		if err := e.CheckStatement(rom); err != nil {
			t.Error(err)
		}
	}
	key, err := statement.ParsePoint(want.Submission.Key)
	if err != nil {
		t.Fatal(err)
	}
	s, err := registry.ParseSubmission(want.Submission.Statement, key)
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Entries) != 2 || !bytes.Equal(s.Entries[0], want.Register.Entry) || s.Submitter != "spp-1" {
		t.Errorf("submission read back: %d entries by %q", len(s.Entries), s.Submitter)
	}
	if r, err := registry.ParseRecord(want.Record.Encoded); err != nil || len(r.X509) != 1 {
		t.Errorf("record read back: %d certificates, %v", len(r.X509), err)
	}
	for _, w := range want.Refused {
		if e, err := registry.ParseEntry(w.Entry); err == nil {
			t.Errorf("%s: accepted as a %s entry", w.Case, e.Type)
		}
	}
}
