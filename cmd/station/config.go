package main

import (
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/cmd/internal/tokenconfig"
	"github.com/devicekeys/devicekeys/identity"
)

// Config is the station's configuration.
type Config struct {
	Realm       identity.Realm     `yaml:"realm" required:"true" example:"development" help:"development or production; nothing made in one is accepted in the other."`
	SPP         SPP                `yaml:"spp" help:"The secure processing point."`
	Token       tokenconfig.Config `yaml:"token" help:"The station's own token; its TLS key proves to the SPP who it is."`
	TLSKey      string             `yaml:"tls_key" example:"dev-tls-station" help:"Label of the TLS key in the token. Left out: the realm's prefix and \"tls-station\"."`
	Certificate console.Path       `yaml:"certificate" required:"true" example:"station.pem" help:"The station's certificate: name, product line, TAC range, quota and expiry, signed by the station CA."`
	Devices     console.Path       `yaml:"devices" required:"true" example:"devices" help:"Folder of the devices in the fixtures."`
	Modules     console.Path       `yaml:"modules" required:"true" example:"modules" help:"Folder of the basic software modules; the SPP lists their hashes."`
	Journal     console.Path       `yaml:"journal" required:"true" example:"journal" help:"Folder in which the station keeps what a device in work needs after a loss of power."`
	Hands       int                `yaml:"hands" default:"8" help:"Devices worked on at once, 1 to 256."`
	Drain       time.Duration      `yaml:"drain" default:"30s" help:"How long devices in work may go on after SIGTERM."`
	Unattested  bool               `yaml:"unattested" help:"The chips have no attestation key. The product line's profile must allow it and owns the risk."`
}

// SPP says where the secure processing point is.
type SPP struct {
	URL string       `yaml:"url" required:"true" example:"https://spp.plant.example:7443" help:"Where it listens."`
	CA  console.Path `yaml:"ca" required:"true" example:"station-ca.pem" help:"Certificate of the CA that signed the SPP's certificate."`
}

// Validate checks the address.
func (s SPP) Validate() error {
	u, err := url.Parse(s.URL)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return fmt.Errorf("url %q is not one of the form https://host:port", s.URL)
	}
	return nil
}

// Validate checks the values once the configuration is read.
func (c Config) Validate() error {
	switch {
	case c.Hands < 1 || c.Hands > 256:
		return fmt.Errorf("hands is %d: 1 to 256 are allowed", c.Hands)
	case c.Drain < 0 || c.Drain > time.Hour:
		return errors.New("drain is outside 0 to 1h")
	}
	return nil
}

func (c Config) tlsKey() string {
	if c.TLSKey != "" {
		return c.TLSKey
	}
	return tokenconfig.TLSKeyLabel(c.Realm, "station")
}
