package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"time"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/cmd/internal/tokenconfig"
	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/provisioning/grant"
)

type certifyCmd struct {
	console.ConfigFile
	console.Output

	Kind    string       `required:"" enum:"station,server,client" placeholder:"KIND" help:"station (with a grant), server or client (a program)."`
	Name    string       `required:"" placeholder:"NAME" help:"Its name, e.g. line-1 or spp-1: lower-case letters, digits, hyphens."`
	Request console.Path `required:"" placeholder:"FILE" help:"The certificate request; of it only the key is taken."`
	Out     console.Path `required:"" placeholder:"FILE" help:"Where to write the certificate. A fitting one there is kept, another one refused."`
	Days    int          `default:"365" placeholder:"DAYS" help:"Days it is valid, 1 to 1095 (default 365)."`

	Line  string   `placeholder:"LINE" help:"Station: its product line."`
	TAC   []string `placeholder:"RANGE" help:"Station: type allocation codes whose IMEIs it may be given, \"00440200-00440299\"; repeated, or \"any\"."`
	Quota int64    `placeholder:"N" help:"Station: devices it may begin while the certificate is valid."`

	Role string   `placeholder:"ROLE" help:"Server, client: spp, sequencer or auditor."`
	DNS  []string `name:"dns" placeholder:"HOST" help:"Server: a name under which it is reached; repeated."`
	IP   []net.IP `name:"ip" placeholder:"ADDRESS" help:"Server: an address under which it is reached; repeated."`
}

func (*certifyCmd) Examples() string {
	return `$ custodian certify --config custodian.yaml --kind station --name line-1 --line phone \
    --tac 00440200-00440299 --quota 100000 --request line-1.csr --out line-1.pem
$ custodian certify --config custodian.yaml --kind server --role spp --name spp-1 \
    --dns spp.plant.example --request spp.csr --out spp.pem`
}

// maxDays bounds a certificate's life: a station or server that isn't looked at for three years should stop.
const maxDays = 1095

// certifyResult is what certify says it did; its field names are part of the interface.
type certifyResult struct {
	Certificate string    `json:"certificate"`
	Made        bool      `json:"made"`
	Serial      string    `json:"serial"`
	Subject     string    `json:"subject"` // its URI
	NotAfter    time.Time `json:"not_after"`
}

func (c *certifyCmd) Run(ctx context.Context, io console.IO) (err error) {
	var config Config
	if err := console.LoadConfig(c.Config.String(), &config); err != nil {
		return err
	}
	template, err := c.template(config.Realm)
	if err != nil {
		return err
	}
	request, err := readRequest(c.Request.String())
	if err != nil {
		return console.Hint(err, "custodian token writes the request")
	}
	if k, ok := request.PublicKey.(*ecdsa.PublicKey); !ok || k.Curve != elliptic.P256() {
		return console.Usagef("certificate request %q is for a key that is not of P-256", c.Request)
	}
	kept, err := c.keep(config, template, request)
	if err != nil || kept != nil {
		if err != nil {
			return err
		}
		return c.Print(io.Out, certified(c.Out, kept, false))
	}
	l, err := openLicence(ctx, config, io.Log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	module, tok, err := tokenconfig.Open(ctx, config.Realm, config.Token, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, module.Close()) }()
	cert, err := c.sign(ctx, tok, config, l, template, request)
	if err != nil {
		return err
	}
	return c.Print(io.Out, certified(c.Out, cert, true))
}

func certified(path console.Path, cert *x509.Certificate, made bool) certifyResult {
	return certifyResult{path.String(), made, fmt.Sprintf("%x", cert.SerialNumber), cert.URIs[0].String(), cert.NotAfter.UTC()}
}

