package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/devicekeys/devicekeys/device/chip"
	"github.com/devicekeys/devicekeys/device/slots"
	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/provisioning/grant"
	provisioningrpc "github.com/devicekeys/devicekeys/provisioning/rpc"
	"github.com/devicekeys/devicekeys/secret"
	"github.com/devicekeys/devicekeys/softhsm"
)

func TestMain(m *testing.M) { testscript.Main(m, map[string]func(){"station": main}) }

const dev = identity.Development

const configText = `
realm: development
spp:
  url: %s
  ca: ca.pem
token:
  token: %s
  pin_file: station.pin
  lock_file: %s
  sessions: 2
certificate: station.pem
devices: devices
modules: modules
journal: journal
hands: 2
`

// refusing is an SPP at the wire that does not serve the station's product
// line and says so: what the command makes of a refusal.
type refusing struct {
	provisioningrpc.UnimplementedAssemblyServiceHandler
}

func (refusing) Modules(context.Context, *connect.Request[provisioningrpc.ModulesRequest]) (*connect.Response[provisioningrpc.ModulesResponse], error) {
	err := connect.NewError(connect.CodePermissionDenied, errors.New(`product line "phone" is not served here`))
	d, failed := connect.NewErrorDetail(&provisioningrpc.Refusal{Code: "line", Next: "use the SPP of this product line"})
	if failed != nil {
		return nil, failed
	}
	err.AddDetail(d)
	return nil, err
}

// bench is what a station needs around it: a token with a TLS key, a CA, a
// device slot, an SPP.
type bench struct {
	h      *softhsm.HSM
	token  softhsm.Token
	public *ecdsa.PublicKey
	ca     *x509.Certificate
	key    *ecdsa.PrivateKey
	slots  string
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{h: softhsm.New(t), slots: t.TempDir()}
	b.token = b.h.Token(t, "dev-station")
	key, err := b.h.Open(t, b.token).Generate(t.Context(), hsm.Spec{Kind: hsm.TLSKey, Label: "dev-tls-station", Token: true})
	must(t, err)
	b.public, err = ecdsa.ParseUncompressedPublicKey(elliptic.P256(), key.Public())
	must(t, err)
	b.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	b.ca = &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"},
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	b.ca, err = x509.ParseCertificate(b.certify(t, b.ca, &b.key.PublicKey))
	must(t, err)
	rack, err := chip.OpenRack(t.Context(), b.h.Directory.Module(), b.h.Directory.LockFile(), dev)
	must(t, err)
	_, err = slots.Create(t.Context(), b.slots, rack, 1, slots.MakeOptions{Realm: dev})
	must(t, errors.Join(err, rack.Close()))
	return b
}

func (b *bench) certify(t *testing.T, template *x509.Certificate, public *ecdsa.PublicKey) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, b.ca, public, b.key)
	must(t, err)
	return der
}

func (b *bench) leaf(t *testing.T, life time.Duration, uri *url.URL, public *ecdsa.PublicKey) []byte {
	t.Helper()
	return b.certify(t, &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()),
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(life), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		URIs: []*url.URL{uri}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}, public)
}

