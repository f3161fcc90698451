package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/devicekeys/devicekeys/bench"
	"github.com/devicekeys/devicekeys/channel"
	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/device"
	"github.com/devicekeys/devicekeys/deviceservice/client"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/secret"
	"github.com/devicekeys/devicekeys/softhsm/raw"
)

func init() {
	benches = append(benches, bench.Bench{Name: "handshake", Summary: "secure channels opened with the device service, against the same PKCS#11 calls made raw", Run: handshake})
}

const (
	handshakeDevices = 64
	handshakes       = 2000 // of a round
	handshakeHands   = 16
	serviceName      = "deviceservice"
)

// fleet are devices that were shipped and run, in this process: software chips.
type fleet []channel.DeviceConfig

// board ships devices and boots them.
func (f *factory) board(ctx context.Context, n int) (all fleet, stop func() error, err error) {
	c, err := f.crew(ctx, f.SPPNames()[0])
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	units, err := f.units(ctx, n)
	if err != nil {
		return nil, nil, err
	}
	for _, u := range units {
		u.kept = true
	}
	if _, err := c.ship(ctx, units, flight, nil); err != nil {
		return nil, nil, err
	}
	var open []*device.Device
	stop = func() error {
		var errs error
		for _, d := range open {
			errs = errors.Join(errs, d.Close(context.WithoutCancel(ctx)))
		}
		return errs
	}
	for _, u := range units {
		d, err := device.Open(ctx, device.Config{Chip: u.chip, Flash: u.flash})
		if err != nil {
			return nil, nil, errors.Join(err, stop())
		}
		open = append(open, d)
		b, err := d.Boot(ctx)
		if err != nil {
			return nil, nil, errors.Join(err, stop())
		}
		var key keypackage.KeyID
		for _, e := range b.Entries {
			if e.Kind == keypackage.Communication {
				key = e.Key
			}
		}
		all = append(all, channel.DeviceConfig{
			Hello: channel.Hello{Suite: channel.SuiteNoise, Realm: b.Realm, Key: key, Identity: b.Identity, Generation: b.Generation},
			MAC:   func(ctx context.Context, msg []byte) ([]byte, error) { return d.MAC(ctx, key.Name, msg) },
		})
	}
	return all, stop, nil
}

// handshake compares the device service's program with a process that does nothing but the calls of a handshake.
// The devices' side is in this process and takes its share of the machine.
func handshake(ctx context.Context, e *bench.Env) (rows []bench.Result, err error) {
	n := e.Size(handshakes, 50)
	err = with(ctx, e, order{devices: handshakeDevices, service: true}, func(f *factory) (err error) {
		devices, stop, err := f.board(ctx, handshakeDevices)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, stop()) }()
		pid := f.Server(serviceName).PID()
		var used, spent []float64 // CPU in ms for each handshake: of the service, of the raw calls
		product := func(ctx context.Context) (float64, error) {
			before, err := cpu(pid)
			if err != nil {
				return 0, err
			}
			perSecond, err := devices.shakeHands(ctx, f.Address(serviceName), n)
			if err != nil {
				return 0, err
			}
			after, err := cpu(pid)
			used = append(used, float64((after-before).Microseconds())/1000/float64(n))
			return perSecond, err
		}
		bound := func(ctx context.Context) (float64, error) {
			r, err := f.rawHandshakes(ctx, n)
			spent = append(spent, r.CPU)
			return r.PerSecond, err
		}
		calls, err := f.Metric(ctx, serviceName, "devicekeys_pkcs11_calls_total")
		if err != nil {
			return err
		}
		compared, err := bench.Compare(ctx, e.Rounds, product, bound)
		if err != nil {
			return err
		}
		after, err := f.Metric(ctx, serviceName, "devicekeys_pkcs11_calls_total")
		if err != nil {
			return err
		}
		full, err := tlsHandshakes(ctx, f, n)
		if err != nil {
			return err
		}
		rows = []bench.Result{
			bench.Compared("handshake", "handshakes/s", "the same PKCS#11 calls made raw, one thread, nothing else on the machine", compared).AtLeast(0.6, 0.8).
				Note("in_flight", handshakeHands).Note("go_tls13_full_handshakes_per_second", full).Note("what", "devices and service on one machine"),
			bench.Measured("handshake-calls", (after-calls)/float64((e.Rounds+1)*n), "calls").AtMost(6, 4),
			bench.Compared("handshake-cpu", "ms CPU", "the same PKCS#11 calls made raw", ratio(used, spent)).AtMost(2, 1.5),
		}
		return nil
	})
	return rows, err
}

