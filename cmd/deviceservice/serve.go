package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"

	"github.com/devicekeys/devicekeys/channel"
	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/cmd/internal/tokenconfig"
	"github.com/devicekeys/devicekeys/deviceservice"
	"github.com/devicekeys/devicekeys/deviceservice/issued"
	"github.com/devicekeys/devicekeys/hsm/servicekeys"
)

type serveCmd struct {
	console.ConfigFile
}

func (c *serveCmd) Run(ctx context.Context, io console.IO) (err error) {
	var config Config
	if err := console.LoadConfig(c.Config.String(), &config); err != nil {
		return err
	}
	db, err := config.Records.Open(ctx, conns)
	if err != nil {
		return console.Hint(err, "check records in the configuration; spp migrate sets the database up")
	}
	defer closing(&err, db.Close)
	if err := issued.RequireSchema(ctx, db); err != nil {
		return console.Hint(err, "run spp migrate")
	}
	store := issued.NewReplica(db, config.RecordsMaxLag)
	if err := store.Check(ctx); errors.Is(err, issued.ErrLag) {
		io.Log.Warn("devices are told to come again until the replica is up to date", "error", err)
	} else if err != nil {
		return console.Hint(err, "run deviceservice grant as the owner of the database")
	}
	cache, err := issued.NewCache(store, issued.Options{Fresh: config.RecordsFresh, MaxAge: config.RecordsMaxAge})
	if err != nil {
		return err
	}
	module, tok, err := tokenconfig.Open(ctx, config.Realm, config.Token, config.TLS.on())
	if err != nil {
		return err
	}
	defer closing(&err, module.Close)
	keys, err := servicekeys.Open(ctx, tok, config.Realm)
	if err != nil {
		return console.Hint(err, "set the token up with custodian token --for deviceservice and custodian purpose import")
	}
	wire := channelConfig(config)
	if config.TLS.on() {
		wire.TLS, err = tokenconfig.ServerTLS(tok, config.TLS.label(config.Realm), config.TLS.Certificate.String(), config.TLS.DeviceCA.String())
		if err != nil {
			return err
		}
	}
	listed, roots, err := config.certificates()
	if err != nil {
		return err
	}
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), module.Collector())
	service, err := deviceservice.New(deviceservice.Options{
		Realm: config.Realm, Entries: config.Keys.Entries, Ways: config.Keys.Ways, Lines: config.Keys.Lines,
		Issued: cache, Keys: keys, WrappedKeys: cache, Certificates: listed, Roots: roots, Channel: wire,
		MaxChannels: config.Limits.Channels, MaxPerDevice: config.Limits.PerDevice,
		MaxHandshakes: config.Limits.Handshakes, MaxPerSource: config.Limits.SourceHandshakes, KeysAtOnce: config.Limits.KeysAtOnce, RequestRate: config.Limits.RequestRate,
		Away: cache.Away, Registerer: metrics, Log: io.Log,
	})
	if err != nil {
		return err
	}
	// Both listen before either serves, so that an address in use is reported at once.
	listener, err := console.Listen(ctx, config.Listen)
	if err != nil {
		return err
	}
	var admin net.Listener
	if config.MetricsListen != "" {
		if admin, err = console.Listen(ctx, config.MetricsListen); err != nil {
			return errors.Join(err, listener.Close())
		}
	}
	io.Log.Info("serving", "address", listener.Addr().String(), "realm", config.Realm.String(), "token", tok.Info().Label)
	hsmWorks := func(ctx context.Context) error { return errors.Join(tok.Check(ctx), keys.Check(ctx)) }
	var stopping atomic.Bool
	ready := func(ctx context.Context) error {
		if stopping.Load() {
			return errors.New("stopping")
		}
		return errors.Join(hsmWorks(ctx), store.Check(ctx))
	}
	defer context.AfterFunc(ctx, func() { stopping.Store(true) })()
	if err := serve(ctx, config.Drain, service, listener, adminHandler(metrics, hsmWorks, ready), admin); err != nil {
		return err
	}
	io.Log.Info("stopped")
	return nil
}

// serve runs until ctx is cancelled. Monitoring is answered until the last channel has ended.
func serve(ctx context.Context, drain time.Duration, service *deviceservice.Service, l net.Listener, handler http.Handler, admin net.Listener) error {
	monitored, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		defer stop()
		return service.Serve(ctx, l, drain)
	})
	if admin != nil {
		group.Go(func() error {
			return console.ServeHTTP(monitored, &http.Server{Handler: handler}, admin, time.Second)
		})
	}
	return group.Wait()
}

// readyTime bounds a look at readiness: a load balancer gives up after about ten seconds.
const readyTime = 5 * time.Second

// adminHandler adds /readyz to what every program has: 200 where a device could be let in now.
func adminHandler(metrics *prometheus.Registry, health, ready func(context.Context) error) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", console.AdminHandler(metrics, health))
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		ctx, cancel := context.WithTimeout(r.Context(), readyTime)
		defer cancel()
		if ready(ctx) != nil {
			http.Error(w, "not ready; /healthz and the log say more", http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ready\n")) // a lost client has no use for the error
	})
	return mux
}

// channelConfig gives what the channel needs of the configuration.
func channelConfig(c Config) channel.ServiceConfig {
	l := c.Limits
	limiter := channel.NewLimiter(channel.Rate{PerSecond: l.SourceRate, Burst: l.SourceBurst}, channel.Rate{PerSecond: l.DeviceRate, Burst: l.DeviceBurst})
	limiter.BoundTLS(channel.Rate{PerSecond: l.TLSRate, Burst: l.TLSBurst})
	wire := channel.ServiceConfig{Limiter: limiter}
	for _, s := range c.Suites {
		wire.Suites = append(wire.Suites, channel.Suite(s))
	}
	return wire
}

// closing joins the error of a deferred close to the one that a function returns.
func closing(err *error, close func() error) { *err = errors.Join(*err, close()) }
