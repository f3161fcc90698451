package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/devicekeys/devicekeys/deploy/programs"
	"github.com/devicekeys/devicekeys/device"
	"github.com/devicekeys/devicekeys/device/chip"
	"github.com/devicekeys/devicekeys/device/flash"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning/pool/pooltest"
	"github.com/devicekeys/devicekeys/provisioning/profile"
	"github.com/devicekeys/devicekeys/registry/registrytest"
	"github.com/devicekeys/devicekeys/softhsm"
)

func TestMain(m *testing.M) { testscript.Main(m, map[string]func(){"spp": main}) }

// custodian is the custodian's program, for its set-up.
func custodian(t testing.TB) string {
	t.Helper()
	return filepath.Join(programs.Build(t, "", "custodian"), "custodian")
}

// place is a folder with all that an SPP needs but a sequencer: configuration,
// profile, a token directory for custodian setup, and two empty databases.
type place struct {
	t         testing.TB
	dir       string
	tokens    *softhsm.Directory
	custodian string
	pool      *pooltest.Database
	records   *pooltest.Database
	listen    string
	metrics   string
}

const configText = `
realm: development
listen: %s
metrics_listen: %s
token: {token: dev-spp, pin_file: spp.pin, lock_file: softhsm/lock, sessions: 8}
tls: {certificate: spp.pem, client_ca: public/station-ca.pem}
pool: {dsn: %q, password_file: %q}
records: {dsn: %q, password_file: %q}
sequencer: {url: %q, ca: public/station-ca.pem}
profiles: [phone.yaml, meter.yaml]
device_ca: public/device-ca.pem
chip_makers: [other-maker.pem, maker.pem]
owner:
  pool: {dsn: %q, password_file: %q}
  records: {dsn: %q, password_file: %q}
`

const custodianText = `
realm: development
actor: tester
records: {dsn: %q, password_file: %q}
token: {token: dev-spp, pin_file: spp.pin, lock_file: softhsm/lock}
so_pin_file: spp-so.pin
public: public
`

func newPlace(t testing.TB, dir, sequencer string) *place {
	t.Helper()
	if _, err := softhsm.Module(); err != nil {
		softhsm.New(t) // skips, or fails in CI
	}
	p := &place{t: t, dir: dir, listen: freeAddress(t), metrics: freeAddress(t)}
	var err error
	p.tokens, err = softhsm.NewDirectory(filepath.Join(dir, "softhsm"))
	must(t, err)
	p.custodian = custodian(t)
	p.pool = pooltest.NewDatabase(t, "pool", "spp", "auditor")
	p.records = pooltest.NewDatabase(t, "records", "spp", "auditor", "custodian")
	pool, records := p.pool.Config("spp"), p.records.Config("spp")
	poolOwner, recordsOwner := p.pool.Config("pool_owner"), p.records.Config("records_owner")
	p.write("spp.yaml", fmt.Appendf(nil, configText, p.listen, p.metrics, pool.DSN, pool.PasswordFile, records.DSN, records.PasswordFile, sequencer,
		poolOwner.DSN, poolOwner.PasswordFile, recordsOwner.DSN, recordsOwner.PasswordFile))
	c := p.records.Config("custodian")
	p.write("custodian.yaml", fmt.Appendf(nil, custodianText, c.DSN, c.PasswordFile))
	p.write("phone.yaml", profile.Phone)
	p.write("meter.yaml", bytes.Replace(profile.Pairs, []byte("source: made"), []byte("source: imported"), 1))
	p.write("maker.pem", registrytest.NewSigner(t, "chip maker").Public().PEM())
	p.write("other-maker.pem", registrytest.NewSigner(t, "another chip maker").Public().PEM())
	return p
}

func (p *place) write(name string, b []byte) {
	p.t.Helper()
	must(p.t, os.WriteFile(filepath.Join(p.dir, name), b, 0o600))
}

