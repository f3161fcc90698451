package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/devicekeys/devicekeys/audit"
	"github.com/devicekeys/devicekeys/audit/check"
	"github.com/devicekeys/devicekeys/fault"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/provisioning/pool"
	"github.com/devicekeys/devicekeys/provisioning/records"
	"github.com/devicekeys/devicekeys/statement"
)

const waitingProfile = `
name: tv
identity: eui48
chip_id_bytes: 16
master_version: 1
kdf: 1
entries:
  - {name: channel, kind: communication, algorithm: hmac-sha-256, source: derived}
  - {name: field, kind: communication, algorithm: hmac-sha-256, source: pool}
  - {name: tls, kind: key-pair, algorithm: es256, source: pool, certificate: true}
  - {name: code, kind: sim-lock, source: pool, digits: true, size: 8}
  - {name: drm, kind: drm, algorithm: aes-256-gcm, source: imported}
  - {name: sign, kind: key-pair, algorithm: es256, source: imported, certificate: true}
  - {name: licence, kind: drm, source: imported}
`

// killsOf is how many moments of one command, of each effect, are tried; KILLS=all tries every one, which takes minutes.
const killsOf = 3

// cutConfig is a configuration whose databases lie behind a proxy.
const cutConfig = "cut.yaml"

// waiting is a place with a line whose entries wait in the pool, and a proxy before Postgres.
type waiting struct {
	*place
	proxy *fault.Proxy
	store *pool.Store
	to    statement.PublicKey // the transport key
	ids   []identity.Identity
}

func newWaiting(t *testing.T) *waiting {
	t.Helper()
	p := newPlace(t, t.TempDir(), "https://127.0.0.1:1")
	p.write("meter.yaml", []byte(waitingProfile))
	p.setUp()
	config, err := os.ReadFile(filepath.Join(p.dir, "spp.yaml"))
	must(t, err)
	server := regexp.MustCompile(`host='([^']*)' port=(\d+)`)
	at := server.FindStringSubmatch(string(config))
	if at == nil {
		t.Fatal("the configuration names no server")
	}
	proxy, err := fault.NewProxy("unix", filepath.Join(at[1], ".s.PGSQL."+at[2]))
	must(t, err)
	t.Cleanup(func() { _ = proxy.Close() }) // its links end with it
	host, port, _ := strings.Cut(proxy.Addr(), ":")
	p.write(cutConfig, server.ReplaceAll(config, fmt.Appendf(nil, "host='%s' port=%s", host, port)))
	p.run("custodian", "transport", "show", "-c", "custodian.yaml", "--out", "transport.pem")
	text, err := os.ReadFile(filepath.Join(p.dir, "transport.pem"))
	must(t, err)
	to, err := statement.ParsePEM(text)
	must(t, err)
	return &waiting{place: p, proxy: proxy, store: pool.New(p.pool.As("spp")), to: to}
}

// stock imports the next n identities.
func (w *waiting) stock(n int) []identity.Identity {
	w.t.Helper()
	var ids []identity.Identity
	for range n {
		id, err := identity.FromValue(identity.TypeEUI48, fmt.Sprintf("02%010x", len(w.ids)+1))
		must(w.t, err)
		ids, w.ids = append(ids, id), append(w.ids, id)
	}
	_, err := w.store.Import(w.t.Context(), ids[0].Value(), "tv", identity.TypeEUI48, ids)
	must(w.t, err)
	return ids
}

// generate is the command's line; it works on what was stocked.
func (w *waiting) generate(string) []string {
	return []string{"pool", "generate", "--line", "tv", "--operator", "alice"}
}

// importKeys writes a file of keys for the identities that were stocked last, and is the command's line for it.
func (w *waiting) importKeys(name string) []string {
	w.t.Helper()
	id := w.ids[len(w.ids)-1]
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(w.t, err)
	der, err := x509.MarshalPKCS8PrivateKey(private)
	must(w.t, err)
	point, err := private.PublicKey.Bytes()
	must(w.t, err)
	key := make([]byte, 32)
	rand.Read(key) // never fails
	var text strings.Builder
	for _, l := range []clearLine{
		{id: id, entry: "drm", form: formSymmetric, value: key}, {id: id, entry: "sign", form: formPair, value: der, point: point},
		{id: id, entry: "licence", form: formSecret, value: []byte("a licensor's secret")},
	} {
		line, err := l.wrap(identity.Development, w.to)
		must(w.t, err)
		text.WriteString(line)
	}
	w.write(name, []byte(text.String()))
	return []string{"pool", "import-keys", "--line", "tv", "--operator", "alice", "--sha256", fmt.Sprintf("%x", sha256.Sum256([]byte(text.String()))), name}
}

