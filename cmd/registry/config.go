package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/cmd/internal/databaseconfig"
	"github.com/devicekeys/devicekeys/registry"
)

// ServeConfig is the configuration of a server.
type ServeConfig struct {
	Listen         string                `yaml:"listen" default:"127.0.0.1:8080" help:"Address that lookups are served on. Without tls it must be of this machine, unless plain_http is set."`
	PlainHTTP      bool                  `yaml:"plain_http" default:"false" help:"Serve without TLS to other machines: where a proxy or CDN before this server speaks TLS."`
	TLS            TLSConfig             `yaml:"tls" help:"Certificate of the server. Left out: plain HTTP."`
	MetricsListen  string                `yaml:"metrics_listen" example:"127.0.0.1:9473" help:"Address of /metrics and /healthz for monitoring, without authentication. Left out: none."`
	Database       databaseconfig.Config `yaml:"database" help:"Database registry, or a replica of it, as a role that can only read."`
	NewestAge      time.Duration         `yaml:"newest_age" default:"5s" help:"How long the newest entry of a record may be kept by caches, and so how long a superseded one may still be seen. Whole seconds."`
	GenerationAge  time.Duration         `yaml:"generation_age" default:"1h" help:"The same for a named generation: bounds how long an erased record may still be seen. Whole seconds."`
	CacheMiB       int                   `yaml:"cache_mib" default:"64" help:"Memory for answers kept ready, in MiB, 1 to 65536."`
	Rate           float64               `yaml:"rate" default:"20" help:"Requests per second that one client address may make on average. A batch counts as one for every ten records. Of IPv6 a /64 counts as an address; the /56 and the /48 around it may make 4 and 16 times as many."`
	Burst          int                   `yaml:"burst" default:"100" help:"Requests that it may make at once, at least 10."`
	Unlimited      []netip.Prefix        `yaml:"unlimited" example:"[192.0.2.17/32]" help:"Addresses that rate and burst don't concern, of the maker's own services: the device service asks for the certificates of each device that comes. The directory's limits concern them too. Left out: none."`
	Directory      bool                  `yaml:"directory" default:"false" help:"Serve the directory of identities: whoever knows the identity of a device whose product line opted in gets its record id and certificates."`
	DirectoryRate  float64               `yaml:"directory_rate" default:"1" help:"Lookups by identity per second that one client address may make on average; IPv6 as with rate, which it must not exceed."`
	DirectoryBurst int                   `yaml:"directory_burst" default:"10" help:"Lookups by identity that it may make at once, at most burst."`
	DirectoryTotal float64               `yaml:"directory_total_rate" example:"50" help:"Lookups by identity per second that all clients together may make on average, ten times that at once: how fast somebody with many addresses goes through all identities, and how easily he keeps others waiting. Left out: 50 times directory_rate."`
	TrustedProxies []netip.Prefix        `yaml:"trusted_proxies" example:"[10.0.0.0/8]" help:"Addresses of the proxies whose X-Forwarded-For is believed. Left out: nobody's, and all who come through one proxy share its limit."`
}

// TLSConfig names the server's certificate and key. The registry has no HSM: what it serves is public, and what its
// key protects is only the way there.
type TLSConfig struct {
	Certificate console.Path `yaml:"certificate" example:"registry.pem" help:"Certificate chain, PEM, the server's own first. Read at start: restart after a renewal."`
	Key         console.Path `yaml:"key" example:"registry-key.pem" help:"Its private key, PEM, a file that only its owner may read."`
}

// conns suits lookups: more than twice the cores make them slower.
const conns = 8

// Validate checks the pair.
func (c TLSConfig) Validate() error {
	if (c.Certificate == "") != (c.Key == "") {
		return errors.New("certificate and key are given together, or neither is")
	}
	return nil
}

func (c TLSConfig) on() bool { return c.Certificate != "" }

// Validate checks the values once the configuration is read.
func (c ServeConfig) Validate() error {
	host, _, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return fmt.Errorf("listen is %q: host:port is expected", c.Listen)
	}
	addr, err := netip.ParseAddr(host)
	local := host == "localhost" || err == nil && addr.IsLoopback()
	switch {
	case !local && !c.TLS.on() && !c.PlainHTTP:
		return fmt.Errorf("listen is %q, which other machines reach, and there is no TLS: set tls, or plain_http where a proxy speaks TLS", c.Listen)
	case c.PlainHTTP && c.TLS.on():
		return errors.New("plain_http and tls exclude each other")
	case c.NewestAge < time.Second || c.GenerationAge < time.Second:
		return errors.New("newest_age and generation_age are at least 1s")
	case c.CacheMiB < 1 || c.CacheMiB > 1<<16:
		return fmt.Errorf("cache_mib is %d: 1 to %d are allowed", c.CacheMiB, 1<<16)
	case c.Rate <= 0:
		return fmt.Errorf("rate is %g: it must be above 0", c.Rate)
	case c.Burst < registry.MinBurst:
		return fmt.Errorf("burst is %d: at least %d are needed for the largest batch", c.Burst, registry.MinBurst)
	}
	switch {
	case !c.Directory:
	case c.DirectoryRate > c.Rate:
		return fmt.Errorf("directory_rate is %g and rate %g: lookups by identity count for both, so it can be rate at most", c.DirectoryRate, c.Rate)
	case c.DirectoryBurst > c.Burst:
		return fmt.Errorf("directory_burst is %d and burst %d: lookups by identity count for both, so it can be burst at most", c.DirectoryBurst, c.Burst)
	case c.DirectoryTotal < 0:
		return fmt.Errorf("directory_total_rate is %g: it must be above 0", c.DirectoryTotal)
	}
	return nil
}
