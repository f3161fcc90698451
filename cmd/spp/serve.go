package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"

	"github.com/devicekeys/devicekeys/audit"
	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/cmd/internal/tokenconfig"
	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/hsm/maker"
	"github.com/devicekeys/devicekeys/provisioning"
	"github.com/devicekeys/devicekeys/provisioning/grant"
	"github.com/devicekeys/devicekeys/provisioning/profile"
	"github.com/devicekeys/devicekeys/registry/sequencer"
)

type serveCmd struct {
	console.ConfigFile
}

// Bounds of the connection to the sequencer. A submission has its own deadline.
const (
	sequencerIdle      = 90 * time.Second // a line that pauses for lunch connects again
	sequencerHandshake = 10 * time.Second // the TLS key is in a token that may be busy
)

func (c *serveCmd) Run(ctx context.Context, io console.IO) (err error) {
	console.CollectSeldom()
	var config Config
	if err := console.LoadConfig(c.Config.String(), &config); err != nil {
		return err
	}
	profiles, err := config.profiles()
	if err != nil {
		return err
	}
	stores, err := config.openStores(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stores.close()) }()
	module, tok, err := tokenconfig.Open(ctx, config.Realm, config.Token, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, module.Close()) }()
	keys, err := maker.Open(ctx, tok, config.Realm)
	if err != nil {
		return err
	}
	if err := derivable(keys, profiles); err != nil {
		return err
	}
	ca, caLabel, err := config.deviceCA(tok, keys, profiles...)
	if err != nil {
		return err
	}
	serviceKey, err := config.serviceKey()
	if err != nil {
		return err
	}
	serverTLS, err := tokenconfig.StationTLS(tok, config.tlsKey(), config.TLS.Certificate.String(), config.TLS.ClientCA.String())
	if err != nil {
		return err
	}
	clientTLS, err := tokenconfig.ClientTLS(tok, config.tlsKey(), config.TLS.Certificate.String(), config.Sequencer.CA.String())
	if err != nil {
		return err
	}
	tokenconfig.RequirePeer(clientTLS, config.Realm, "sequencer")
	name, err := ownName(config, serverTLS.Certificates[0].Leaf)
	if err != nil {
		return err
	}
	registerer := prometheus.NewRegistry()
	registerer.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), module.Collector())
	transport := &http.Transport{
		TLSClientConfig: clientTLS, ForceAttemptHTTP2: true, IdleConnTimeout: sequencerIdle, TLSHandshakeTimeout: sequencerHandshake,
	}
	defer transport.CloseIdleConnections()
	assembly, err := provisioning.New(provisioning.Config{
		Realm: config.Realm, Name: name, Profiles: profiles, Keys: keys, DeviceCA: ca, DeviceCALabel: caLabel, ServiceKey: serviceKey, Pool: stores.pool, Records: stores.records,
		Sequencer: sequencer.NewClient(&http.Client{Transport: transport}, config.Sequencer.URL),
		AuditLog:  audit.New(stores.recordsDB, config.Realm), Metrics: provisioning.NewMetrics(registerer), Log: io.Log,
		StationCAs: serverTLS.ClientCAs, KeyFault: keyFault, ReservationLife: config.Reservation,
	})
	if err != nil {
		return err
	}
	health := func(ctx context.Context) error { return errors.Join(assembly.Check(ctx), stores.check(ctx)) }
	listener, err := console.Listen(ctx, config.Listen)
	if err != nil {
		return err
	}
	admin, err := adminListener(ctx, config)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	io.Log.Info("serving stations", "name", name, "address", listener.Addr().String(), "metrics", config.MetricsListen,
		"realm", config.Realm.String(), "lines", len(profiles), "rom_key", keys.ROMKey().ID().String())
	mux := http.NewServeMux()
	mux.Handle(provisioning.NewHandler(assembly))
	quiet := slog.NewLogLogger(io.Log.Handler(), slog.LevelDebug)
	servers := []server{{&http.Server{Handler: mux, TLSConfig: serverTLS, ErrorLog: quiet}, listener, callsEnd}}
	if admin != nil {
		servers = append(servers, server{&http.Server{Handler: console.AdminHandler(registerer, health), ErrorLog: quiet}, admin, time.Second})
	}
	return run(ctx, assembly, servers, config.Drain, io.Log)
}