// ratio compares two series that were measured in turns; the first of each was the warm-up.
func ratio(product, bound []float64) bench.Comparison {
	c := bench.Comparison{}
	var ratios []float64
	for i := 1; i < len(product); i++ {
		ratios = append(ratios, product[i]/bound[i])
		c.Rounds = append(c.Rounds, bench.Round{Value: product[i], BoundValue: &bound[i]})
	}
	c.Value, c.BoundValue, c.Ratio = bench.Median(product[1:]), bench.Median(bound[1:]), bench.Median(ratios)
	return c
}

// shakeHands opens and ends n channels, several at once, and tells how many a second.
func (all fleet) shakeHands(ctx context.Context, address string, n int) (float64, error) {
	var next atomic.Int64
	begun := time.Now()
	group, work := errgroup.WithContext(ctx)
	for range handshakeHands {
		group.Go(func() error {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return nil
				}
				c, err := client.Dial(work, address, all[i%len(all)])
				if err != nil {
					return fmt.Errorf("handshake %d: %w", i+1, err)
				}
				if err := c.Close(); err != nil {
					return fmt.Errorf("end of channel %d: %w", i+1, err)
				}
			}
		})
	}
	err := group.Wait()
	return float64(n) / time.Since(begun).Seconds(), err
}

// tlsHandshakes is for scale: Go's full TLS 1.3 handshakes with a P-256 certificate, both ends in this process.
func tlsHandshakes(ctx context.Context, f *factory, n int) (float64, error) {
	config, err := f.certify(ctx, "scale")
	if err != nil {
		return 0, err
	}
	config.InsecureSkipVerify, config.VerifyConnection = true, nil // it is a station's, and the time of a handshake is all that's asked
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				s := tls.Server(c, config)
				_ = s.HandshakeContext(ctx) // the client's error says it
				_ = s.Close()
			}()
		}
	}()
	begun := time.Now()
	var next atomic.Int64
	group, work := errgroup.WithContext(ctx)
	for range handshakeHands {
		group.Go(func() error {
			for next.Add(1) <= int64(n) {
				c, err := (&tls.Dialer{Config: config}).DialContext(work, "tcp", l.Addr().String())
				if err != nil {
					return err
				}
				_ = c.Close() // the handshake is over
			}
			return nil
		})
	}
	err = group.Wait()
	return float64(n) / time.Since(begun).Seconds(), err
}

// rawHandshakes runs the hidden command in a process of its own, on a copy of the service's token.
func (f *factory) rawHandshakes(ctx context.Context, n int) (r rawShakes, err error) {
	executable, err := os.Executable()
	if err != nil {
		return r, err
	}
	d := f.HSM(serviceName)
	cmd := exec.CommandContext(ctx, executable, "raw-handshakes", "--module", d.Module(), "--pin", f.Etc(serviceName+".pin"), "--count", fmt.Sprint(n))
	cmd.Env, cmd.Stderr = d.Env(), f.env.Err
	out, err := cmd.Output()
	if err != nil {
		return r, fmt.Errorf("the raw calls: %w", err)
	}
	return r, json.Unmarshal(out, &r)
}

// rawHandshakesCmd makes a handshake's PKCS#11 calls raw, in this process, on the token directory that SOFTHSM2_CONF names.
type rawHandshakesCmd struct {
	Module string       `name:"module" required:"" placeholder:"FILE" help:"PKCS#11 module."`
	PIN    console.Path `name:"pin" required:"" placeholder:"FILE" help:"File with the PIN of token dev-service."`
	Count  int          `name:"count" required:"" placeholder:"N" help:"Handshakes."`
}

// rawShakes is what the process says.
type rawShakes struct {
	PerSecond float64 `json:"per_second"`
	CPU       float64 `json:"cpu_ms"` // of this process, for each handshake
}

func (c *rawHandshakesCmd) Run(_ context.Context, io console.IO) (err error) {
	pin, err := secret.ReadFile(c.PIN.String())
	if err != nil {
		return err
	}
	loop, err := raw.Open(raw.Config{Module: c.Module, Token: "dev-service", PIN: pin, Purpose: "dev-purpose-channel-1"})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, loop.Close()) }()
	for range rawWarmUp {
		if err := loop.Handshake(); err != nil {
			return err
		}
	}
	before, begun := ownCPU(), time.Now()
	for range c.Count {
		if err := loop.Handshake(); err != nil {
			return err
		}
	}
	return json.NewEncoder(io.Out).Encode(rawShakes{
		PerSecond: float64(c.Count) / time.Since(begun).Seconds(), CPU: float64(ownCPU()-before) / float64(time.Millisecond) / float64(c.Count),
	})
}
