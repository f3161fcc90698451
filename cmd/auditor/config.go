package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/user"
	"time"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/cmd/internal/databaseconfig"
	"github.com/devicekeys/devicekeys/cmd/internal/tokenconfig"
	"github.com/devicekeys/devicekeys/devicecert"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/registry"
	"github.com/devicekeys/devicekeys/statement"
)

// Config is the auditor's configuration.
type Config struct {
	Realm        identity.Realm        `yaml:"realm" required:"true" example:"development" help:"development or production; what is of the other one is a violation."`
	Actor        string                `yaml:"actor" example:"alice" help:"Who checks, as the audit log names them. Left out: the name of the user who runs the command."`
	Grace        time.Duration         `yaml:"grace" default:"5m" help:"How long what a crash left may wait for its repair before it counts as a violation: house-keeping comes by every minute and lets what is younger than two be."`
	Life         time.Duration         `yaml:"reservation_life" default:"168h" help:"The SPP's reservation_life: what nobody resumed for so long should be burned. 0s: not looked at."`
	Pool         databaseconfig.Config `yaml:"pool" help:"Database pool, as role auditor."`
	Records      databaseconfig.Config `yaml:"records" help:"Database records, as role auditor."`
	Registry     *RegistryConfig       `yaml:"registry" help:"The registry. Left out, what was published is not looked up."`
	ROMKey       console.Path          `yaml:"rom_key" example:"public/rom-key.pem" help:"Public key in the devices' ROM, PEM. Left out, and without --token, certificates are not verified."`
	AuditKey     console.Path          `yaml:"audit_key" example:"public/audit.pem" help:"Public key of the audit log's heads, PEM. Left out, and without --token, signed heads are not verified."`
	Certificates []console.Path        `yaml:"certificates" example:"[spp.pem, line-1.pem]" help:"Certificates that the maker's CAs issued, PEM; each must have its entry in the audit log."`
	KeptHead     console.Path          `yaml:"kept_head" example:"2026-11.head" help:"A signed head that the auditor keeps where the database's owner can't change it; heads --save writes one."`
	Token        *tokenconfig.Config   `yaml:"token" help:"The SPP's token, for check --token alone."`
}

// RegistryConfig says how to reach the registry.
type RegistryConfig struct {
	URL      string                 `yaml:"url" required:"true" example:"https://registry.example" help:"Where anyone looks records up."`
	CA       console.Path           `yaml:"ca" example:"registry-ca.pem" help:"Certificate of the CA behind its TLS certificate. Left out: those that the system trusts."`
	Database *databaseconfig.Config `yaml:"database" help:"Database registry, as role auditor. Left out, sequence and leaf hashes are not looked at."`
}

// Validate checks the values once the configuration is read.
func (c Config) Validate() error {
	if c.Grace < 0 || c.Life < 0 {
		return fmt.Errorf("grace is %s and reservation_life %s: neither may be negative", c.Grace, c.Life)
	}
	return nil
}

// maxFile bounds the files named here, in bytes: PEM files and signed heads of a few hundred.
const maxFile = 64 << 10

// who is who checks.
func (c Config) who() (string, error) {
	if c.Actor != "" {
		return c.Actor, nil
	}
	u, err := user.Current()
	if err != nil {
		return "", console.Hint(fmt.Errorf("find out who checks: %w", err), "write actor into the configuration")
	}
	return u.Username, nil
}

// What the auditor's connections are for, and what to do about an old schema.
const (
	conns     = 4
	oldSchema = "have the database's owner migrate it, or run the auditor of the version that it was migrated by"
)

// requestTimeout bounds one request to the registry.
const requestTimeout = 30 * time.Second

func (c RegistryConfig) client(realm identity.Realm) (*registry.Client, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CA != "" {
		text, err := readFile(c.CA)
		if err != nil {
			return nil, err
		}
		transport.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !transport.TLSClientConfig.RootCAs.AppendCertsFromPEM(text) {
			return nil, console.Usagef("%s holds no certificate in PEM", c.CA)
		}
	}
	client, err := registry.NewClient(c.URL, &http.Client{Transport: transport, Timeout: requestTimeout}, registry.ClientOptions{Realm: realm})
	if err != nil {
		return nil, console.Usagef("%w", err)
	}
	return client, nil
}

// key reads a public key; the zero key where no file is named.
func key(path console.Path) (statement.PublicKey, error) {
	if path == "" {
		return statement.PublicKey{}, nil
	}
	text, err := readFile(path)
	if err != nil {
		return statement.PublicKey{}, err
	}
	k, err := statement.ParsePEM(text)
	if err != nil {
		return k, console.Usagef("%s: %w", path, err)
	}
	return k, nil
}

// certificates reads all that are configured; a file may hold several.
func (c Config) certificates() ([]*x509.Certificate, error) {
	var all []*x509.Certificate
	for _, path := range c.Certificates {
		text, err := readFile(path)
		if err != nil {
			return nil, err
		}
		found, err := devicecert.ParsePEM(text)
		if err != nil {
			return nil, console.Usagef("%s: %w", path, err)
		}
		all = append(all, found...)
	}
	return all, nil
}

func readFile(path console.Path) (b []byte, err error) {
	f, err := os.Open(path.String())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if b, err = io.ReadAll(io.LimitReader(f, maxFile+1)); err == nil && len(b) > maxFile {
		err = fmt.Errorf("read %s: it has more than %d bytes", path, maxFile)
	}
	return b, err
}