// template is what the certificate will say, from the options alone.
func (c *certifyCmd) template(realm identity.Realm) (*x509.Certificate, error) {
	if c.Days < 1 || c.Days > maxDays {
		return nil, console.Usagef("--days is %d: 1 to %d are allowed", c.Days, maxDays)
	}
	t := &x509.Certificate{
		Subject:  pkix.Name{CommonName: c.Name},
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if c.Kind != "server" && len(c.DNS)+len(c.IP) > 0 {
		return nil, console.Usagef("--dns and --ip belong to --kind=server")
	}
	if c.Kind == "station" {
		g, err := c.grant(realm)
		t.URIs = []*url.URL{g.URI()}
		return t, err
	}
	if c.Line != "" || len(c.TAC) > 0 || c.Quota != 0 {
		return nil, console.Usagef("--line, --tac and --quota belong to --kind=station")
	}
	peer := grant.Peer{Realm: realm, Role: c.Role, Name: c.Name}
	if err := peer.Validate(); err != nil {
		return nil, console.Usagef("%w", err)
	}
	t.URIs = []*url.URL{peer.URI()}
	if c.Kind == "server" {
		if len(c.DNS)+len(c.IP) == 0 {
			return nil, console.Usagef("a server is reached under a name or address: give --dns or --ip")
		}
		t.DNSNames, t.IPAddresses = c.DNS, c.IP
		// The SPP is a server for stations and a client of the sequencer, with one certificate.
		t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	return t, nil
}

func (c *certifyCmd) grant(realm identity.Realm) (grant.Grant, error) {
	g := grant.Grant{Realm: realm, Station: c.Name, Line: c.Line, Quota: c.Quota}
	switch {
	case c.Role != "":
		return g, console.Usagef("--role belongs to --kind=server and --kind=client")
	case len(c.TAC) == 0:
		return g, console.Usagef("a station needs --tac: ranges of type allocation codes, or \"any\" for every identity of its line")
	case len(c.TAC) == 1 && c.TAC[0] == "any":
	default:
		for _, s := range c.TAC {
			r, err := grant.ParseTACRange(s)
			if err != nil {
				return g, console.Usagef("%w", err)
			}
			g.TACs = append(g.TACs, r)
		}
	}
	if err := g.Validate(); err != nil {
		return g, console.Usagef("%w", err)
	}
	return g, nil
}

// keep gives the certificate that is there already, if it says what was asked for and is valid; nil if none is.
func (c *certifyCmd) keep(config Config, template *x509.Certificate, request *x509.CertificateRequest) (*x509.Certificate, error) {
	old, err := readCertificate(c.Out.String())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	}
	station, _ := authorities(config)
	ca, err := readCertificate(station.path(config))
	if err != nil {
		return nil, err
	}
	if old.CheckSignatureFrom(ca) != nil || !samePublic(old.PublicKey, request.PublicKey) || len(old.URIs) != 1 || old.URIs[0].String() != template.URIs[0].String() ||
		fmt.Sprint(old.DNSNames, old.IPAddresses) != fmt.Sprint(template.DNSNames, template.IPAddresses) || time.Now().After(old.NotAfter) {
		return nil, console.Hint(fmt.Errorf("%q is another certificate, or has expired", c.Out), "move it away, or name another file; nothing is overwritten")
	}
	return old, nil
}

// sign signs and writes. A crash after the audit entry leaves an entry without an act; one after signing loses a
// certificate that nobody has, and the next run makes another.
func (c *certifyCmd) sign(ctx context.Context, tok *hsm.Token, config Config, l *licence, template *x509.Certificate, request *x509.CertificateRequest) (*x509.Certificate, error) {
	station, _ := authorities(config)
	ca, signer, err := station.load(tok, config)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template.Subject.Organization = []string{config.Organisation}
	template.NotBefore, template.NotAfter = now.Add(-backdate), now.AddDate(0, 0, c.Days)
	if template.NotAfter.After(ca.NotAfter) {
		return nil, fmt.Errorf("the certificate would outlive the station CA, which ends at %s: give fewer --days", ca.NotAfter.UTC().Format(time.RFC3339))
	}
	if template.SerialNumber, err = l.certify(ctx, station.label, template.URIs[0].String()); err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca, request.PublicKey, signer)
	if err != nil {
		return nil, fmt.Errorf("sign a certificate with %q: %w", station.label, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read the certificate just signed: %w", err)
	}
	return cert, createFile(c.Out.String(), certificatePEM(der))
}
