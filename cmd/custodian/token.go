package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/cmd/internal/tokenconfig"
	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/hsm/maker"
	"github.com/devicekeys/devicekeys/hsm/servicekeys"
	"github.com/devicekeys/devicekeys/hsm/transport"
	"github.com/devicekeys/devicekeys/identity"
)

type tokenCmd struct {
	console.Output

	For           string       `required:"" enum:"sequencer,station,spp,deviceservice" placeholder:"PROGRAM" help:"Whose token: sequencer, station, spp or deviceservice. For spp the token of setup gets its TLS key."`
	Name          string       `required:"" placeholder:"NAME" help:"The program's name in its certificate, e.g. sequencer-1 or line-1."`
	Realm         string       `enum:"development,production" default:"development" placeholder:"REALM" help:"development (default) or production. In production the token exists already."`
	Token         string       `required:"" placeholder:"LABEL" help:"The token's label; it begins with the realm's prefix, dev- or prod-."`
	PINFile       console.Path `name:"pin-file" required:"" placeholder:"FILE" help:"The user PIN, a file of mode 0400; made with a random PIN where the token doesn't exist yet."`
	SOPINFile     console.Path `name:"so-pin-file" placeholder:"FILE" help:"The security officer's PIN, likewise (default: the PIN file's name with -so)."`
	Module        console.Path `placeholder:"FILE" help:"PKCS#11 module (default in development: SoftHSM's)."`
	LockFile      console.Path `name:"lock-file" placeholder:"FILE" help:"Lock of the token directory, the same one as in the program's configuration."`
	Request       console.Path `required:"" placeholder:"FILE" help:"Where to write the certificate request, PEM, for custodian certify."`
	CheckpointKey console.Path `name:"checkpoint-key" placeholder:"FILE" help:"Where to write the public half of the sequencer's checkpoint key, PEM."`
	TransportKey  console.Path `name:"transport-key" placeholder:"FILE" help:"Where to write the public half of the device service's transport key, PEM, for custodian purpose export."`
}

func (*tokenCmd) Examples() string {
	return `$ custodian token --for station --name line-1 --token dev-line-1 \
    --pin-file pins/line-1.pin --request line-1.csr`
}

// tokenResult is what token says it did; its field names are part of the interface.
type tokenResult struct {
	Token     string       `json:"token"`
	Serial    string       `json:"serial"`
	MadeToken bool         `json:"made_token"`
	Keys      []maker.Item `json:"keys"`
	Files     madeFiles    `json:"files"` // made by this run
}

func (r tokenResult) String() string {
	token := "found"
	if r.MadeToken {
		token = "made"
	}
	t := console.NewTable(console.Columns("what", "result")...)
	t.Row("token", fmt.Sprintf("%s %s (serial number %s)", token, r.Token, r.Serial))
	for _, k := range r.Keys {
		t.Row("key", k.Label+", "+k.Kind)
	}
	for _, f := range r.Files {
		t.Row("wrote", f)
	}
	return t.String()
}

func (c *tokenCmd) Run(ctx context.Context, io console.IO) (err error) {
	realm, err := identity.ParseRealm(c.Realm)
	if err != nil {
		return err
	}
	if (c.CheckpointKey != "") != (c.For == "sequencer") {
		return console.Usagef("--checkpoint-key belongs to --for=sequencer, which needs it")
	}
	if (c.TransportKey != "") != (c.For == "deviceservice") {
		return console.Usagef("--transport-key belongs to --for=deviceservice, which needs it")
	}
	if c.SOPINFile == "" {
		c.SOPINFile = c.PINFile + "-so"
	}
	config := tokenconfig.Config{Module: c.Module, Token: c.Token, PINFile: c.PINFile, LockFile: c.LockFile, Sessions: 1}
	result := tokenResult{Files: madeFiles{}}
	if c.For != "spp" { // whose token, with an entry in the audit log, is made by setup
		if result.MadeToken, err = ensureToken(ctx, realm, config, c.SOPINFile.String(), func() error { return nil }); err != nil {
			return err
		}
	}
	module, tok, err := tokenconfig.Open(ctx, realm, config, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, module.Close()) }()
	result.Token, result.Serial = tok.Info().Label, tok.Info().Serial
	// What a crash left half written holds no key. A token whose keys were unwrapped is not swept: SoftHSM gives them
	// no check value, by which a whole key is told from half of one; there a find names the half.
	if c.For != "deviceservice" {
		if _, err := tok.Sweep(ctx); err != nil {
			return err
		}
	}
	if err := c.make(ctx, tok, realm, &result); err != nil {
		return err
	}
	return c.Print(io.Out, result)
}