// complete checks that each of the identities has a key for each of the entries.
func (w *waiting) complete(ids []identity.Identity, entries ...string) {
	w.t.Helper()
	have, err := w.store.EntriesWithKeys(w.t.Context(), ids)
	must(w.t, err)
	for _, id := range ids {
		for _, e := range entries {
			if !have[id.Value()][e] {
				w.t.Errorf("%s has no key for entry %q", id, e)
			}
		}
	}
}

// killed runs a command and kills it when a burst to Postgres is lost, or that burst's answer. It tells whether it was:
// a connection's goodbye has no answer, and who says it may be done.
func (w *waiting) killed(at int, kept bool, args []string) bool {
	w.t.Helper()
	cmd := w.command("spp", append(slices.Clone(args), "-c", cutConfig)...)
	started := make(chan struct{})
	struck, err := w.proxy.Lose(fault.Loss{Direction: fault.Forth, Nth: at, Kept: kept, How: fault.Reset, Hook: func() {
		<-started
		_ = cmd.Process.Kill() // it may be done
	}})
	must(w.t, err)
	must(w.t, cmd.Start())
	close(started)
	ended := cmd.Wait()
	must(w.t, w.proxy.Pass())
	var exit *exec.ExitError
	if !errors.As(ended, &exit) {
		must(w.t, ended)
		return false
	}
	if exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		w.t.Errorf("%v, burst %d: %v", args[:2], at, ended)
	}
	<-struck // the hook killed it, and cuts at once
	return true
}

// TestKilledKeys: pool generate and pool import-keys are killed with kill -9 between any two messages to the databases, the
// last one lost, or arrived and its answer lost. Run again they end what they began; nothing is there twice or unlicensed.
func TestKilledKeys(t *testing.T) {
	t.Parallel()
	w := newWaiting(t)
	for name, c := range map[string]struct {
		line    func(string) []string
		entries []string
	}{
		"generate": {w.generate, []string{"field", "tls", "code"}},
		"import":   {w.importKeys, []string{"drm", "sign", "licence"}},
	} {
		w.stock(1)
		before := w.proxy.Bursts(fault.Forth)
		w.run("spp", append(c.line(name+".csv"), "-c", cutConfig)...)
		n := int(w.proxy.Bursts(fault.Forth) - before)
		w.complete(w.ids[len(w.ids)-1:], c.entries...)
		moments := spread(n)
		kills := 0
		for _, at := range moments {
			for _, kept := range []bool{false, true} {
				ids := w.stock(1)
				args := c.line(fmt.Sprintf("%s-%d-%t.csv", name, at, kept))
				if w.killed(at, kept, args) {
					kills++
				}
				w.run("spp", append(slices.Clone(args), "-c", "spp.yaml")...)
				w.complete(ids, c.entries...)
			}
		}
		t.Logf("%s: %d bursts to Postgres, %d kills at %v, lost and kept", name, n, kills, moments)
		if kills < killsOf {
			t.Errorf("%s was killed %d times, %d at least are expected", name, kills, killsOf)
		}
	}
	w.holds()
}

// spread gives some of n moments, of the second half: that is where the writes are.
func spread(n int) []int {
	var at []int
	for i := 1; i <= n; i++ {
		if os.Getenv("KILLS") == "all" || (n-i)%max(n/(2*killsOf), 1) == 0 && i > n/2 {
			at = append(at, i)
		}
	}
	return at
}

// holds runs the checker over the databases.
func (w *waiting) holds() {
	w.t.Helper()
	log := w.records.As("auditor")
	report := check.Run(w.t.Context(), check.Sources{Realm: identity.Development, Pool: pool.New(w.pool.As("auditor")), Records: records.New(log), Audit: audit.New(log, identity.Development)})
	for _, i := range report.Invariants {
		for _, v := range i.Violations {
			w.t.Errorf("invariant %q, %v: %s", i.Name, v.Rows, v.Cause)
		}
	}
}

// TestGenerateTwiceAtOnce: two programs that make keys for one pool end well, and each identity has one key for each entry.
func TestGenerateTwiceAtOnce(t *testing.T) {
	t.Parallel()
	w := newWaiting(t)
	ids := w.stock(70) // more than a page
	var both errgroup.Group
	for range 2 {
		both.Go(func() error {
			cmd := w.command("spp", append(w.generate(""), "-c", "spp.yaml")...)
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		})
	}
	must(t, both.Wait())
	w.complete(ids, "field", "tls", "code")
	w.holds()
}