// deliver writes the chip maker's list of some chips.
func (p *place) deliver(name, maker string, chips ...*chip.Software) {
	p.t.Helper()
	list := keypackage.DeliveryList{Realm: identity.Development, Maker: maker, Lot: name}
	for _, c := range chips {
		list.Chips = append(list.Chips, keypackage.DeliveredChip{Record: c.ID().RecordID(), Attestation: c.Attester().Public()})
	}
	raw, err := keypackage.SignDeliveryList(p.t.Context(), registrytest.NewSigner(p.t, maker), list)
	must(p.t, err)
	p.write(name, raw)
}

// gorace is how a program built with -race exits: else it takes a second to.
const gorace = "atexit_sleep_ms=10"

// command is one of the programs, in the place's folder.
func (p *place) command(program string, args ...string) *exec.Cmd {
	if program == "custodian" {
		program = p.custodian
	}
	cmd := exec.CommandContext(context.Background(), program, args...)
	cmd.Dir, cmd.Env = p.dir, append(p.tokens.Env(), "GORACE="+gorace)
	return cmd
}

// run runs a program that must succeed and gives its standard output.
func (p *place) run(program string, args ...string) string {
	p.t.Helper()
	cmd := p.command(program, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		p.t.Fatalf("%s %v: %v\n%s%s", program, args, err, out.String(), errs.String())
	}
	return out.String()
}

// setUp migrates, makes the keys, and certifies the SPP.
func (p *place) setUp() {
	p.t.Helper()
	p.run("spp", "migrate", "-c", "spp.yaml")
	p.run("custodian", "setup", "-c", "custodian.yaml")
	p.run("custodian", "token", "--for", "spp", "--name", "spp-1", "--token", "dev-spp", "--pin-file", "spp.pin", "--lock-file", "softhsm/lock", "--request", "spp.csr")
	p.run("custodian", "certify", "-c", "custodian.yaml", "--kind", "server", "--role", "spp", "--name", "spp-1", "--dns", "localhost", "--ip", "127.0.0.1", "--request", "spp.csr", "--out", "spp.pem")
}

// certify has the station CA sign a key of this process.
func (p *place) certify(name string, args ...string) tls.Certificate {
	p.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(p.t, err)
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}, key)
	must(p.t, err)
	p.write(name+".csr", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
	p.run("custodian", append([]string{"certify", "-c", "custodian.yaml", "--name", name, "--request", name + ".csr", "--out", name + ".pem"}, args...)...)
	text, err := os.ReadFile(filepath.Join(p.dir, name+".pem"))
	must(p.t, err)
	block, _ := pem.Decode(text)
	return tls.Certificate{Certificate: [][]byte{block.Bytes}, PrivateKey: key}
}

func (p *place) ca() *x509.CertPool {
	p.t.Helper()
	text, err := os.ReadFile(filepath.Join(p.dir, "public/station-ca.pem"))
	must(p.t, err)
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		p.t.Fatal("no CA certificate")
	}
	return pool
}

// newDevice is a device with a software chip.
func newDevice(t testing.TB) (*device.Device, *chip.Software) {
	t.Helper()
	c, err := chip.NewSoftware(identity.Development, 32, "")
	must(t, err)
	d, err := device.Open(t.Context(), device.Config{Chip: c, Flash: flash.NewMemory()})
	must(t, err)
	t.Cleanup(func() {
		if err := d.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return d, c
}

// freeAddress gives a loopback address that nobody listened on a moment ago.
func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return "127.0.0.1:" + strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// deliverContradiction writes a list that gives a chip the attestation key of another.
func (p *place) deliverContradiction(name string, c, other *chip.Software) {
	p.t.Helper()
	raw, err := keypackage.SignDeliveryList(p.t.Context(), registrytest.NewSigner(p.t, "another chip maker"), keypackage.DeliveryList{
		Realm: identity.Development, Maker: "another chip maker", Lot: name,
		Chips: []keypackage.DeliveredChip{{Record: c.ID().RecordID(), Attestation: other.Attester().Public()}},
	})
	must(p.t, err)
	p.write(name, raw)
}
