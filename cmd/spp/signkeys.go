package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/cmd/internal/signingkey"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
)

type poolSignKeysCmd struct {
	console.Output
	File  string       `arg:"" type:"existingfile" help:"The file of keys, complete: a byte that changes later makes the signature worthless."`
	Realm string       `required:"" enum:"development,production" placeholder:"REALM" help:"The realm that the keys are for, development or production."`
	Line  string       `required:"" placeholder:"LINE" help:"The product line that the keys are for."`
	Key   console.Path `required:"" placeholder:"FILE" help:"Your private key, PEM, P-256, readable by you alone; the maker has its public half from you."`
	Out   console.Path `required:"" placeholder:"FILE" help:"Write the signature to this file, which must not exist."`
}

func (*poolSignKeysCmd) Help() string {
	return `For whoever sends keys to the maker: signs a file of keys for one product line, so that pool import-keys takes it. It needs no configuration, no HSM and no database.`
}

func (*poolSignKeysCmd) Examples() string {
	return `
$ openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out key.pem
$ openssl pkey -in key.pem -pubout -out licensor.pem
$ spp pool sign-keys --realm production --line tv --key key.pem --out keys.csv.sig keys.csv`
}

// keysSigned is what pool sign-keys says; its field names are part of the interface.
type keysSigned struct {
	File   string `json:"file"`
	SHA256 string `json:"sha256"`
	Line   string `json:"line"`
	Key    string `json:"key"` // key id
	Out    string `json:"signature"`
}

func (c *poolSignKeysCmd) Run(ctx context.Context, out console.IO) error {
	realm, err := identity.ParseRealm(c.Realm)
	if err != nil {
		return console.Usagef("%w", err)
	}
	key, err := signingkey.Read(c.Key.String())
	if err != nil {
		return err
	}
	hash, err := hashFile(c.File)
	if err != nil {
		return err
	}
	raw, err := keypackage.SignKeyFile(ctx, key, keypackage.KeyFile{Realm: realm, Line: c.Line, Hash: hash})
	if err != nil {
		return err
	}
	if err := writeNew(c.Out.String(), raw); err != nil {
		return err
	}
	return c.Print(out.Out, keysSigned{c.File, fmt.Sprintf("%x", hash), c.Line, key.Public().ID().String(), c.Out.String()})
}

// hashFile hashes a file of keys of any length that is read.
func hashFile(path string) (hash [sha256.Size]byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return hash, err
	}
	defer f.Close() // opened for reading: nothing to lose
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return hash, fmt.Errorf("read %q: %w", path, err)
	}
	return [sha256.Size]byte(sum.Sum(nil)), nil
}

// writeNew writes a file that must not exist. A crash leaves a part of it, which import-keys refuses.
func writeNew(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fmt.Errorf("write the signature: %w", err)
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write the signature: %w", err)
	}
	return nil
}