// adminListener opens the address for monitoring, or gives nil where there is none.
func adminListener(ctx context.Context, c Config) (net.Listener, error) {
	if c.MetricsListen == "" {
		return nil, nil
	}
	return console.Listen(ctx, c.MetricsListen)
}

// callsEnd is how long calls under way may still take once the drain is over: HSM and databases answer in
// milliseconds, and whoever waited for the registry was told to come back.
const callsEnd = 4 * time.Second

// keyFault says whose fault an error of the keys is. What the module answered, or a token that is lost or busy, is the
// HSM's; without any of that the keys themselves refused what they were asked.
func keyFault(err error) provisioning.KeyFault {
	var code hsm.Code
	switch {
	case hsm.Classify(err) == hsm.DataFault:
		return provisioning.FaultRequest
	case errors.Is(err, hsm.ErrPIN):
		return provisioning.FaultPIN
	case errors.As(err, &code), errors.Is(err, hsm.ErrAway), errors.Is(err, hsm.ErrBusy), errors.Is(err, hsm.ErrKeyGone), errors.Is(err, hsm.ErrNoToken), errors.Is(err, hsm.ErrClosed),
		errors.Is(err, context.DeadlineExceeded):
		return provisioning.FaultHSM
	}
	return provisioning.FaultRequest
}

// server is one of the program's two, with its listener and the time that its calls have at a stop.
type server struct {
	*http.Server
	listener net.Listener
	drain    time.Duration
}

// run serves until ctx ends and stops in order: no device is begun any more, and those that were have drain to get
// through; then calls that wait are told to come back and those under way finish; then the submission under way is
// noted, the audit log's head is signed, and the device keys in the HSM are destroyed. A kill at any moment of it
// loses nothing: it only takes time from those who come back.
func run(ctx context.Context, a *provisioning.Assembly, servers []server, drain time.Duration, log *slog.Logger) error {
	background, stopBackground := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBackground()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		a.Run(background)
	}()
	// One that fails ends the others, without a drain.
	serving, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stopDrain := context.AfterFunc(ctx, func() {
		defer cancel()
		log.Info("stopping: no device is begun any more, those in work go on", "for", drain)
		bound, end := context.WithTimeout(serving, drain)
		defer end()
		if left := a.Drain(bound); left > 0 {
			log.Warn("devices are still in work; they go on at another SPP, or here after a restart", "devices", left)
		}
	})
	defer stopDrain()
	stopWaiting := context.AfterFunc(serving, a.Halt)
	defer stopWaiting()
	var group errgroup.Group
	for _, s := range servers {
		group.Go(func() error {
			defer cancel()
			return console.ServeHTTP(serving, s.Server, s.listener, s.drain)
		})
	}
	err := group.Wait()
	log.Info("stopped serving")
	stopBackground()
	<-ended
	a.Close(context.WithoutCancel(ctx))
	return err
}

// derivable refuses profiles whose keys the token can't derive: better now than at the first device.
func derivable(keys *maker.Keys, profiles []profile.Profile) error {
	for _, p := range profiles {
		for _, e := range p.Entries {
			if e.Source != profile.Derived {
				continue
			}
			if err := keys.Derivable(p.KeyID(e)); err != nil {
				return fmt.Errorf("product line %q: %w", p.Name, err)
			}
		}
	}
	return nil
}

// ownName gives the SPP's name, which its certificate says: the sequencer compares it with each submission.
func ownName(c Config, leaf *x509.Certificate) (string, error) {
	peer, err := grant.PeerFromCertificate(leaf)
	if err == nil && (peer.Realm != c.Realm || peer.Role != "spp") {
		err = fmt.Errorf("it is for %s", peer)
	}
	if err != nil {
		return "", console.Hint(fmt.Errorf("certificate %q is not an SPP's of the %s realm: %w", c.TLS.Certificate, c.Realm, err), "make one with custodian certify --kind server --role spp")
	}
	return peer.Name, nil
}
