package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/cmd/internal/signingkey"
	"github.com/devicekeys/devicekeys/devicecert"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/message"
	"github.com/devicekeys/devicekeys/statement"
)

type sendtoCmd struct {
	console.Output
	source

	Realm       string       `required:"" enum:"development,production" placeholder:"REALM" help:"The device's realm, development or production."`
	CA          console.Path `name:"ca" required:"" placeholder:"FILE" help:"Certificates of the maker's device CAs, PEM, one or several."`
	ContentType string       `name:"content-type" default:"application/octet-stream" placeholder:"TYPE" help:"What the content is (default application/octet-stream)."`
	SignKey     console.Path `name:"sign-key" placeholder:"FILE" help:"Sign with this key: P-256, PKCS #8 in PEM, a file that only its owner may read. The device must know its public half. Left out: nobody signs."`
	In          console.Path `placeholder:"FILE" help:"The content, at most 63 KiB (default: standard input)."`
	Out         console.Path `name:"out" required:"" placeholder:"FILE" help:"Write the message to this file, which must not exist."`
}

func (*sendtoCmd) Examples() string {
	return `$ message sendto --realm production --ca device-ca.pem --registry https://registry.example \
    --chip-id-file chip-id --rom-key rom-key.pem --in letter.txt --out letter.msg
$ openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out key.pem
$ message sendto --realm production --ca device-ca.pem --certificate device.pem --sign-key key.pem \
    --in order.json --content-type application/json --out order.msg`
}

// sent is what sendto says it made; its field names are part of the interface.
type sent struct {
	ID          message.ID    `json:"message_id"`
	Record      string        `json:"record"` // empty: a certificate made in advance, from a file
	KeyID       message.KeyID `json:"recipient_key"`
	Certificate string        `json:"certificate_sha256"`
	ContentType string        `json:"content_type"`
	SignedBy    string        `json:"signed_by"` // key id; empty: nobody
	Bytes       int           `json:"bytes"`
	File        string        `json:"file"`
}

func (s sent) String() string {
	t := newPairs()
	t.Row("message id", s.ID)
	if s.Record != "" {
		t.Row("record", s.Record)
	}
	t.Row("recipient key", s.KeyID)
	t.Row("certificate", s.Certificate)
	t.Row("content type", s.ContentType)
	if s.SignedBy == "" {
		t.Row("signed by", "nobody")
	} else {
		t.Row("signed by", "key "+s.SignedBy)
	}
	t.Row("bytes", s.Bytes)
	t.Row("file", s.File)
	return t.String()
}

// newPairs makes a table of names and values.
func newPairs() *console.Table { return console.NewTable(console.Columns("what", "value")...) }

func (c *sendtoCmd) Run(ctx context.Context, io console.IO) error {
	realm, err := identity.ParseRealm(c.Realm)
	if err != nil {
		return console.Usagef("%w", err)
	}
	if err := message.CheckContentType(c.ContentType); err != nil {
		return console.Usagef("%w", err)
	}
	text, err := readFile(c.CA.String(), maxFile)
	if err != nil {
		return fmt.Errorf("read device CAs: %w", err)
	}
	roots, err := devicecert.ParseRoots(realm, text)
	if err != nil {
		return fmt.Errorf("%q: %w", c.CA, err)
	}
	var sender statement.Signer // nil: nobody
	signedBy := ""
	if c.SignKey != "" {
		key, err := signingkey.Read(c.SignKey.String())
		if err != nil {
			return err
		}
		sender, signedBy = key, key.Public().ID().String()
	}
	// Before the network is asked: a missing file is found at once.
	body, err := c.body(io.In)
	if err != nil {
		return err
	}
	to, record, err := c.recipient(ctx, realm, roots)
	if err != nil {
		return err
	}
	id, err := message.NewID()
	if err != nil {
		return err
	}
	raw, err := message.Seal(ctx, to, message.Message{ID: id, ContentType: c.ContentType, Body: body}, sender)
	if err != nil {
		return err
	}
	if err := create(c.Out.String(), raw); err != nil {
		return err
	}
	out := sent{ID: id, KeyID: message.KeyIDOf(to.Public), Certificate: fmt.Sprintf("%x", to.Hash()), ContentType: c.ContentType,
		SignedBy: signedBy, Bytes: len(raw), File: c.Out.String()}
	if record != nil {
		out.Record = record.String()
	}
	return c.Print(io.Out, out)
}

// body reads the content, as far as a message can hold it.
func (c *sendtoCmd) body(in io.Reader) ([]byte, error) {
	name := "standard input"
	if c.In != "" {
		f, err := os.Open(c.In.String())
		if err != nil {
			return nil, fmt.Errorf("read the content: %w", err)
		}
		defer f.Close()
		in, name = f, fmt.Sprintf("%q", c.In)
	}
	body, err := io.ReadAll(io.LimitReader(in, message.MaxBody+1))
	if err != nil {
		return nil, fmt.Errorf("read the content from %s: %w", name, err)
	}
	if len(body) > message.MaxBody {
		return nil, console.Hint(fmt.Errorf("the content in %s is longer than %d bytes", name, message.MaxBody),
			"send the address of a file and its SHA-256 instead")
	}
	return body, nil
}
