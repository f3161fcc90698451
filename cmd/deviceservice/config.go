package main

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/devicekeys/devicekeys/channel"
	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/cmd/internal/databaseconfig"
	"github.com/devicekeys/devicekeys/cmd/internal/tokenconfig"
	"github.com/devicekeys/devicekeys/deviceservice"
	"github.com/devicekeys/devicekeys/identity"
)

// Config is the configuration of a server.
type Config struct {
	Realm         identity.Realm        `yaml:"realm" required:"true" example:"development" help:"development or production; nothing made in one is accepted in the other."`
	Listen        string                `yaml:"listen" default:"127.0.0.1:7455" help:"Address for devices."`
	MetricsListen string                `yaml:"metrics_listen" default:"127.0.0.1:9475" help:"Address for /metrics, /healthz (the HSM works) and /readyz (devices can be let in), without authentication: only monitoring should reach it. Empty: none."`
	Drain         time.Duration         `yaml:"drain" default:"20s" help:"How long requests under way may still take after SIGTERM. Idle channels are ended at once."`
	Token         tokenconfig.Config    `yaml:"token" help:"The service's own token, with the channel's purpose key; set up by custodian token --for deviceservice."`
	Suites        []Suite               `yaml:"suites" default:"[noise, tls, certificate]" help:"Suites that are spoken, of noise (1), tls (2) and certificate (3); the latter two need tls. A site that may not use Noise leaves it out."`
	TLS           TLSConfig             `yaml:"tls" help:"Who the service is, for suites 2 and 3. Left out: suite 1 alone."`
	Records       databaseconfig.Config `yaml:"records" help:"Database records, as the role that may read what was issued (deviceservice grant). A replica will do: see records_max_lag."`
	RecordsMaxLag time.Duration         `yaml:"records_max_lag" default:"10s" help:"How far a replica may lag behind, which adds to records_fresh; one that lags more, or has lost its primary for so long, counts as away. Its wal_receiver_timeout, 60s unless set, adds to that. 0: nothing is asked. On a primary nothing lags."`
	RecordsFresh  time.Duration         `yaml:"records_fresh" default:"5s" help:"How long an answer of the records is used again: how long a device that was set apart may still be let in."`
	RecordsMaxAge time.Duration         `yaml:"records_max_age" default:"30s" help:"The same while the records can't be read. Who was not looked up within that time is refused."`
	Registry      string                `yaml:"registry" example:"https://registry.example" help:"Registry, or a mirror, whose published certificates the way certificate goes by."`
	Keys          KeysConfig            `yaml:"keys" help:"Which keys devices come with."`
	Limits        LimitsConfig          `yaml:"limits" help:"What strangers and devices may cost."`
}

// TLSConfig says who the service is.
type TLSConfig struct {
	Key         string       `yaml:"key" example:"dev-tls-deviceservice" help:"Label of the TLS key in the token. Left out: the realm's prefix and \"tls-deviceservice\"."`
	Certificate console.Path `yaml:"certificate" example:"deviceservice.pem" help:"The service's certificate, PEM; it names the service's hosts."`
	DeviceCA    console.Path `yaml:"device_ca" example:"public/device-ca.pem" help:"Certificates of the device CA, PEM: all versions that devices have certificates of, one after the other."`
}

// Validate checks the pair.
func (c TLSConfig) Validate() error {
	if (c.Certificate == "") != (c.DeviceCA == "") {
		return errors.New("certificate and device_ca are given together, or neither is")
	}
	return nil
}

func (c TLSConfig) on() bool { return c.Certificate != "" }

func (c TLSConfig) label(realm identity.Realm) string {
	if c.Key != "" {
		return c.Key
	}
	return tokenconfig.TLSKeyLabel(realm, "deviceservice")
}

// KeysConfig says which keys devices come with.
type KeysConfig struct {
	Entries []string                       `yaml:"entries" default:"[channel]" help:"Names of the entries of the manifest that open a channel."`
	Ways    []deviceservice.Way            `yaml:"ways" default:"[derived]" help:"How the service comes by a device's key: derived (from the purpose key in the token), fetched (wrapped in the records), certificate (published in the registry; needs tls and registry)."`
	Lines   map[string][]deviceservice.Way `yaml:"lines" example:"{watch: [fetched]}" help:"Product lines that differ from ways."`
}

