package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/cmd/internal/databaseconfig"
	"github.com/devicekeys/devicekeys/cmd/internal/tokenconfig"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/provisioning"
	"github.com/devicekeys/devicekeys/provisioning/pool"
	"github.com/devicekeys/devicekeys/provisioning/profile"
	"github.com/devicekeys/devicekeys/provisioning/records"
)

// Config is the SPP's configuration.
type Config struct {
	Realm         identity.Realm        `yaml:"realm" required:"true" example:"development" help:"development or production; nothing made in one is accepted in the other."`
	Listen        string                `yaml:"listen" default:"127.0.0.1:7443" help:"Address for stations: Connect, gRPC and gRPC-Web over mutual TLS 1.3."`
	MetricsListen string                `yaml:"metrics_listen" default:"127.0.0.1:9471" help:"Address for /metrics and /healthz, without authentication: only monitoring should reach it. Empty: none."`
	Drain         time.Duration         `yaml:"drain" default:"20s" help:"How long devices that were begun may still take after SIGTERM; no device is begun meanwhile. A second SIGTERM stops at once."`
	Reservation   time.Duration         `yaml:"reservation_life" default:"168h" help:"How long a device may lie between two steps of the line before it and its identity are burned, 1h to 8760h."`
	Token         tokenconfig.Config    `yaml:"token" help:"The SPP's token: the maker's keys and the TLS key. One session for each call in flight; 32 suits a busy line."`
	TLS           TLSConfig             `yaml:"tls" help:"Who the SPP is, and whose stations it serves."`
	Pool          databaseconfig.Config `yaml:"pool" help:"Database pool, as role spp."`
	Records       databaseconfig.Config `yaml:"records" help:"Database records, as role spp."`
	Sequencer     SequencerConfig       `yaml:"sequencer" help:"The registry's sequencer."`
	Profiles      []console.Path        `yaml:"profiles" required:"true" example:"[phone.yaml]" help:"Profiles of the product lines served, one file each."`
	DeviceCA      console.Path          `yaml:"device_ca" example:"public/device-ca.pem" help:"Certificate of the device CA that signs from now on, PEM; by it its key is found in the token, where every version's is. Only for product lines whose profile has certificates."`
	ServiceKey    console.Path          `yaml:"service_transport_key" example:"service-transport.pem" help:"Public half of the device service's transport key, PEM (custodian token --for deviceservice): communication keys that are not derived are wrapped to it in the HSM, and kept in the records for the service. Left out: none is."`
	ChipMakers    []console.Path        `yaml:"chip_makers" example:"[chip-maker.pem]" help:"Public keys of the chip makers whose delivery lists are imported, PEM."`
	Owner         *OwnerConfig          `yaml:"owner" help:"The databases as their owners, for spp migrate alone. Leave it out where another hand migrates."`
}

// TLSConfig says who the SPP is.
type TLSConfig struct {
	Key         string       `yaml:"key" example:"dev-tls-spp" help:"Label of the TLS key in the token. Left out: the realm's prefix and \"tls-spp\"."`
	Certificate console.Path `yaml:"certificate" required:"true" example:"spp.pem" help:"The SPP's certificate, PEM, signed by the station CA; its URI gives the SPP's name."`
	ClientCA    console.Path `yaml:"client_ca" required:"true" example:"public/station-ca.pem" help:"Certificate of the CA that signs stations' certificates."`
}

// SequencerConfig says how to reach the registry's sequencer.
type SequencerConfig struct {
	URL string       `yaml:"url" required:"true" example:"https://sequencer.example:7443" help:"Where it listens."`
	CA  console.Path `yaml:"ca" required:"true" example:"public/station-ca.pem" help:"Certificate of the CA that signed the sequencer's certificate."`
}

// OwnerConfig says how to reach the databases as their owners.
type OwnerConfig struct {
	Pool    databaseconfig.Config `yaml:"pool" help:"Database pool, as its owner."`
	Records databaseconfig.Config `yaml:"records" help:"Database records, as its owner."`
}

// Validate checks the address.
func (c SequencerConfig) Validate() error {
	u, err := url.Parse(c.URL)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return fmt.Errorf("url %q is not one of the form https://host:port", c.URL)
	}
	return nil
}

// maxDrain keeps a drain below the 90 seconds after which systemd kills.
const maxDrain = 80 * time.Second

// Validate checks the rest.
func (c Config) Validate() error {
	switch {
	case c.Listen == "":
		return errors.New("listen is empty: give an address such as 127.0.0.1:7443")
	case c.Drain <= 0 || c.Drain > maxDrain:
		return fmt.Errorf("drain is %s: it must be above 0 and at most %s", c.Drain, maxDrain)
	case c.Reservation < provisioning.MinReservationLife || c.Reservation > provisioning.MaxReservationLife:
		return fmt.Errorf("reservation_life is %s: %s to %s are allowed", c.Reservation, provisioning.MinReservationLife, provisioning.MaxReservationLife)
	case len(c.Profiles) == 0:
		return errors.New("profiles is empty: name at least one")
	}
	return nil
}

func (c Config) tlsKey() string {
	if c.TLS.Key != "" {
		return c.TLS.Key
	}
	return tokenconfig.TLSKeyLabel(c.Realm, "spp")
}

// profiles reads the product lines' profiles.
func (c Config) profiles() ([]profile.Profile, error) {
	var all []profile.Profile
	for _, path := range c.Profiles {
		p, err := profile.Load(path.String())
		if err != nil {
			return nil, console.Usagef("%w", err)
		}
		all = append(all, p)
	}
	return all, nil
}

// What suits a busy line, and what to do about an old schema.
const (
	conns     = 16
	oldSchema = "run spp migrate, as the databases' owner"
)

// stores are the two databases.
type stores struct {
	poolDB, recordsDB *sql.DB
	pool              *pool.Store
	records           *records.Store
}

func (c Config) openStores(ctx context.Context) (s stores, err error) {
	if s.poolDB, err = c.Pool.OpenAt(ctx, conns, pool.Migrations, oldSchema); err != nil {
		return stores{}, fmt.Errorf("database pool: %w", err)
	}
	if s.recordsDB, err = c.Records.OpenAt(ctx, conns, records.Migrations, oldSchema); err != nil {
		return stores{}, errors.Join(fmt.Errorf("database records: %w", err), s.poolDB.Close())
	}
	s.pool, s.records = pool.New(s.poolDB), records.New(s.recordsDB)
	return s, nil
}

func (s stores) close() error { return errors.Join(s.poolDB.Close(), s.recordsDB.Close()) }

// check tells whether both databases answer.
func (s stores) check(ctx context.Context) error {
	for name, db := range map[string]*sql.DB{"pool": s.poolDB, "records": s.recordsDB} {
		if err := db.PingContext(ctx); err != nil {
			return fmt.Errorf("database %s: %w", name, err)
		}
	}
	return nil
}

// withStores reads the configuration and opens the databases for a command.
func withStores(ctx context.Context, file console.Path, f func(Config, stores) error) (err error) {
	var c Config
	if err := console.LoadConfig(file.String(), &c); err != nil {
		return err
	}
	s, err := c.openStores(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	return f(c, s)
}
