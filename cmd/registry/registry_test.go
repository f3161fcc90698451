package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/devicekeys/devicekeys/devicecert"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/registry"
	"github.com/devicekeys/devicekeys/registry/registrytest"
	"github.com/devicekeys/devicekeys/registry/store/storetest"
)

func TestMain(m *testing.M) { testscript.Main(m, map[string]func(){"registry": main}) }

const serveText = `
listen: 127.0.0.1:%d
metrics_listen: 127.0.0.1:%d
directory: true
database:
  dsn: %s
  password_file: %s
`

const migrateText = `
database:
  dsn: %s
  password_file: %s
roles:
  sequencer: ""
  auditor: ""
`

// TestScript runs each script in a folder with the configurations of a registry of its own: chip 1 was registered and
// superseded, chip 2 scrapped, chip 3 scrapped without a valid statement.
func TestScript(t *testing.T) {
	t.Parallel()
	scripts, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts found: %v", err)
	}
	for _, script := range scripts {
		t.Run(filepath.Base(script), func(t *testing.T) {
			t.Parallel()
			d, rom := storetest.New(t), registrytest.ROM(t)
			d.Append(
				registrytest.Entry(t, 1, 1), registrytest.Entry(t, 1, 2),
				registrytest.Entry(t, 2, 1), registrytest.End(t, 2, 1, registry.Scrap, rom),
				registrytest.Entry(t, 3, 1), registrytest.End(t, 3, 1, registry.Scrap, registrytest.NewSigner(t, "stranger")),
			)
			ca, strangersCA := deviceCA(t), deviceCA(t)
			d.Append(registrytest.Entry(t, 5, 1), ca.publish(t, 5, 5), registrytest.Entry(t, 6, 1), ca.publish(t, 6, 5))
			testscript.Run(t, testscript.Params{
				Files:               []string{script},
				RequireExplicitExec: true,
				Setup: func(env *testscript.Env) error {
					port, admin := freePort(t), freePort(t)
					env.Setenv("URL", "http://127.0.0.1:"+strconv.Itoa(port))
					env.Setenv("HTTPS", "https://127.0.0.1:"+strconv.Itoa(port))
					env.Setenv("ADMIN", "http://127.0.0.1:"+strconv.Itoa(admin))
					reader, owner := d.Config(d.Roles.Reader), d.Config(d.Owner())
					files := map[string]string{
						"registry.yaml": fmt.Sprintf(serveText, port, admin, strconv.Quote(reader.DSN), strconv.Quote(reader.PasswordFile)),
						"migrate.yaml":  fmt.Sprintf(migrateText, strconv.Quote(owner.DSN), strconv.Quote(owner.PasswordFile)),
						"rom-key.pem":   string(rom.Public().PEM()),
						"other-key.pem": string(registrytest.NewSigner(t, "stranger").Public().PEM()),
						"ca.pem":        ca.pem(), "other-ca.pem": strangersCA.pem(),
						"cert.pem": "", "key.pem": "",
					}
					files["cert.pem"], files["key.pem"] = selfSigned(t)
					for i := 1; i <= 6; i++ {
						files[fmt.Sprintf("chip-%d", i)] = hex.EncodeToString(registrytest.Chip(t, i).Bytes()) + "\n"
						env.Setenv(fmt.Sprintf("RECORD%d", i), registrytest.Chip(t, i).RecordID().String())
						env.Setenv(fmt.Sprintf("SHORT%d", i), registrytest.Chip(t, i).RecordID().Short())
						env.Setenv(fmt.Sprintf("CHIP%d", i), hex.EncodeToString(registrytest.Chip(t, i).Bytes()))
					}
					for name, text := range files {
						if err := os.WriteFile(filepath.Join(env.WorkDir, name), []byte(text), 0o400); err != nil {
							return err
						}
					}
					return nil
				},
				Cmds: map[string]func(*testscript.TestScript, bool, []string){"answers": answers},
			})
		})
	}
}

// answers URL waits until a GET of the URL is answered with 200.
func answers(ts *testscript.TestScript, neg bool, args []string) {
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	defer client.CloseIdleConnections()
	var last error
	for range 100 {
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

func selfSigned(t *testing.T) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "registry"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
}

// authority is a device CA in memory.
type authority struct {
	*devicecert.Authority
	certificate *x509.Certificate
}

func deviceCA(t *testing.T) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := devicecert.SelfSigned(identity.Development, "Devicekeys", key)
	if err != nil {
		t.Fatal(err)
	}
	a, err := devicecert.New(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	return authority{a, certificate}
}

func (a authority) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.certificate.Raw}))
}

// publish gives a certificates entry of a chip with one certificate that names a chip's record, and one made in advance.
func (a authority) publish(t *testing.T, n, names int) registry.Entry {
	t.Helper()
	id, err := identity.Parse(identity.TypeIMEI, fmt.Sprintf("%014d", n))
	if err != nil {
		t.Fatal(err)
	}
	record := registrytest.Chip(t, names).RecordID()
	p := registry.PublicCertificates{Identity: id.URN()}
	for _, r := range []devicecert.Request{
		{Use: keypackage.UseAgreement, Record: &record, Identity: id},
		{Use: keypackage.UseSignature},
	} {
		r.Realm, r.ProductLine, r.Public = identity.Development, "phone", registrytest.NewSigner(t, r.Use.String()).Public()
		der, err := a.Certify(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		p.X509 = append(p.X509, der)
	}
	b, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return registry.Entry{Realm: identity.Development, Type: registry.Certificates, Record: registrytest.Chip(t, n).RecordID(), Generation: 1, Sealed: b}
}
