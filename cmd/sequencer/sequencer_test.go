package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/provisioning/grant"
	"github.com/devicekeys/devicekeys/registry"
	"github.com/devicekeys/devicekeys/registry/registrytest"
	"github.com/devicekeys/devicekeys/registry/sequencer"
	"github.com/devicekeys/devicekeys/registry/store/storetest"
	"github.com/devicekeys/devicekeys/secret"
	"github.com/devicekeys/devicekeys/softhsm"
)

func TestMain(m *testing.M) { testscript.Main(m, map[string]func(){"sequencer": main}) }

const configText = `
realm: development
listen: 127.0.0.1:%d
metrics_listen: 127.0.0.1:%d
token:
  token: %s
  pin_file: sequencer.pin
  sessions: 2
checkpoint_key: dev-checkpoint
tls:
  certificate: sequencer.pem
  client_ca: ca.pem
database:
  dsn: %s
  password_file: %s
submission_keys: [submission.pem]
identity_signing_keys: [rom-key.pem]
`

// plant is a sequencer's surroundings: its token in SoftHSM, a CA in software, a database.
type plant struct {
	url    string
	ca     *x509.Certificate
	key    *ecdsa.PrivateKey
	client *sequencer.Client
}

func pemBlock(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func newPlant(t *testing.T, url string) *plant {
	t.Helper()
	p := &plant{url: url}
	var err error
	if p.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	p.ca = &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	if p.ca, err = x509.ParseCertificate(p.certify(t, p.ca, &p.key.PublicKey)); err != nil {
		t.Fatal(err)
	}
	spp, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(p.ca)
	transport := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{{
		Certificate: [][]byte{p.leaf(t, "spp", "spp-1", &spp.PublicKey)}, PrivateKey: spp}}}}
	t.Cleanup(transport.CloseIdleConnections)
	p.client = sequencer.NewClient(&http.Client{Transport: transport, Timeout: 20 * time.Second}, url)
	return p
}

func (p *plant) certify(t *testing.T, template *x509.Certificate, public *ecdsa.PublicKey) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, p.ca, public, p.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func (p *plant) leaf(t *testing.T, role, name string, public *ecdsa.PublicKey) []byte {
	t.Helper()
	return p.certify(t, &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()),
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		URIs: []*url.URL{grant.PeerURI(identity.Development, role, name)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}, public)
}

// token makes the sequencer's token with its keys, and gives its TLS key's public half.
func token(t *testing.T, h *softhsm.HSM) (softhsm.Token, *ecdsa.PublicKey) {
	t.Helper()
	made := h.Token(t, "dev-sequencer")
	tok := h.Open(t, made)
	if _, err := tok.Generate(t.Context(), hsm.Spec{Kind: hsm.CheckpointKey, Label: "dev-checkpoint", Token: true}); err != nil {
		t.Fatal(err)
	}
	key, err := tok.Generate(t.Context(), hsm.Spec{Kind: hsm.TLSKey, Label: "dev-tls-sequencer", Token: true})
	if err != nil {
		t.Fatal(err)
	}
	public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return made, public
}

