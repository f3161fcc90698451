package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/devicekeys/devicekeys/channel"
	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/device"
	"github.com/devicekeys/devicekeys/deviceservice/call"
	"github.com/devicekeys/devicekeys/deviceservice/client"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/registry"
)

type channelCmd struct {
	Open channelOpenCmd `cmd:"" help:"Open a secure channel with the maker's device service, and ask it something."`
}

type channelOpenCmd struct {
	deviceFlags
	Call     string        `arg:"" enum:"time,status,echo" help:"What to ask: time, status (what the service knows of the device) or echo."`
	Text     string        `arg:"" optional:"" help:"What echo sends."`
	Service  string        `name:"service" required:"" placeholder:"HOST:PORT" help:"Where the device service listens."`
	Suite    string        `name:"suite" enum:"noise,tls,certificate" default:"noise" help:"How: noise and tls with the communication key, certificate with a key pair (default noise)."`
	Entry    string        `name:"entry" placeholder:"NAME" help:"Which of the device's keys (default: the first that fits the suite)."`
	CA       string        `name:"ca" placeholder:"FILE" help:"CA of the service's TLS certificate, PEM; for tls and certificate."`
	Registry string        `name:"registry" placeholder:"URL" help:"Where the device's own certificate is looked up; for certificate."`
	As       string        `name:"as" hidden:"" placeholder:"IMEI" help:"Say another identity than the device's own: to see it refused."`
	Timeout  time.Duration `name:"timeout" default:"20s" placeholder:"DURATION" help:"When to give up (default 20s)."`
}

func (*channelOpenCmd) Help() string {
	return `The device boots, says who it is, and proves it with a key that stays in its chip; the service proves that it has the maker's. Whatever the service refuses, it refuses in the same words: ask its operator for the reason.`
}

func (*channelOpenCmd) Examples() string {
	return `$ device channel open device-0001 status --service service.example:7450
$ device channel open device-0001 echo hello --service service.example:7450 --suite tls --ca station-ca.pem
$ device channel open device-0001 time --service service.example:7450 --suite certificate --ca station-ca.pem \
    --registry https://registry.example`
}

// channelled is what channel open prints.
type channelled struct {
	Name         string              `json:"name"`
	Record       identity.RecordID   `json:"record"`
	Identity     string              `json:"identity"`
	Generation   identity.Generation `json:"generation"`
	Suite        string              `json:"suite"`
	Key          string              `json:"key"`
	Milliseconds float64             `json:"handshake_ms"`
	Call         string              `json:"call"`
	Answer       string              `json:"answer"`
}

// suites are the suites by the names of --suite, with the algorithms of their keys.
var suites = map[string]struct {
	suite      channel.Suite
	algorithms []keypackage.Algorithm
}{
	"noise":       {channel.SuiteNoise, []keypackage.Algorithm{keypackage.HMACSHA256}},
	"tls":         {channel.SuiteTLS, []keypackage.Algorithm{keypackage.HMACSHA256}},
	"certificate": {channel.SuiteCertificate, keypackage.Algorithms(keypackage.UseSignature)},
}

