package deviceservice

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/devicekeys/devicekeys/channel"
	"github.com/devicekeys/devicekeys/devicecert"
	"github.com/devicekeys/devicekeys/deviceservice/call"
	"github.com/devicekeys/devicekeys/identity"
)

// Defaults of Options.
const (
	DefaultMaxChannels   = 10_000
	DefaultMaxPerDevice  = 2 // the one in use, and the one that takes its place
	DefaultMaxHandshakes = 2_000
	DefaultMaxPerSource  = 100
	DefaultKeysAtOnce    = 16
	DefaultRequestRate   = 20 // a second
)

// requestBurst is how many requests a channel may send at once, in seconds of its rate.
const requestBurst = 5

// Options of a Service.
type Options struct {
	Realm   identity.Realm
	Entries []string         // names of the keys that devices come with: "channel"
	Ways    []Way            // ways that a product line may use
	Lines   map[string][]Way // product lines that differ from Ways

	Issued       Issued
	Keys         Keys              // for Derived and Fetched
	WrappedKeys  WrappedKeys       // for Fetched
	Certificates Certificates      // for Certificate
	Roots        *devicecert.Roots // the device CAs, for Certificate; Channel.TLS.ClientCAs names them too

	// Channel holds what the channel needs beside who is let in: TLS, limits, rate limiter, observer. Realm, Admit and
	// AdmitCertificate are set by the service.
	Channel channel.ServiceConfig

	Handlers     map[string]Handler // services beside the built-in ones, by method
	MaxChannels  int                // channels open at once; 0: DefaultMaxChannels
	MaxPerDevice int                // channels of one device; 0: DefaultMaxPerDevice
	// MaxHandshakes bounds connections whose device has not proven itself yet, beside the open channels;
	// 0: DefaultMaxHandshakes. MaxPerSource bounds those of one source (channel.Networks): an IPv4 address, an IPv6 /64;
	// of a /48 channel.SiteSources times as many; 0: DefaultMaxPerSource.
	MaxHandshakes, MaxPerSource int
	KeysAtOnce                  int     // devices' keys in the HSM at once, beside half as many signatures of TLS; 0: DefaultKeysAtOnce
	RequestRate                 float64 // requests a second that a channel is served, more wait; 0: DefaultRequestRate

	Away       func() bool // whether the records can't be read, for the metrics; nil: never
	Registerer prometheus.Registerer
	Log        *slog.Logger
}

// Service serves devices. It is safe for concurrent use.
type Service struct {
	opts     Options
	handlers map[string]Handler
	metrics  *metrics
	paces    paces
	turns    chan struct{} // one for each device's key in the HSM
	signing  chan struct{} // one for each TLS signature in the HSM
	gate     *gate

	mu   sync.Mutex
	open map[identity.RecordID][]*session // oldest first
}