// LimitsConfig bounds what strangers and devices may cost.
type LimitsConfig struct {
	Channels         int     `yaml:"channels" default:"10000" help:"Channels open at once; more connections are closed at once."`
	PerDevice        int     `yaml:"per_device" default:"2" help:"Channels of one device; a new one ends the oldest."`
	Handshakes       int     `yaml:"handshakes" default:"2000" help:"Connections whose device has not proven itself yet, beside the open channels."`
	SourceHandshakes int     `yaml:"source_handshakes" default:"100" help:"Those of one source; for IPv6 of one /64, and eight times as many of one /48."`
	KeysAtOnce       int     `yaml:"keys_at_once" default:"16" help:"Devices' keys in the HSM at once; others wait 3 s for their turn. Half as many signatures of TLS come beside them, which wait 1 s."`
	RequestRate      float64 `yaml:"request_rate" default:"20" help:"Requests per second that one channel is served; more wait."`
	SourceRate       float64 `yaml:"source_rate" default:"5" help:"Handshakes per second of one source on average; for IPv6 one /64, and eight times as many of one /48. Behind a load balancer that hides addresses, all devices are one source."`
	SourceBurst      int     `yaml:"source_burst" default:"50" help:"Handshakes that a source may begin at once."`
	DeviceRate       float64 `yaml:"device_rate" default:"0.2" help:"Handshakes per second of one identity on average."`
	DeviceBurst      int     `yaml:"device_burst" default:"10" help:"Handshakes of one identity at once."`
	TLSRate          float64 `yaml:"tls_rate" default:"0" help:"Handshakes of TLS per second over all sources on average, each a signature in the HSM before anything is known of the peer; more are closed. 0: no limit but the turns."`
	TLSBurst         int     `yaml:"tls_burst" default:"50" help:"Handshakes of TLS at once, where tls_rate is set."`
}

// conns suits lookups by an index: more than twice the cores make them slower.
const conns = 8

// maxDrain keeps a drain below the 90 seconds after which systemd kills; maxAge is how long a device that was set
// apart may still be let in while the records are away, at the very most.
const (
	maxDrain = 80 * time.Second
	maxAge   = time.Hour
)

// Validate checks the values once the configuration is read.
func (c Config) Validate() error {
	l := c.Limits
	switch {
	case c.Listen == "":
		return errors.New("listen is empty: give an address such as 127.0.0.1:7455")
	case c.Drain <= 0 || c.Drain > maxDrain:
		return fmt.Errorf("drain is %s: it must be above 0 and at most %s", c.Drain, maxDrain)
	case c.RecordsFresh <= 0 || c.RecordsMaxAge < c.RecordsFresh || c.RecordsMaxAge > maxAge:
		return fmt.Errorf("records_fresh is %s and records_max_age %s: 0 < fresh <= max_age <= %s", c.RecordsFresh, c.RecordsMaxAge, maxAge)
	case c.RecordsMaxLag < 0 || c.RecordsMaxLag > maxAge:
		return fmt.Errorf("records_max_lag is %s: it must be 0 to %s", c.RecordsMaxLag, maxAge)
	case len(c.Keys.Entries) == 0 || len(c.Keys.Ways) == 0:
		return errors.New("keys.entries and keys.ways name at least one each")
	case len(c.Suites) == 0:
		return errors.New("suites is empty: name at least one, or leave it out")
	case l.TLSRate < 0 || l.TLSBurst < 1:
		return errors.New("limits: tls_rate is 0 or more, tls_burst above 0")
	case l.Channels < 1 || l.PerDevice < 1 || l.Handshakes < 1 || l.SourceHandshakes < 1 || l.KeysAtOnce < 1 || l.RequestRate <= 0 || l.SourceRate <= 0 || l.SourceBurst < 1 || l.DeviceRate <= 0 || l.DeviceBurst < 1:
		return errors.New("every limit is above 0")
	}
	if !c.TLS.on() && !slices.Contains(c.Suites, Suite(channel.SuiteNoise)) {
		return errors.New("suites: tls and certificate need the section tls")
	}
	if c.uses(deviceservice.Certificate) && !slices.Contains(c.Suites, Suite(channel.SuiteCertificate)) {
		return errors.New("keys: the way certificate needs the suite of that name")
	}
	if c.uses(deviceservice.Certificate) && (c.Registry == "" || !c.TLS.on()) {
		return errors.New("keys: the way certificate needs registry, which lists the devices' certificates, and tls")
	}
	return nil
}

// uses tells whether any product line may use a way.
func (c Config) uses(w deviceservice.Way) bool {
	if slices.Contains(c.Keys.Ways, w) {
		return true
	}
	for _, all := range c.Keys.Lines {
		if slices.Contains(all, w) {
			return true
		}
	}
	return false
}
