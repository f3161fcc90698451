package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/cmd/internal/tokenconfig"
	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/hsm/maker"
	"github.com/devicekeys/devicekeys/hsm/servicekeys"
	"github.com/devicekeys/devicekeys/hsm/transport"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/statement"
)

// purposeCmd brings a purpose key from the SPP's token into the device service's. It travels wrapped to a key that
// never leaves the service's token; the check value goes another way, from one person to another.
type purposeCmd struct {
	Export purposeExportCmd `cmd:"" help:"Wrap a purpose key to the device service's transport key, and show its check value."`
	Import purposeImportCmd `cmd:"" help:"Unwrap a purpose key into the device service's token."`
}

// purposeResult is what both say they did; its field names are part of the interface.
type purposeResult struct {
	Token   string `json:"token"`
	Purpose string `json:"purpose"`
	Version uint32 `json:"master_version"`
	KDF     uint8  `json:"kdf"`
	Check   string `json:"check"` // 16 bytes in hexadecimal
	To      string `json:"to,omitempty"`
	File    string `json:"file"`
}

func (r purposeResult) String() string {
	t := console.NewTable(console.Columns("what", "result")...)
	t.Row("token", r.Token)
	t.Row("purpose key", fmt.Sprintf("%s, of master version %d, KDF %d", r.Purpose, r.Version, r.KDF))
	t.Row("check value", r.Check)
	if r.To != "" {
		t.Row("for transport key", r.To)
		t.Row("wrote", r.File)
	} else {
		t.Row("read", r.File)
	}
	return t.String()
}

type purposeExportCmd struct {
	console.ConfigFile
	console.Output

	Purpose string       `default:"channel" placeholder:"NAME" help:"Which purpose key (default: channel)."`
	Master  uint32       `default:"1" placeholder:"N" help:"Of which version of the master key (default: 1)."`
	To      console.Path `required:"" placeholder:"FILE" help:"The service's transport key, PEM, as custodian token --for deviceservice wrote it. Compare its key id with the service's custodian first."`
	Out     console.Path `required:"" placeholder:"FILE" help:"Where to write the wrapped key. Nobody but the service's token can use it."`
}

func (*purposeExportCmd) Examples() string {
	return `$ custodian purpose export --config custodian.yaml --to transport.pem --out channel.purpose`
}

// Run derives the key anew, outside no token. A crash leaves an entry in the audit log, and at most a stray file.
func (c *purposeExportCmd) Run(ctx context.Context, io console.IO) (err error) {
	var config Config
	if err := console.LoadConfig(c.Config.String(), &config); err != nil {
		return err
	}
	text, err := readFile(c.To.String())
	if err != nil {
		return err
	}
	to, err := statement.ParsePEM(text)
	if err != nil {
		return fmt.Errorf("read transport key %q: %w", c.To, err)
	}
	if _, err := os.Lstat(c.Out.String()); !errors.Is(err, fs.ErrNotExist) {
		return console.Hint(errors.Join(fmt.Errorf("write %q: something is there", c.Out), err), "move it away, or name another file; nothing is overwritten")
	}
	l, err := openLicence(ctx, config, io.Log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	ring, err := openKeyRing(ctx, config)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ring.close()) }()
	tok, keys := ring.tok, ring.keys
	act := maker.Act{
		Key:  fmt.Sprintf("%smaster-%d", config.Realm.Prefix(), c.Master),
		What: fmt.Sprintf("export purpose key %s to transport key %s", maker.PurposeLabel(config.Realm, c.Purpose, c.Master), to.ID()),
	}
	if err := l.ceremony(ctx, act); err != nil {
		return err
	}
	blob, check, err := maker.ExportPurpose(ctx, tok, config.Realm, c.Purpose, c.Master, to)
	if err != nil {
		return err
	}
	p, err := exported(config.Realm, blob)
	if err != nil {
		return err
	}
	if err := createFile(c.Out.String(), blob); err != nil {
		return err
	}
	if _, err := l.log.SignHead(ctx, keys.SignAuditHead); err != nil {
		return err
	}
	return c.Print(io.Out, purposeResult{tok.Info().Label, p.Name, p.Version, uint8(p.KDF), check, to.ID().String(), c.Out.String()})
}

type purposeImportCmd struct {
	console.Output

	Realm    string       `enum:"development,production" default:"development" placeholder:"REALM" help:"development (default) or production."`
	Token    string       `required:"" placeholder:"LABEL" help:"The service's token; custodian token --for deviceservice made it."`
	PINFile  console.Path `name:"pin-file" required:"" placeholder:"FILE" help:"Its user PIN, a file of mode 0400."`
	Module   console.Path `placeholder:"FILE" help:"PKCS#11 module (default in development: SoftHSM's)."`
	LockFile console.Path `name:"lock-file" placeholder:"FILE" help:"Lock of the token directory, the same one as in the program's configuration."`
	In       console.Path `required:"" placeholder:"FILE" help:"The wrapped key, as export wrote it."`
	Check    string       `required:"" placeholder:"HEX" help:"The check value that export showed, heard from who ran it: anybody could send a key of theirs."`
}

func (*purposeImportCmd) Examples() string {
	return `$ custodian purpose import --token dev-service --pin-file pins/service.pin \
    --in channel.purpose --check 0123456789abcdef0123456789abcdef`
}

// Run repeats what a crash broke off; the same key again does nothing.
func (c *purposeImportCmd) Run(ctx context.Context, io console.IO) (err error) {
	realm, err := identity.ParseRealm(c.Realm)
	if err != nil {
		return err
	}
	blob, err := readFile(c.In.String())
	if err != nil {
		return err
	}
	if _, err := exported(realm, blob); err != nil {
		return fmt.Errorf("read %q: %w", c.In, err)
	}
	config := tokenconfig.Config{Module: c.Module, Token: c.Token, PINFile: c.PINFile, LockFile: c.LockFile, Sessions: 1}
	module, tok, err := tokenconfig.Open(ctx, realm, config, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, module.Close()) }()
	p, err := servicekeys.Import(ctx, tok, realm, blob, c.Check)
	switch {
	case errors.Is(err, servicekeys.ErrCheck):
		return console.Hint(err, "nothing was imported: ask who ran custodian purpose export for the check value, and for the file again")
	case errors.Is(err, hsm.ErrNoKey):
		return console.Hint(err, "make the token's transport key with custodian token --for deviceservice")
	case err != nil:
		return err
	}
	return c.Print(io.Out, purposeResult{Token: tok.Info().Label, Purpose: p.Name, Version: p.Version, KDF: uint8(p.KDF), Check: c.Check, File: c.In.String()})
}

// exported says which purpose key a file holds.
func exported(realm identity.Realm, blob []byte) (maker.Purpose, error) {
	label, err := transport.ReadLabel(blob)
	if err != nil {
		return maker.Purpose{}, err
	}
	return maker.ParseTransportLabel(realm, label)
}
