package registry

import (
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// HandlerOptions configures a Handler. Zero fields take the defaults named.
type HandlerOptions struct {
	// NewestAge is how long the newest entry of a record may be stored
	// downstream, and so how long a superseded one may still be seen.
	// Default 5 s; whole seconds.
	NewestAge time.Duration
	// GenerationAge is the same for a named generation, and so bounds how long
	// an erased record may still be seen. Default 1 h; whole seconds.
	GenerationAge time.Duration
	// CacheBytes bounds the answers kept in memory. Default 64 MiB.
	CacheBytes int64
	// Rate is how many requests per second one client address may make on
	// average, Burst how many at once; a batch lookup counts as one for every
	// ten records. Of IPv6 each /64 counts as an address, and the /56 and /48 around
	// it may make 4 and 16 times as many. Defaults 20 and 100.
	Rate  float64
	Burst int
	// Unlimited are the addresses that Rate and Burst don't concern: the maker's own
	// services. The directory's limits concern them too.
	Unlimited []netip.Prefix
	// Directory serves the directory of identities, where the source has one: who
	// knows an identity gets record id and certificates. Off by default.
	Directory bool
	// DirectoryRate and DirectoryBurst are the limit for it alone, at most Rate and
	// Burst: identities are guessed more easily than record ids. Defaults 1 and 10.
	DirectoryRate  float64
	DirectoryBurst int
	// DirectoryTotalRate is how many lookups by identity per second all clients
	// together may make on average, and in ten seconds at once: who has addresses without end
	// goes through the identities no faster. Default 50 times DirectoryRate.
	DirectoryTotalRate float64
	// TrustedProxies are the addresses whose X-Forwarded-For is believed.
	TrustedProxies []netip.Prefix
	// Registerer takes the metrics; nil means none.
	Registerer prometheus.Registerer
	// Log takes what clients aren't told; nil means slog's default.
	Log *slog.Logger
}

// Defaults of HandlerOptions.
const (
	DefaultNewestAge     = 5 * time.Second
	DefaultGenerationAge = time.Hour
	DefaultCacheBytes    = 64 << 20
	DefaultRate          = 20.0
	DefaultBurst         = 100

	DefaultDirectoryRate  = 1.0
	DefaultDirectoryBurst = 10
)

const (
	directoryClients   = 50 // default of DirectoryTotalRate, in DirectoryRates
	directoryBurstTime = 10 // what of DirectoryTotalRate may come at once, in seconds
)

// directoryTotalBurst is never below what one client may make at once.
func (o *HandlerOptions) directoryTotalBurst() int {
	return max(o.DirectoryBurst, int(min(o.DirectoryTotalRate*directoryBurstTime, math.MaxInt32)))
}

// MinBurst is the least Burst: what the largest batch counts.
const MinBurst = MaxBatch / batchPerToken

// complete sets defaults and checks the rest.
func (o *HandlerOptions) complete() error {
	if o.NewestAge == 0 {
		o.NewestAge = DefaultNewestAge
	}
	if o.GenerationAge == 0 {
		o.GenerationAge = DefaultGenerationAge
	}
	if o.CacheBytes == 0 {
		o.CacheBytes = DefaultCacheBytes
	}
	if o.Rate == 0 {
		o.Rate = DefaultRate
	}
	if o.Burst == 0 {
		o.Burst = DefaultBurst
	}
	if o.DirectoryRate == 0 {
		o.DirectoryRate = DefaultDirectoryRate
	}
	if o.DirectoryBurst == 0 {
		o.DirectoryBurst = DefaultDirectoryBurst
	}
	if o.DirectoryTotalRate == 0 {
		o.DirectoryTotalRate = directoryClients * o.DirectoryRate
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	switch {
	case o.NewestAge < time.Second || o.GenerationAge < time.Second:
		return fmt.Errorf("registry handler: ages %s and %s: at least one second each is expected", o.NewestAge, o.GenerationAge)
	case o.DirectoryRate < 0 || o.DirectoryBurst < 1:
		return fmt.Errorf("registry handler: directory rate %g, burst %d: a rate above 0 and a burst of at least 1 are expected", o.DirectoryRate, o.DirectoryBurst)
	case o.Directory && (o.DirectoryRate > o.Rate || o.DirectoryBurst > o.Burst):
		return fmt.Errorf("registry handler: directory rate %g, burst %d: above rate %g, burst %d, within which lookups by identity stay too", o.DirectoryRate, o.DirectoryBurst, o.Rate, o.Burst)
	case o.DirectoryTotalRate < 0:
		return fmt.Errorf("registry handler: total directory rate %g: one above 0 is expected", o.DirectoryTotalRate)
	case o.Rate < 0 || o.CacheBytes < 0:
		return fmt.Errorf("registry handler: rate %g, cache of %d bytes: negative ones are not allowed", o.Rate, o.CacheBytes)
	case o.Burst < MinBurst:
		return fmt.Errorf("registry handler: burst %d: a batch lookup of %d records takes %d", o.Burst, MaxBatch, MinBurst)
	}
	return nil
}
