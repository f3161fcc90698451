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
	Patience    time.Duration      `yaml:"patience" default:"2m" help:"How long a run that has nothing else to do waits for the registry, counted from the last good sign; 1s to 1h. Devices that still wait are safe; another run finishes them."`
	Unattested  bool               `yaml:"unattested" help:"The chips have no attestation key. The product line's profile must allow it and owns the risk."`
}

// SPP says where the secure processing point is.
type SPP struct {
	URL  string       `yaml:"url" example:"https://spp.plant.example:7443" help:"Where it listens. Several SPPs on the same databases: use urls."`
	URLs []string     `yaml:"urls" example:"[https://spp-1.plant.example:7443, https://spp-2.plant.example:7443]" help:"Where several SPPs on the same databases listen, the preferred one first: the station goes on with the next when one is gone."`
	CA   console.Path `yaml:"ca" required:"true" example:"station-ca.pem" help:"Certificate of the CA that signed the SPP's certificate."`
}

// maxSPPs bounds the list: each further one is another to wait for.
const maxSPPs = 16

// Validate checks the addresses.
func (s SPP) Validate() error {
	switch {
	case s.URL == "" && len(s.URLs) == 0:
		return errors.New("url is missing: where the SPP listens, https://host:port")
	case s.URL != "" && len(s.URLs) > 0:
		return errors.New("url and urls are both there: put all addresses into urls")
	case len(s.URLs) > maxSPPs:
		return fmt.Errorf("urls has %d addresses, at most %d are allowed", len(s.URLs), maxSPPs)
	}
	seen := map[string]bool{}
	for _, base := range s.bases() {
		u, err := url.Parse(base)
		if err != nil || u.Scheme != "https" || u.Host == "" {
			return fmt.Errorf("url %q is not one of the form https://host:port", base)
		}
		if seen[u.Host] {
			return fmt.Errorf("url %q is there twice", base)
		}
		seen[u.Host] = true
	}
	return nil
}

// bases gives the addresses, the preferred one first.
func (s SPP) bases() []string {
	if s.URL != "" {
		return []string{s.URL}
	}
	return s.URLs
}

// Validate checks the values once the configuration is read.
func (c Config) Validate() error {
	switch {
	case c.Hands < 1 || c.Hands > 256:
		return fmt.Errorf("hands is %d: 1 to 256 are allowed", c.Hands)
	case c.Drain < 0 || c.Drain > time.Hour:
		return errors.New("drain is outside 0 to 1h")
	case c.Patience < time.Second || c.Patience > time.Hour:
		return errors.New("patience is outside 1s to 1h")
	}
	return nil
}

func (c Config) tlsKey() string {
	if c.TLSKey != "" {
		return c.TLSKey
	}
	return tokenconfig.TLSKeyLabel(c.Realm, "station")
}
