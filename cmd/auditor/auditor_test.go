package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/devicekeys/devicekeys/audit"
	"github.com/devicekeys/devicekeys/audit/check/checktest"
	"github.com/devicekeys/devicekeys/database"
	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/hsm/maker"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/registry"
	"github.com/devicekeys/devicekeys/registry/registrytest"
	"github.com/devicekeys/devicekeys/secret"
	"github.com/devicekeys/devicekeys/softhsm"
)

func TestMain(m *testing.M) { testscript.Main(m, map[string]func(){"auditor": main}) }

const configText = `
realm: development
actor: tester
grace: 0s
rom_key: rom-key.pem
audit_key: audit.pem
certificates: [line-1.pem]
pool:
%s
records:
%s
registry:
  url: %s
  database:
%s
token:
  token: %s
  pin_file: spp.pin
  lock_file: %s
`

func section(indent string, c database.Config) string {
	return fmt.Sprintf("%sdsn: %s\n%spassword_file: %s", indent, strconv.Quote(c.DSN), indent, strconv.Quote(c.PasswordFile))
}

// factory is a maker in a world: keys in SoftHSM, databases in Postgres, the
// registry over HTTP, and files for the auditor.
type factory struct {
	*checktest.World
	hsm      *softhsm.HSM
	token    softhsm.Token
	registry string
	cert     []byte
}

func newFactory(t *testing.T) *factory {
	t.Helper()
	f := &factory{hsm: softhsm.New(t)}
	f.token = f.hsm.Token(t, "dev-spp")
	tok := f.hsm.Open(t, f.token)
	plan := maker.Plan{Realm: identity.Development, Masters: []maker.Master{{Version: 1, KDF: hsm.KDF1}}, Purposes: []string{"channel"}}
	if err := maker.Create(t.Context(), tok, plan); err != nil {
		t.Fatal(err)
	}
	keys, err := maker.Open(t.Context(), tok, identity.Development)
	if err != nil {
		t.Fatal(err)
	}
	f.World = checktest.New(t, keys, 3)
	handler, err := registry.NewHandler(f.Registry.Reader(), registry.HandlerOptions{Rate: 1e6, Burst: 1e6, NewestAge: time.Second, GenerationAge: time.Second})
	f.Must(err)
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	f.registry = server.URL
	f.certify()
	return f
}

// certify issues a certificate, with its entry in the audit log.
func (f *factory) certify() {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	f.Must(err)
	template := &x509.Certificate{SerialNumber: big.NewInt(0xabcdef), Subject: pkix.Name{CommonName: "line-1"}, NotAfter: time.Now().Add(time.Hour)}
	f.Must(f.Log("custodian").Append(f.T.Context(), audit.Certification("dev-station-ca", template.SerialNumber, template.Subject.String(), "ann")))
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	f.Must(err)
	f.cert = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	f.Sign()
}

// write writes configuration and keys into a folder.
func (f *factory) write(dir string) error {
	text := fmt.Sprintf(configText, section("  ", f.Pool.Config("auditor")), section("  ", f.Records.Config("auditor")), f.registry,
		section("    ", f.Registry.Config("auditor")), f.token.Label, f.hsm.Directory.LockFile())
	for name, b := range map[string][]byte{
		"auditor.yaml": []byte(text), "rom-key.pem": f.Maker.ROMKey().PEM(), "audit.pem": f.Maker.AuditKey().PEM(), "line-1.pem": f.cert,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			return err
		}
	}
	return secret.WriteFile(filepath.Join(dir, "spp.pin"), f.token.PIN)
}

func TestScript(t *testing.T) {
	t.Parallel()
	scripts, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts found: %v", err)
	}
	for _, script := range scripts {
		t.Run(strings.TrimSuffix(filepath.Base(script), ".txtar"), func(t *testing.T) {
			t.Parallel()
			f := newFactory(t)
			testscript.Run(t, testscript.Params{
				Files:               []string{script},
				RequireExplicitExec: true,
				Setup: func(env *testscript.Env) error {
					env.Setenv("SOFTHSM2_CONF", f.hsm.Directory.Conf())
					for n := range 3 + checktest.Others {
						env.Setenv(fmt.Sprintf("RECORD%d", n), registrytest.Chip(t, n).RecordID().Short())
					}
					return f.write(env.WorkDir)
				},
				Cmds: map[string]func(*testscript.TestScript, bool, []string){
					// records SQL, pool SQL: what no program does.
					"records": func(ts *testscript.TestScript, neg bool, args []string) { f.PlantRecords(strings.Join(args, " ")) },
					"pool":    func(ts *testscript.TestScript, neg bool, args []string) { f.PlantPool(strings.Join(args, " ")) },
				},
			})
		})
	}
}