// TestScript runs each script in a folder with a sequencer's configuration: token in SoftHSM, certificates, database.
func TestScript(t *testing.T) {
	t.Parallel()
	h := softhsm.New(t)
	scripts, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts found: %v", err)
	}
	for _, script := range scripts {
		t.Run(filepath.Base(script), func(t *testing.T) {
			t.Parallel()
			d := storetest.New(t)
			port, admin := freePort(t), freePort(t)
			p := newPlant(t, "https://127.0.0.1:"+strconv.Itoa(port))
			tok, public := token(t, h)
			testscript.Run(t, testscript.Params{
				Files:               []string{script},
				RequireExplicitExec: true,
				Setup: func(env *testscript.Env) error {
					env.Setenv("SOFTHSM2_CONF", h.Directory.Conf())
					env.Setenv("ADMIN", "http://127.0.0.1:"+strconv.Itoa(admin))
					env.Setenv("PIN", string(tok.PIN.Bytes()))
					c := d.Config(d.Roles.Sequencer)
					good := fmt.Sprintf(configText, port, admin, tok.Label, strconv.Quote(c.DSN), strconv.Quote(c.PasswordFile))
					for name, text := range map[string]string{
						"sequencer.yaml":  good,
						"production.yaml": strings.Replace(good, "realm: development", "realm: production", 1),
						"nokey.yaml":      strings.Replace(good, "dev-checkpoint", "dev-missing", 1),
						"wrongkey.yaml":   strings.Replace(good, "dev-checkpoint", "dev-tls-sequencer", 1),
						"othercert.yaml":  strings.Replace(good, "certificate: sequencer.pem", "certificate: other.pem", 1),
						"ca.pem":          pemBlock("CERTIFICATE", p.ca.Raw),
						"sequencer.pem":   pemBlock("CERTIFICATE", p.leaf(t, "sequencer", "sequencer-1", public)),
						"other.pem":       pemBlock("CERTIFICATE", p.leaf(t, "sequencer", "sequencer-1", &p.key.PublicKey)),
						"submission.pem":  string(registrytest.NewSigner(t, "submission").Public().PEM()),
						"rom-key.pem":     string(registrytest.ROM(t).Public().PEM()),
					} {
						if err := os.WriteFile(filepath.Join(env.WorkDir, name), []byte(text), 0o600); err != nil {
							return err
						}
					}
					return secret.WriteFile(filepath.Join(env.WorkDir, "sequencer.pin"), tok.PIN)
				},
				Cmds: map[string]func(*testscript.TestScript, bool, []string){
					"answers": answers,
					// submit CHIP GENERATION [SEQUENCE]: an SPP submits an entry of the chip and is told this place; with
					// "!" it is not answered.
					"submit": func(ts *testscript.TestScript, neg bool, args []string) {
						chip, err := strconv.Atoi(args[0])
						ts.Check(err)
						g, err := strconv.Atoi(args[1])
						ts.Check(err)
						e := p.entry(t, chip, identity.Generation(g))
						acks, err := p.client.Submit(t.Context(), registrytest.Submission(t, registrytest.NewSigner(t, "submission"), "spp-1", e))
						if neg {
							if err == nil {
								ts.Fatalf("answered: %+v", acks)
							}
							ts.Logf("%v", err)
							return
						}
						ts.Check(err)
						ts.Check(acks[0].Err)
						if want := args[2]; strconv.FormatInt(acks[0].Sequence, 10) != want {
							ts.Fatalf("it stands at %d, want %s", acks[0].Sequence, want)
						}
					},
					// elsewhere CHIP: another writer appends an entry.
					"elsewhere": func(ts *testscript.TestScript, _ bool, args []string) {
						chip, err := strconv.Atoi(args[0])
						ts.Check(err)
						d.Append(registrytest.Entry(t, chip, 1))
					},
				},
			})
		})
	}
}

// entry gives the same entry of a chip's generation whenever it is asked.
func (p *plant) entry(t *testing.T, chip int, g identity.Generation) registry.Entry {
	t.Helper()
	e := registry.Entry{Realm: identity.Development, Type: registry.Register, Generation: g}
	if g > 1 {
		e.Type = registry.Supersede
	}
	e, err := registry.Seal(strings.NewReader("twelve bytes"), registrytest.Chip(t, chip), e, registrytest.Record(t, chip, g, 100))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// answers URL waits until a GET of the URL is answered with 200.
func answers(ts *testscript.TestScript, neg bool, args []string) {
	client := &http.Client{Timeout: time.Second}
	defer client.CloseIdleConnections()
	var last error
	for range 200 {
		resp, err := client.Get(args[0])
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == 200 {
				return
			}
			err = fmt.Errorf("status %s", resp.Status)
		}
		last = err
		time.Sleep(100 * time.Millisecond)
	}
	ts.Fatalf("%s does not answer: %v", args[0], last)
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