func (c *channelOpenCmd) Run(ctx context.Context, io console.IO) error {
	s := suites[c.Suite]
	host, _, err := net.SplitHostPort(c.Service)
	switch {
	case err != nil:
		return console.Usagef("service %q: give HOST:PORT: %w", c.Service, err)
	case c.Suite != "noise" && c.CA == "":
		return console.Usagef("suite %s needs --ca: the CA that signed the service's certificate", c.Suite)
	case c.Suite == "certificate" && c.Registry == "":
		return console.Usagef("suite certificate needs --registry: the device's own certificate stands in its record there")
	case c.Text != "" && c.Call != "echo":
		return console.Usagef("%s takes no text", c.Call)
	case c.Timeout <= 0:
		return console.Usagef("timeout %s: give one above 0", c.Timeout)
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	return c.with(ctx, io, func(d *device.Device) error {
		b, err := d.Boot(ctx)
		if err != nil {
			return err
		}
		key, err := keyOf(b, s.algorithms, c.Entry)
		if err != nil {
			return err
		}
		config := channel.DeviceConfig{
			Hello: channel.Hello{Suite: s.suite, Realm: b.Realm, Key: key.Key, Identity: b.Identity, Generation: b.Generation},
			MAC:   func(ctx context.Context, msg []byte) ([]byte, error) { return d.MAC(ctx, key.Key.Name, msg) },
		}
		if c.As != "" {
			if config.Hello.Identity, err = identity.Parse(b.Identity.Type(), c.As); err != nil {
				return console.Usagef("as: %w", err)
			}
		}
		if c.Suite != "noise" {
			if config.TLS, err = c.tls(ctx, d, key, host); err != nil {
				return err
			}
		}
		out := channelled{Name: c.Name, Record: b.Record, Identity: config.Hello.Identity.String(), Generation: b.Generation, Suite: s.suite.String(), Key: key.Key.String(), Call: c.Call}
		begin := time.Now()
		opened, err := client.Dial(ctx, c.Service, config)
		if err != nil {
			return refusedByService(err)
		}
		out.Milliseconds = float64(time.Since(begin).Microseconds()) / 1000
		out.Answer, err = c.ask(ctx, opened)
		if err = errors.Join(err, opened.Close()); err != nil {
			return refusedByService(err)
		}
		return c.Print(io.Out, out)
	})
}

// refusedByService sorts errors of a channel: what the service refuses is no fault of this program.
func refusedByService(err error) error {
	var busy *client.BusyError
	switch {
	case errors.As(err, &busy):
		return console.Hint(err, "the service can't answer now: try again in %s", busy.After)
	case errors.Is(err, channel.ErrRefused):
		return refused{console.Hint(err, "the service lets in only what is issued and current: is this generation superseded, the identity a clone, the key another one? Its operator sees the reason in its metrics and log")}
	}
	return err
}

// refused ends with the code for what a device or service declines.
type refused struct{ error }

func (r refused) Unwrap() error { return r.error }

// Refused names the refusal.
func (refused) Refused() string { return "refused" }

// keyOf picks the entry to use.
func keyOf(b *device.Booted, algorithms []keypackage.Algorithm, name string) (keypackage.Entry, error) {
	var names []string
	for _, e := range b.Entries {
		if slices.Contains(algorithms, e.Algorithm) && (name == "" || e.Key.Name == name) && (!e.Algorithm.Symmetric() || e.Kind == keypackage.Communication) {
			return e, nil
		}
		names = append(names, fmt.Sprintf("%s (%s, %s)", e.Key.Name, e.Kind, e.Algorithm))
	}
	if name == "" {
		name = "key"
	}
	return keypackage.Entry{}, console.Usagef("the device has no %s of %s for this; it has %q", name, keypackage.Either(algorithms), names)
}

// tls gives what the TLS suites need: the service's CA, and for a key pair the device's certificate.
func (c *channelOpenCmd) tls(ctx context.Context, d *device.Device, key keypackage.Entry, host string) (*tls.Config, error) {
	text, err := readFile(c.CA, maxChain)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{RootCAs: x509.NewCertPool(), ServerName: host, MinVersion: tls.VersionTLS13}
	if !config.RootCAs.AppendCertsFromPEM(text) {
		return nil, console.Usagef("%q holds no certificate", c.CA)
	}
	if c.Suite != "certificate" {
		return config, nil
	}
	der, err := ownCertificate(ctx, d, c.Registry, key.Vouch)
	if err != nil {
		return nil, err
	}
	signer, err := d.Signer(ctx, key.Key.Name)
	if err != nil {
		return nil, err
	}
	config.Certificates = []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: signer}}
	return config, nil
}

// maxChain bounds a file of CA certificates, in bytes.
const maxChain = 64 << 10

// ownCertificate looks the certificate of one of the device's keys up in its record.
func ownCertificate(ctx context.Context, d *device.Device, registryURL string, point []byte) ([]byte, error) {
	record, err := lookup(ctx, d, registryURL)
	if err != nil {
		return nil, err
	}
	own, err := certificatesOf(record, point)
	if err != nil {
		return nil, err
	}
	return own[0], nil
}

// certificatesOf gives the certificates of a key in the device's record: one, or more where the key was certified again.
func certificatesOf(record registry.Record, point []byte) ([][]byte, error) {
	var found [][]byte
	for _, der := range record.X509 {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			continue
		}
		if public, ok := cert.PublicKey.(*ecdsa.PublicKey); ok {
			if own, err := public.Bytes(); err == nil && bytes.Equal(own, point) {
				found = append(found, der)
			}
		}
	}
	if len(found) == 0 {
		return nil, console.Hint(fmt.Errorf("the device's record has no certificate of the key %s…", hex.EncodeToString(point[1:5])),
			"its product line has none for this key: use a key with a certificate, or the suite noise")
	}
	return found, nil
}

func (c *channelOpenCmd) ask(ctx context.Context, s *client.Client) (string, error) {
	switch c.Call {
	case "time":
		t, err := s.Time(ctx)
		return t.UTC().Format(time.RFC3339), err
	case "status":
		st, err := s.Status(ctx)
		return describe(st), err
	}
	b, err := s.Echo(ctx, []byte(c.Text))
	return string(b), err
}

func describe(s call.DeviceStatus) string {
	text := fmt.Sprintf("generation %d, newest %d", s.Generation, s.Newest)
	if s.Active {
		return text + ", active"
	}
	return text + ", not active"
}