// New checks the options and gives the service.
func New(o Options) (*Service, error) {
	setDefault(&o.MaxChannels, DefaultMaxChannels)
	setDefault(&o.MaxPerDevice, DefaultMaxPerDevice)
	setDefault(&o.MaxHandshakes, DefaultMaxHandshakes)
	setDefault(&o.MaxPerSource, DefaultMaxPerSource)
	setDefault(&o.KeysAtOnce, DefaultKeysAtOnce)
	setDefault(&o.RequestRate, DefaultRequestRate)
	if o.Away == nil {
		o.Away = func() bool { return false }
	}
	if o.Registerer == nil {
		o.Registerer = prometheus.NewRegistry()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if err := o.check(); err != nil {
		return nil, fmt.Errorf("device service: %w", err)
	}
	if o.Channel.Limits.Message == 0 {
		o.Channel.Limits.Message = call.MaxMessage
	}
	s := &Service{
		opts: o, handlers: builtIn(), open: map[identity.RecordID][]*session{},
		paces: newPaces(), gate: newGate(o.MaxHandshakes, o.MaxPerSource, o.MaxChannels),
		turns: make(chan struct{}, o.KeysAtOnce), signing: make(chan struct{}, (o.KeysAtOnce+1)/2),
	}
	for method, h := range o.Handlers {
		if _, taken := s.handlers[method]; taken {
			return nil, fmt.Errorf("device service: method %q is built in", method)
		}
		s.handlers[method] = h
	}
	var err error
	if s.metrics, err = newMetrics(o.Registerer, o.Away); err != nil {
		return nil, fmt.Errorf("device service: metrics: %w", err)
	}
	return s, nil
}

func setDefault[T int | float64](v *T, value T) {
	if *v == 0 {
		*v = value
	}
}

func (o Options) check() error {
	ways := map[Way]bool{}
	for _, w := range o.Ways {
		ways[w] = true
	}
	for _, all := range o.Lines {
		for _, w := range all {
			ways[w] = true
		}
	}
	switch {
	case !o.Realm.Valid():
		return fmt.Errorf("%s is not a realm", o.Realm)
	case o.Issued == nil:
		return errors.New("nothing tells what was issued: nobody is let in unchecked")
	case len(ways) == 0:
		return errors.New("no way to a device's key is allowed")
	case (ways[Derived] || ways[Fetched]) && (o.Keys == nil || len(o.Entries) == 0):
		return errors.New("derived and fetched keys need an HSM and the names of entries")
	case ways[Fetched] && o.WrappedKeys == nil:
		return errors.New("fetched keys need a table of wrapped ones")
	case ways[Certificate] && (o.Certificates == nil || o.Roots == nil):
		return errors.New("certificates need a registry and the device CA")
	case o.MaxChannels < 1 || o.MaxPerDevice < 1 || o.MaxHandshakes < 1 || o.MaxPerSource < 1 || o.KeysAtOnce < 1 || o.RequestRate <= 0:
		return fmt.Errorf("limits: %d channels, %d of a device, %d handshakes, %d of a source, %d keys at once, %g requests a second: all are above 0",
			o.MaxChannels, o.MaxPerDevice, o.MaxHandshakes, o.MaxPerSource, o.KeysAtOnce, o.RequestRate)
	}
	return nil
}

// Methods gives the names of the services.
func (s *Service) Methods() []string {
	var all []string
	for m := range maps.Keys(s.handlers) {
		all = append(all, m)
	}
	return all
}

// Serve takes devices from the listener, which it owns, until ctx ends. Then it takes no more, lets each channel finish
// the request in hand, ends the channels properly, and after drain cuts what is left. The error is nil after a stop in
// which nothing was cut off.
func (s *Service) Serve(ctx context.Context, l net.Listener, drain time.Duration) error {
	work, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	defer context.AfterFunc(ctx, func() { l.Close() })() // Accept returns; the error of closing says nothing more
	var group sync.WaitGroup
	err := s.accept(ctx, work, l, &group)
	_ = l.Close()
	all := make(chan struct{})
	go func() {
		group.Wait()
		close(all)
	}()
	t := time.NewTimer(drain)
	defer t.Stop()
	select {
	case <-all:
		return err
	case <-t.C:
	}
	cut()
	<-all
	return errors.Join(err, fmt.Errorf("stop the device service on %s: channels were cut off after %s", l.Addr(), drain))
}

// acceptPause is how long the service waits after a failed accept (no more file descriptors, for example).
const acceptPause = 50 * time.Millisecond

func (s *Service) accept(ctx, work context.Context, l net.Listener, group *sync.WaitGroup) error {
	for {
		conn, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = conn.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept devices on %s: %w", l.Addr(), err)
		case err != nil:
			s.opts.Log.Warn("can't accept a connection", "error", err)
			time.Sleep(acceptPause)
			continue
		}
		from := source(conn.RemoteAddr())
		if turned := s.gate.enter(from); turned != "" {
			s.metrics.full.WithLabelValues(string(turned)).Inc()
			_ = conn.Close()
			continue
		}
		group.Go(func() { s.handle(ctx, work, conn, from) })
	}
}

