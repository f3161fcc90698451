package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/cmd/internal/databaseconfig"
	"github.com/devicekeys/devicekeys/cmd/internal/tokenconfig"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/statement"
)

// Config is the sequencer's configuration.
type Config struct {
	Realm               identity.Realm        `yaml:"realm" required:"true" example:"development" help:"development or production; nothing made in one is accepted in the other."`
	Listen              string                `yaml:"listen" default:"127.0.0.1:7453" help:"Address for secure processing points: Connect and gRPC over mutual TLS 1.3."`
	MetricsListen       string                `yaml:"metrics_listen" default:"127.0.0.1:9472" help:"Address for /metrics and /healthz, without authentication: only monitoring should reach it. Empty: none."`
	Drain               time.Duration         `yaml:"drain" default:"20s" help:"How long submissions under way may still take after SIGTERM."`
	Token               tokenconfig.Config    `yaml:"token" help:"The sequencer's own token: its TLS key and its checkpoint key."`
	CheckpointKey       string                `yaml:"checkpoint_key" example:"dev-checkpoint" help:"Label of the Ed25519 checkpoint key in the token. Left out: the realm's prefix and \"checkpoint\"."`
	TLS                 TLSConfig             `yaml:"tls" help:"Who the sequencer is, and whose submissions it takes."`
	Database            databaseconfig.Config `yaml:"database" help:"Database registry, as the sequencer's role; set up by registry migrate."`
	SubmissionKeys      []console.Path        `yaml:"submission_keys" required:"true" example:"[public/submission.pem]" help:"Public submission keys of the SPPs, PEM; several while SPPs are several or a key is replaced."`
	IdentitySigningKeys []console.Path        `yaml:"identity_signing_keys" required:"true" example:"[public/rom-key.pem]" help:"Public identity-signing keys, PEM, past ones included: one of them signs what scraps or erases a record."`
	QueueMiB            int                   `yaml:"queue_mib" default:"64" help:"Submissions waiting or being written, in MiB, 16 to 4096; who brings more is told to come back."`
}

// TLSConfig says who the sequencer is.
type TLSConfig struct {
	Key         string       `yaml:"key" example:"dev-tls-sequencer" help:"Label of the TLS key in the token. Left out: the realm's prefix and \"tls-sequencer\"."`
	Certificate console.Path `yaml:"certificate" required:"true" example:"sequencer.pem" help:"The sequencer's certificate, PEM, signed by the station CA."`
	ClientCA    console.Path `yaml:"client_ca" required:"true" example:"public/station-ca.pem" help:"Certificate of the CA that signs SPPs' certificates."`
}

// conns is what the loop and a health check use.
const conns = 3

// maxDrain keeps a drain below the 90 seconds after which systemd kills.
const maxDrain = 80 * time.Second

// Validate checks the values once the configuration is read.
func (c Config) Validate() error {
	switch {
	case c.Listen == "":
		return errors.New("listen is empty: give an address such as 127.0.0.1:7453")
	case c.Drain <= 0 || c.Drain > maxDrain:
		return fmt.Errorf("drain is %s: it must be above 0 and at most %s", c.Drain, maxDrain)
	case len(c.SubmissionKeys) == 0:
		return errors.New("submission_keys is empty: name at least one; custodian setup writes it as submission.pem")
	case len(c.IdentitySigningKeys) == 0:
		return errors.New("identity_signing_keys is empty: name at least one; custodian setup writes it as rom-key.pem")
	case c.QueueMiB < 16 || c.QueueMiB > 4096:
		return fmt.Errorf("queue_mib is %d: 16 to 4096 are allowed", c.QueueMiB)
	}
	return nil
}

func (c Config) tlsKey() string {
	if c.TLS.Key != "" {
		return c.TLS.Key
	}
	return tokenconfig.TLSKeyLabel(c.Realm, "sequencer")
}

func (c Config) checkpointKey() string {
	if c.CheckpointKey != "" {
		return c.CheckpointKey
	}
	return c.Realm.Prefix() + "checkpoint"
}

// readKeys reads public keys, each from a file of its own.
func readKeys(paths []console.Path) ([]statement.PublicKey, error) {
	var all []statement.PublicKey
	for _, p := range paths {
		pem, err := os.ReadFile(p.String())
		if err != nil {
			return nil, console.Hint(fmt.Errorf("read public key: %w", err), "custodian setup writes the maker's public keys")
		}
		k, err := statement.ParsePEM(pem)
		if err != nil {
			return nil, fmt.Errorf("read public key %q: %w", p, err)
		}
		all = append(all, k)
	}
	return all, nil
}
