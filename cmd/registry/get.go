package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/devicekeys/devicekeys/cmd/internal/chipidfile"
	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/registry"
	"github.com/devicekeys/devicekeys/statement"
)

type getCmd struct {
	console.Output

	URL        string `name:"url" required:"" placeholder:"URL" help:"Address of the registry or of a mirror."`
	Record     string `arg:"" optional:"" name:"record" help:"Record id, 64 hexadecimal digits; it is sent to the registry, so never give a chip ID here."`
	Generation uint32 `placeholder:"N" help:"Record of this generation (default: the newest entry)."`

	ChipIDFile console.Path `name:"chip-id-file" placeholder:"FILE" help:"File of mode 0400 with the chip ID in hexadecimal, or \"fd:3\", instead of a record id: opens the newest record and checks it."`
	ROMKey     console.Path `name:"rom-key" placeholder:"FILE" help:"With --chip-id-file: the key in the device's ROM, PEM."`
	Realm      string       `enum:"development,production," default:"" placeholder:"REALM" help:"With --chip-id-file: the device's realm, development or production."`
	Backup     console.Path `placeholder:"FILE" help:"With --chip-id-file: write the backup data package to this file, which must not exist."`
}

func (*getCmd) Examples() string {
	return `$ registry get --url https://registry.example --realm production \
    --chip-id-file chip-id --rom-key rom-key.pem --backup backup.bin`
}

func (c *getCmd) Run(ctx context.Context, io console.IO) error {
	switch {
	case (c.Record == "") == (c.ChipIDFile == ""):
		return console.Usagef("give a record id or --chip-id-file, one of the two")
	case c.ChipIDFile == "" && (c.ROMKey != "" || c.Realm != "" || c.Backup != ""):
		return console.Usagef("--rom-key, --realm and --backup belong to --chip-id-file")
	case c.ChipIDFile != "" && (c.ROMKey == "" || c.Realm == "" || c.Generation != 0):
		return console.Usagef("--chip-id-file needs --rom-key and --realm, and looks up the newest record")
	case c.ChipIDFile != "":
		return c.open(ctx, io)
	}
	return c.show(ctx, io)
}

// shown is an entry as get prints it; its field names are part of the interface.
type shown struct {
	Record     identity.RecordID   `json:"record"`
	Type       registry.EntryType  `json:"type"`
	Generation identity.Generation `json:"generation"`
	Sequence   int64               `json:"sequence"` // -1 where a mirror doesn't tell
	Newest     bool                `json:"newest"`   // the server says that none is newer
	Realm      identity.Realm      `json:"realm"`
	LeafHash   registry.Hash       `json:"leaf_hash"`
	Entry      []byte              `json:"entry"` // base64
}

func (s shown) String() string {
	t := console.NewTable(console.Columns("record", "type", "generation", "sequence", "newest", "realm", "bytes")...)
	t.Row(s.Record.Short(), s.Type, uint32(s.Generation), s.Sequence, s.Newest, s.Realm, len(s.Entry))
	return t.String()
}

// show prints an entry of which only the record id is known.
func (c *getCmd) show(ctx context.Context, io console.IO) error {
	id, err := identity.ParseRecordID(c.Record)
	if err != nil {
		return console.Usagef("%w", err)
	}
	client, err := registry.NewClient(c.URL, nil, registry.ClientOptions{})
	if err != nil {
		return console.Usagef("%w", err)
	}
	var e registry.Entry
	var served registry.Served
	if c.Generation == 0 {
		e, served, err = client.Newest(ctx, id)
	} else {
		e, served, err = client.Get(ctx, id, identity.Generation(c.Generation))
	}
	if err != nil {
		return err
	}
	encoded, err := e.Encode()
	if err != nil {
		return err
	}
	return c.Print(io.Out, shown{id, e.Type, e.Generation, served.Sequence, served.Newest, e.Realm, e.LeafHash(), encoded})
}

// opened is a record as get prints it; its field names are part of the interface. The chip ID is not among them.
type opened struct {
	Record      identity.RecordID   `json:"record"`
	Identity    string              `json:"identity"`
	URN         string              `json:"urn"`
	Generation  identity.Generation `json:"generation"`
	Realm       identity.Realm      `json:"realm"`
	IssuedAt    time.Time           `json:"issued_at"`
	Manifest    registry.Hash       `json:"manifest_sha256"`
	ROMKey      string              `json:"signed_by"`
	Certificate []byte              `json:"certificate"` // base64
	Backup      []byte              `json:"backup"`      // base64
	X509        [][]byte            `json:"x509"`        // base64, DER
	BackupFile  string              `json:"backup_file"` // written by this run
}

func (o opened) String() string {
	t := console.NewTable(console.Columns("what", "value")...)
	t.Row("record", o.Record)
	t.Row("identity", o.Identity)
	t.Row("generation", o.Generation)
	t.Row("realm", o.Realm)
	t.Row("issued at", o.IssuedAt)
	t.Row("manifest", o.Manifest)
	t.Row("signed by", o.ROMKey)
	t.Row("backup", fmt.Sprintf("%d bytes", len(o.Backup)))
	if o.BackupFile != "" {
		t.Row("written to", o.BackupFile)
	}
	t.Row("X.509", fmt.Sprintf("%d certificates", len(o.X509)))
	return t.String()
}

// open looks up, opens and checks the record of a chip.
func (c *getCmd) open(ctx context.Context, io console.IO) error {
	realm, err := identity.ParseRealm(c.Realm)
	if err != nil {
		return err
	}
	chip, err := chipidfile.Read(c.ChipIDFile.String())
	if err != nil {
		return err
	}
	pem, err := os.ReadFile(c.ROMKey.String())
	if err != nil {
		return fmt.Errorf("read ROM key: %w", err)
	}
	rom, err := statement.ParsePEM(pem)
	if err != nil {
		return fmt.Errorf("read ROM key %q: %w", c.ROMKey, err)
	}
	client, err := registry.NewClient(c.URL, nil, registry.ClientOptions{Realm: realm})
	if err != nil {
		return console.Usagef("%w", err)
	}
	r, cert, err := client.Lookup(ctx, chip, rom)
	if errors.Is(err, statement.ErrForm) || errors.Is(err, statement.ErrSignature) {
		return console.Hint(err, "check that --rom-key is the key in this device's ROM; if it is, ask another mirror")
	}
	if err != nil {
		return err
	}
	out := opened{
		Record: chip.RecordID(), Identity: cert.Subject.Type().String() + " " + cert.Subject.String(), URN: cert.Subject.URN(),
		Generation: cert.Generation, Realm: cert.Realm, IssuedAt: time.Unix(int64(cert.IssuedAt), 0).UTC(),
		Manifest: cert.Manifest, ROMKey: rom.String(), Certificate: r.Certificate, Backup: r.Backup, X509: r.X509,
	}
	if out.X509 == nil {
		out.X509 = [][]byte{}
	}
	if c.Backup != "" {
		if err := create(c.Backup.String(), r.Backup); err != nil {
			return fmt.Errorf("write backup: %w", err)
		}
		out.BackupFile = c.Backup.String()
	}
	return c.Print(io.Out, out)
}

// create writes a new file. A crash leaves a part of it, which the next run reports as existing.
func create(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	if _, err := f.Write(content); err != nil {
		return errors.Join(err, f.Close())
	}
	return f.Close()
}