// spp starts an SPP whose certificate says this role.
func (b *bench) spp(t *testing.T, role string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(b.ca)
	mux := http.NewServeMux()
	mux.Handle(provisioningrpc.NewAssemblyServiceHandler(refusing{}))
	server := httptest.NewUnstartedServer(mux)
	server.EnableHTTP2 = true
	server.TLS = &tls.Config{MinVersion: tls.VersionTLS13, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool, Certificates: []tls.Certificate{{
		Certificate: [][]byte{b.leaf(t, time.Hour, grant.PeerURI(dev, role, "one"), &key.PublicKey)}, PrivateKey: key}}}
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	server.StartTLS()
	t.Cleanup(server.Close)
	return server.URL
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func pemBlock(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// TestScript runs each script in a folder with a station's configuration, token
// and one device.
func TestScript(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	line := grant.Grant{Realm: dev, Station: "line-1", Line: "phone", Quota: 10}.URI()
	spp, other := b.spp(t, "spp"), b.spp(t, "sequencer")
	good := fmt.Sprintf(configText, spp, b.token.Label, b.h.Directory.LockFile())
	stray, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	files := map[string]string{
		"station.yaml": good,
		"ca.pem":       pemBlock(b.ca.Raw),
		"station.pem":  pemBlock(b.leaf(t, time.Hour, line, b.public)),
		"expired.pem":  pemBlock(b.leaf(t, -time.Minute, line, b.public)),
		"foreign.pem":  pemBlock(b.leaf(t, time.Hour, line, &stray.PublicKey)),
	}
	for name, change := range map[string][2]string{
		"production":  {"realm: development", "realm: production"},
		"unknown-key": {"hands: 2", "hand: 2"},
		"hands":       {"hands: 2", "hands: 0"},
		"drain":       {"hands: 2", "drain: 2h"},
		"plain-http":  {"https://", "http://"},
		"patience":    {"hands: 2", "patience: 2h"},
		"no-url":      {"url: " + spp, "urls: []"},
		"both-urls":   {"url: " + spp, "url: " + spp + "\n  urls: [" + other + "]"},
		"twice":       {"url: " + spp, "urls: [" + spp + ", " + spp + "]"},
		"http-second": {"url: " + spp, "urls: [" + spp + ", \"http://127.0.0.1:7443\"]"},
		"second":      {"url: " + spp, "urls: [" + other + ", " + spp + "]"},
		"no-token":    {"token: " + b.token.Label, "token: dev-missing"},
		"no-pin":      {"station.pin", "missing.pin"},
		"wrong-pin":   {"station.pin", "wrong.pin"},
		"open-pin":    {"station.pin", "open.pin"},
		"no-key":      {"hands: 2", "tls_key: dev-tls-missing"},
		"no-cert":     {"station.pem", "missing.pem"},
		"expired":     {"station.pem", "expired.pem"},
		"foreign":     {"station.pem", "foreign.pem"},
		"other-peer":  {spp, other},
		"empty":       {"devices: devices", "devices: empty"},
	} {
		text := strings.Replace(good, change[0], change[1], 1)
		if text == good {
			t.Fatalf("%s changes nothing", name)
		}
		files[name+".yaml"] = text
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("SOFTHSM2_CONF", b.h.Directory.Conf())
			// A program built with -race sleeps for a second before it exits unless told otherwise.
			env.Setenv("GORACE", "atexit_sleep_ms=10")
			for name, text := range files {
				if err := os.WriteFile(filepath.Join(env.WorkDir, name), []byte(text), 0o600); err != nil {
					return err
				}
			}
			pins := map[string]secret.Secret{"station.pin": b.token.PIN, "wrong.pin": secret.New([]byte("00000000")), "open.pin": b.token.PIN}
			for name, pin := range pins {
				if err := secret.WriteFile(filepath.Join(env.WorkDir, name), pin); err != nil {
					return err
				}
			}
			return errors.Join(
				os.Chmod(filepath.Join(env.WorkDir, "open.pin"), 0o644),
				os.Symlink(b.slots, filepath.Join(env.WorkDir, "devices")),
			)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			// exits CODE ARGS: station ends with this code and no result on standard output.
			"exits": func(ts *testscript.TestScript, neg bool, args []string) {
				err := ts.Exec("station", args[1:]...)
				code := 0
				var ended interface{ ExitCode() int }
				if errors.As(err, &ended) {
					code = ended.ExitCode()
				} else if err != nil {
					ts.Fatalf("%v", err)
				}
				if neg || fmt.Sprint(code) != args[0] {
					ts.Fatalf("code %d, want %s", code, args[0])
				}
			},
		},
	})
}
