package interop_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/devicekeys/devicekeys/deploy/programs"
	"github.com/devicekeys/devicekeys/provisioning/pool/pooltest"
	"github.com/devicekeys/devicekeys/softhsm"
)

// place is a folder in which the house's programs work: a token, a custodian's configuration, the records' database.
type place struct {
	t      testing.TB
	dir    string
	tokens *softhsm.Directory
	token  string
	db     *pooltest.Database // records
}

func newPlace(t testing.TB, tokens *softhsm.Directory, token string) *place {
	t.Helper()
	return &place{t: t, dir: t.TempDir(), tokens: tokens, token: token}
}

func (p *place) path(name string) string { return filepath.Join(p.dir, name) }

func (p *place) write(name string, b []byte) {
	p.t.Helper()
	must(p.t, os.WriteFile(p.path(name), b, 0o600))
}

// env is what the programs run in. A program built with -race takes a second to exit without GORACE.
func (p *place) env(more ...string) []string {
	return append(append(p.tokens.Env(), "GORACE=atexit_sleep_ms=10"), more...)
}

// run runs a program of ours that must succeed.
func (p *place) run(name string, args ...string) string {
	p.t.Helper()
	r := p.execute(nil, name, args...)
	if r.code != 0 {
		p.t.Fatalf("%s %v: %v", filepath.Base(name), args, r)
	}
	return r.out
}

func (p *place) execute(more []string, name string, args ...string) result {
	p.t.Helper()
	return executeIn(p.t, p.dir, p.env(more...), nil, name, args...)
}

// custodian makes the token and the maker's keys, with an environment of its own.
func (p *place) custodian(env ...string) {
	p.t.Helper()
	c := p.db.Config("custodian")
	p.write("custodian.yaml", fmt.Appendf(nil, `
realm: development
actor: tester
records: {dsn: %q, password_file: %q}
token: {token: %s, pin_file: spp.pin, lock_file: %q, kdf2_host: true}
so_pin_file: spp-so.pin
public: public
masters: [{version: 1, kdf: 1}, {version: 2, kdf: 2}]
purposes: [channel, drm]
`, c.DSN, c.PasswordFile, p.token, p.tokens.LockFile()))
	r := p.execute(env, custodian(p.t), "setup", "-c", "custodian.yaml")
	if r.code != 0 {
		p.t.Fatalf("custodian setup: %v", r)
	}
}

func custodian(t testing.TB) string {
	t.Helper()
	return filepath.Join(programs.Build(t, "devicekeys_import", "custodian"), "custodian")
}