func (c *tokenCmd) make(ctx context.Context, tok *hsm.Token, realm identity.Realm, result *tokenResult) error {
	note := func(s hsm.Spec) error {
		item, err := maker.Inspect(ctx, tok, s)
		result.Keys = append(result.Keys, item)
		return err
	}
	spec := hsm.Spec{Kind: hsm.TLSKey, Label: tokenconfig.TLSKeyLabel(realm, c.For), Token: true}
	if _, err := ensureKey(ctx, tok, spec); err != nil {
		return err
	}
	if err := errors.Join(note(spec), c.request(tok, spec.Label, result)); err != nil {
		return err
	}
	switch c.For {
	case "deviceservice":
		return c.transport(ctx, tok, realm, result, note)
	case "sequencer":
		return c.checkpoint(ctx, tok, realm, result, note)
	}
	return nil
}

// transport makes the key that purpose keys are wrapped to.
func (c *tokenCmd) transport(ctx context.Context, tok *hsm.Token, realm identity.Realm, result *tokenResult, note func(hsm.Spec) error) error {
	public, err := servicekeys.Create(ctx, tok, realm)
	if err != nil {
		return err
	}
	made, err := publish(c.TransportKey.String(), public.PEM())
	if err != nil {
		return err
	}
	result.Files.note(made, c.TransportKey.String())
	return note(transport.Spec(realm))
}

// checkpoint makes the key that the sequencer signs checkpoints with.
func (c *tokenCmd) checkpoint(ctx context.Context, tok *hsm.Token, realm identity.Realm, result *tokenResult, note func(hsm.Spec) error) error {
	spec := hsm.Spec{Kind: hsm.CheckpointKey, Label: realm.Prefix() + "checkpoint", Token: true}
	key, err := ensureKey(ctx, tok, spec)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKIXPublicKey(ed25519.PublicKey(key.Public()))
	if err != nil {
		return fmt.Errorf("encode the public half of %q: %w", spec.Label, err)
	}
	made, err := publish(c.CheckpointKey.String(), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	if err != nil {
		return err
	}
	result.Files.note(made, c.CheckpointKey.String())
	return note(spec)
}

// request writes the certificate request, or keeps the one there if it is of this key. What the certificate will say
// is certify's to decide: of the request it takes the key only.
func (c *tokenCmd) request(tok *hsm.Token, label string, result *tokenResult) error {
	signer, err := tok.Signer(label)
	if err != nil {
		return err
	}
	old, err := readRequest(c.Request.String())
	switch {
	case err == nil && !samePublic(old.PublicKey, signer.Public()):
		return console.Hint(fmt.Errorf("%q is a request for another key", c.Request), "move it away, or name another file; nothing is overwritten")
	case err == nil:
		return nil
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: c.Name}}, signer)
	if err != nil {
		return fmt.Errorf("make a certificate request with %q: %w", label, err)
	}
	result.Files = append(result.Files, c.Request.String())
	return createFile(c.Request.String(), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

// readRequest reads a certificate request and checks that it is signed by its key.
func readRequest(path string) (*x509.CertificateRequest, error) {
	text, err := readFile(path)
	if err != nil {
		return nil, err
	}
	r, err := parseRequest(text)
	if err != nil {
		return nil, fmt.Errorf("read certificate request %q: %w", path, err)
	}
	return r, nil
}

// parseRequest reads a certificate request in PEM (RFC 7468 §7), alone, and checks that it is signed by its key.
func parseRequest(text []byte) (*x509.CertificateRequest, error) {
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE REQUEST" || len(rest) != 0 {
		return nil, errors.New("one PEM block CERTIFICATE REQUEST is expected")
	}
	r, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, err
	}
	if err := r.CheckSignature(); err != nil {
		return nil, err
	}
	return r, nil
}