// handle is the life of one connection, which the gate has taken in.
func (s *Service) handle(ctx, work context.Context, conn net.Conn, from netip.Addr) {
	a := &admission{}
	defer s.recovered(a, from) // one connection's fault is not to end the others
	defer conn.Close()         // after the channel's own end, or instead of it
	defer context.AfterFunc(work, func() { conn.Close() })()
	c := s.shake(work, conn, a, from)
	if c == nil {
		return
	}
	defer s.gate.close()
	s.metrics.channels.Inc()
	defer s.metrics.channels.Dec()
	s.converse(ctx, work, newSession(s, c, a, from))
}

// shake opens the channel of one connection, and leaves the gate. It gives nil where none comes about.
func (s *Service) shake(work context.Context, conn net.Conn, a *admission, from netip.Addr) *channel.Conn {
	defer s.gate.leave(from)
	began := time.Now()
	config := s.opts.Channel
	config.Realm, config.Pace, config.Sign = s.opts.Realm, s.pace, s.sign
	var refused error
	config.Admit = func(ctx context.Context, h channel.Hello, _ netip.Addr) (channel.Peer, error) {
		p, err := s.admit(ctx, a, h)
		refused = err
		return p, err
	}
	config.AdmitCertificate = func(ctx context.Context, h channel.Hello, c *x509.Certificate, _ netip.Addr) error {
		refused = s.admitCertificate(ctx, a, h, c)
		return refused
	}
	c, err := channel.Server(work, conn, config)
	if err != nil {
		if refused != nil { // the channel says it at more length
			err = refused
		}
		s.refused(a, from, err)
		return nil
	}
	if !s.gate.open() { // the last place went meanwhile
		s.metrics.full.WithLabelValues(string(causeChannels)).Inc()
		return nil
	}
	s.metrics.handshakes.WithLabelValues(suiteName(a.hello.Suite), "ok").Inc()
	s.metrics.seconds.WithLabelValues(suiteName(a.hello.Suite)).Observe(time.Since(began).Seconds())
	s.opts.Log.Debug("channel open", "record", a.device.Record.Short(), "generation", a.device.Generation, "source", from, "way", string(a.way))
	return c
}

// signWait bounds how long a handshake of TLS waits for its turn to have the HSM sign: nothing is known of its peer yet.
const signWait = time.Second

// sign is the channel's Sign: strangers' handshakes of TLS take up no more than a part of the HSM.
func (s *Service) sign(ctx context.Context, do func() error) error {
	if !take(ctx, s.signing, signWait) {
		return refuse(ReasonBusy, fmt.Errorf("no turn for a signature of TLS within %s", signWait))
	}
	defer func() { <-s.signing }()
	return do()
}

// refused counts and logs a handshake that failed.
func (s *Service) refused(a *admission, from netip.Addr, err error) {
	reason := reasonOf(err)
	s.metrics.handshakes.WithLabelValues(suiteName(a.hello.Suite), string(reason)).Inc()
	level := slog.LevelInfo
	switch reason {
	case ReasonHSM, ReasonAway:
		level = slog.LevelWarn
	case ReasonLimited, ReasonNoHello: // neither a flood nor health checks are to fill the log
		level = slog.LevelDebug
	}
	attrs := []slog.Attr{slog.String("reason", string(reason)), slog.Any("source", from), slog.Any("error", err)}
	if a.device.Record != (identity.RecordID{}) {
		attrs = append(attrs, slog.String("record", a.device.Record.Short()))
	}
	s.opts.Log.LogAttrs(context.Background(), level, "handshake failed", attrs...)
}

// suiteName is a suite as a label; what is none is one.
func suiteName(suite channel.Suite) string {
	if !suite.Valid() {
		return "none"
	}
	return suite.String()
}
