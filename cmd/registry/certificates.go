package main

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/devicecert"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/registry"
)

type certificatesCmd struct {
	console.Output

	URL      string       `name:"url" required:"" placeholder:"URL" help:"Address of the registry or of a mirror."`
	Record   string       `arg:"" optional:"" name:"record" help:"Record id, 64 hexadecimal digits."`
	Identity string       `placeholder:"IDENTITY" help:"Instead of a record id: the device's identity, an IMEI or a URN, where its product line stands in the directory."`
	Realm    string       `required:"" enum:"development,production" placeholder:"REALM" help:"The device's realm, development or production."`
	CA       console.Path `name:"ca" required:"" placeholder:"FILE" help:"Certificates of the maker's device CAs, PEM, one or several: what they did not sign is refused."`
	Out      console.Path `placeholder:"FILE" help:"Write the certificates to this file, PEM, which must not exist."`
}

func (*certificatesCmd) Examples() string {
	return `$ registry certificates --url https://registry.example --realm production --ca device-ca.pem \
    --identity urn:gsma:imei:00440245-000001-0 --out device.pem`
}

// maxCAs bounds the file of device CAs, in bytes.
const maxCAs = 256 << 10

// published is what the certificates command prints; its field names are part of the interface.
type published struct {
	Record       identity.RecordID      `json:"record"`
	Identity     string                 `json:"identity"` // as the registry says it; empty: the device is not in the directory
	Certificates []publishedCertificate `json:"certificates"`
	File         string                 `json:"file"` // written by this run
}

type publishedCertificate struct {
	Key         string    `json:"key"`      // SHA-256 of the SubjectPublicKeyInfo
	Use         string    `json:"use"`      // what the key is for
	Record      string    `json:"record"`   // that it names; empty: it was made in advance
	Identity    string    `json:"identity"` // that it names
	ProductLine string    `json:"product_line"`
	IssuedAt    time.Time `json:"issued_at"`
	DER         []byte    `json:"der"` // base64
}

func (p published) String() string {
	t := console.NewTable(console.Columns("key", "use", "names record", "names identity", "product line", "issued at", "bytes")...)
	for _, c := range p.Certificates {
		record := "none, made in advance"
		if c.Record != "" {
			record = p.Record.Short()
		}
		t.Row(c.Key[:12], c.Use, record, c.Identity, c.ProductLine, c.IssuedAt, len(c.DER))
	}
	return t.String()
}

func (c *certificatesCmd) Run(ctx context.Context, io console.IO) error {
	if (c.Record == "") == (c.Identity == "") {
		return console.Usagef("give a record id or --identity, one of the two")
	}
	realm, err := identity.ParseRealm(c.Realm)
	if err != nil {
		return console.Usagef("%w", err)
	}
	roots, err := readRoots(c.CA.String(), realm)
	if err != nil {
		return err
	}
	client, err := registry.NewClient(c.URL, nil, registry.ClientOptions{Realm: realm})
	if err != nil {
		return console.Usagef("%w", err)
	}
	out, content, err := c.lookUp(ctx, client)
	if errors.Is(err, registry.ErrNotFound) {
		return console.Hint(err, "ask the maker whether the product line publishes certificates, and whether this registry has a directory")
	}
	if err != nil {
		return err
	}
	var text bytes.Buffer
	for i, der := range content {
		one, err := out.check(der, roots)
		if err != nil {
			return fmt.Errorf("record %s, X.509 certificate %d of %d: %w", out.Record.Short(), i+1, len(content), err)
		}
		out.Certificates = append(out.Certificates, one)
		if err := pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: der}); err != nil {
			return err
		}
	}
	if c.Out != "" {
		if err := create(c.Out.String(), text.Bytes()); err != nil {
			return fmt.Errorf("write certificates: %w", err)
		}
		out.File = c.Out.String()
	}
	return c.Print(io.Out, out)
}

func (c *certificatesCmd) lookUp(ctx context.Context, client *registry.Client) (out published, content [][]byte, err error) {
	var p registry.PublicCertificates
	if c.Record != "" {
		if out.Record, err = identity.ParseRecordID(c.Record); err != nil {
			return out, nil, console.Usagef("%w", err)
		}
		p, _, err = client.Certificates(ctx, out.Record)
	} else {
		id, e := identity.ParseText(c.Identity)
		if e != nil {
			return out, nil, console.Usagef("%w", e)
		}
		p, out.Record, err = client.Directory(ctx, id)
	}
	out.Identity = p.Identity
	return out, p.X509, err
}

// check says whether a certificate is the device CA's and of this record. Of one that names no record or identity
// only the registry says whose it is.
func (p published) check(der []byte, roots *devicecert.Roots) (publishedCertificate, error) {
	c, err := devicecert.Check(der, roots, devicecert.Want{At: time.Now()})
	if errors.Is(err, devicecert.ErrIssuer) {
		err = console.Hint(err, "check that --ca names the maker's device CAs, the one that was in use when the device was made among them")
	}
	if err != nil {
		return publishedCertificate{}, err
	}
	if c.Record != nil && *c.Record != p.Record {
		return publishedCertificate{}, fmt.Errorf("it is of record %s", c.Record.Short())
	}
	out := publishedCertificate{Key: fmt.Sprintf("%x", c.KeyHash), Use: c.Use.String(), ProductLine: c.ProductLine, IssuedAt: c.IssuedAt, DER: der}
	if c.Record != nil {
		out.Record = c.Record.String()
	}
	if c.Identity != nil {
		out.Identity = c.Identity.URN()
		if p.Identity != "" && p.Identity != out.Identity {
			return publishedCertificate{}, fmt.Errorf("it names %s, and the registry %.64q", out.Identity, p.Identity)
		}
	}
	return out, nil
}

func readRoots(path string, realm identity.Realm) (*devicecert.Roots, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read device CAs: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxCAs+1))
	if err != nil {
		return nil, fmt.Errorf("read device CAs: %w", err)
	}
	if len(text) > maxCAs {
		return nil, fmt.Errorf("read device CAs: %q is longer than %d bytes", path, maxCAs)
	}
	roots, err := devicecert.ParseRoots(realm, text)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", path, err)
	}
	return roots, nil
}
