package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/cmd/internal/tokenconfig"
	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/registry/sequencer"
	"github.com/devicekeys/devicekeys/registry/store"
)

type serveCmd struct {
	console.ConfigFile
}

func (c *serveCmd) Run(ctx context.Context, io console.IO) (err error) {
	console.CollectSeldom()
	var config Config
	if err := console.LoadConfig(c.Config.String(), &config); err != nil {
		return err
	}
	submission, err := readKeys(config.SubmissionKeys)
	if err != nil {
		return err
	}
	signing, err := readKeys(config.IdentitySigningKeys)
	if err != nil {
		return err
	}
	db, err := config.Database.Open(ctx, conns)
	if err != nil {
		return console.Hint(err, "check database in the configuration; registry migrate sets it up")
	}
	defer closing(&err, db.Close)
	if err := store.RequireSchema(ctx, db); err != nil {
		return console.Hint(err, "run registry migrate")
	}
	module, tok, err := tokenconfig.Open(ctx, config.Realm, config.Token, true)
	if err != nil {
		return err
	}
	defer closing(&err, module.Close)
	checkpoint, err := openCheckpointKey(ctx, tok, config.checkpointKey())
	if err != nil {
		return err
	}
	serverTLS, err := tokenconfig.ServerTLS(tok, config.tlsKey(), config.TLS.Certificate.String(), config.TLS.ClientCA.String())
	if err != nil {
		return err
	}
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), module.Collector())
	service, err := sequencer.New(ctx, store.NewWriter(db), sequencer.Options{
		Realm: config.Realm, SubmissionKeys: submission, IdentityKeys: signing, QueueBytes: int64(config.QueueMiB) << 20,
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
	io.Log.Info("serving", "url", "https://"+listener.Addr().String(), "realm", config.Realm.String(),
		"token", tok.Info().Label, "checkpoint_key", checkpoint)
	health := func(ctx context.Context) error { return errors.Join(service.Check(ctx), tok.Check(ctx)) }
	server := &http.Server{Handler: service.Handler(), TLSConfig: serverTLS}
	if err := serve(ctx, config.Drain, service, server, listener, console.AdminHandler(metrics, health), admin); err != nil {
		return err
	}
	io.Log.Info("stopped")
	return nil
}

// serve runs until ctx is cancelled, or until the service finds that it must stop. The server stops first, so that
// every submission it took gets its answer, and then the service's loop.
func serve(ctx context.Context, drain time.Duration, service *sequencer.Service, server *http.Server, l net.Listener, metrics http.Handler, admin net.Listener) error {
	loop, stopLoop := context.WithCancel(context.WithoutCancel(ctx))
	defer stopLoop()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return service.Run(loop) })
	group.Go(func() error {
		defer stopLoop()
		return console.ServeHTTP(ctx, server, l, drain)
	})
	if admin != nil {
		group.Go(func() error {
			return console.ServeHTTP(ctx, &http.Server{Handler: metrics}, admin, time.Second)
		})
	}
	return group.Wait()
}

// openCheckpointKey finds the key that will sign the log's checkpoints and has it sign once: a sequencer whose key
// is missing or wrong is better found out at its start than at its first checkpoint. It gives the public half.
func openCheckpointKey(ctx context.Context, tok *hsm.Token, label string) (public string, err error) {
	key, err := tok.Find(ctx, hsm.Spec{Kind: hsm.CheckpointKey, Label: label, Token: true})
	if err != nil {
		return "", console.Hint(fmt.Errorf("open checkpoint key: %w", err), "make it with custodian token --for sequencer")
	}
	// Not the form of a checkpoint (C2SP tlog-checkpoint), so that the signature is worth nothing.
	message := []byte("devicekeys checkpoint key self-test")
	signature, err := key.SignMessage(ctx, message)
	if err != nil {
		return "", fmt.Errorf("test checkpoint key %q: %w", label, err)
	}
	if p := key.Public(); len(p) != ed25519.PublicKeySize || !ed25519.Verify(p, message, signature) {
		return "", fmt.Errorf("test checkpoint key %q: its signature does not verify: don't use this token", label)
	}
	return fmt.Sprintf("%x", key.Public()), nil
}

// closing joins the error of a deferred close to the one that a function returns.
func closing(err *error, close func() error) { *err = errors.Join(*err, close()) }
