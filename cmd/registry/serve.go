package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/registry"
	"github.com/devicekeys/devicekeys/registry/store"
)

type serveCmd struct {
	console.ConfigFile
}

const (
	// drain bounds how long lookups under way may go on after SIGTERM; they are short.
	drain = 10 * time.Second
	// readTimeout and writeTimeout bound a request and its answer: the longest is a batch to a slow phone.
	readTimeout  = 10 * time.Second
	writeTimeout = 30 * time.Second
	// headerLimit bounds a request's header, in bytes: ours have a few hundred.
	headerLimit = 16 << 10
)

func (c *serveCmd) Run(ctx context.Context, io console.IO) (err error) {
	var config ServeConfig
	if err := console.LoadConfig(c.Config.String(), &config); err != nil {
		return err
	}
	server := &http.Server{ReadTimeout: readTimeout, WriteTimeout: writeTimeout, MaxHeaderBytes: headerLimit}
	if config.TLS.on() {
		if server.TLSConfig, err = config.TLS.load(); err != nil {
			return err
		}
	}
	db, err := config.Database.Open(ctx, conns)
	if err != nil {
		return console.Hint(err, "check database in the configuration; registry migrate sets it up")
	}
	defer closing(&err, db.Close)
	if err := store.RequireSchema(ctx, db); err != nil {
		return console.Hint(err, "run registry migrate")
	}
	reader, err := store.NewReader(ctx, db)
	if err != nil {
		return err
	}
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	server.Handler, err = registry.NewHandler(reader, registry.HandlerOptions{
		NewestAge: config.NewestAge, GenerationAge: config.GenerationAge, CacheBytes: int64(config.CacheMiB) << 20,
		Rate: config.Rate, Burst: config.Burst, Unlimited: config.Unlimited, TrustedProxies: config.TrustedProxies,
		Directory: config.Directory, DirectoryRate: config.DirectoryRate, DirectoryBurst: config.DirectoryBurst, DirectoryTotalRate: config.DirectoryTotal,
		Registerer: metrics, Log: io.Log,
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
	scheme := "http"
	if config.TLS.on() {
		scheme = "https"
	}
	io.Log.Info("serving", "url", scheme+"://"+listener.Addr().String(), "metrics", address(admin))
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return console.ServeHTTP(ctx, server, listener, drain) })
	if admin != nil {
		group.Go(func() error {
			return console.ServeHTTP(ctx, &http.Server{Handler: console.AdminHandler(metrics, reader.Check)}, admin, time.Second)
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	io.Log.Info("stopped")
	return nil
}

func address(l net.Listener) string {
	if l == nil {
		return ""
	}
	return l.Addr().String()
}

// closing joins the error of a deferred close to the one that a function returns.
func closing(err *error, close func() error) { *err = errors.Join(*err, close()) }

// load reads certificate and key, refusing what would only fail at the first handshake, and a key that others can read.
func (c TLSConfig) load() (*tls.Config, error) {
	info, err := os.Stat(c.Key.String())
	if err != nil {
		return nil, fmt.Errorf("read TLS key: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, console.Hint(fmt.Errorf("TLS key %q has mode %#o: others can read it", c.Key, mode), "run: chmod 0400 %s", c.Key)
	}
	pair, err := tls.LoadX509KeyPair(c.Certificate.String(), c.Key.String())
	if err != nil {
		return nil, fmt.Errorf("read TLS certificate %q: %w", c.Certificate, err)
	}
	if now := time.Now(); now.After(pair.Leaf.NotAfter) || now.Before(pair.Leaf.NotBefore) {
		return nil, console.Hint(fmt.Errorf("TLS certificate %q is valid from %s to %s", c.Certificate,
			pair.Leaf.NotBefore.UTC().Format(time.RFC3339), pair.Leaf.NotAfter.UTC().Format(time.RFC3339)), "renew it, or check this machine's clock")
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2", "http/1.1"}}, nil
}
