package ha_test

import (
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/devicekeys/devicekeys/database"
	"github.com/devicekeys/devicekeys/deploy/ha"
	"github.com/devicekeys/devicekeys/untested"
	"go.yaml.in/yaml/v3"
)

// The cluster itself is tried by command ha (make ha), which takes minutes.

func mustWrite(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A folder that isn't a cluster's, or whose cluster runs, is left alone.
func TestCleanRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		prepare func(t *testing.T, dir string)
		refusal string // "" for none
	}{
		"no folder": {func(t *testing.T, dir string) { os.Remove(dir) }, ""},
		"empty":     {func(*testing.T, string) {}, ""},
		"a cluster's": {func(t *testing.T, dir string) {
			mustWrite(t, dir+"/devicekeys-ha", "")
			mustWrite(t, dir+"/node-1/x", "")
		}, ""},
		"someone's": {func(t *testing.T, dir string) { mustWrite(t, dir+"/thesis.txt", "") }, "not a cluster's"},
		"a file":    {func(t *testing.T, dir string) { os.Remove(dir); mustWrite(t, dir, "") }, "not a directory"},
		"one that runs": {func(t *testing.T, dir string) {
			release, err := ha.Hold(dir)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(release)
		}, "another cluster runs in it"},
		"another user's": {func(t *testing.T, dir string) {
			if os.Geteuid() != 0 {
				untested.Except(t, "the folder of another user: it takes root to make one")
			}
			mustWrite(t, dir+"/devicekeys-ha", "")
			if err := os.Chown(dir+"/devicekeys-ha", 12345, 12345); err != nil {
				t.Fatal(err)
			}
		}, "another user's"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			c.prepare(t, dir)
			err := ha.Clean(t.Context(), dir)
			_, there := os.Stat(dir)
			switch {
			case c.refusal == "" && err != nil:
				t.Error(err)
			case c.refusal == "" && name != "empty" && !os.IsNotExist(there):
				t.Error("the folder is still there")
			case c.refusal != "" && (err == nil || !strings.Contains(err.Error(), c.refusal)):
				t.Errorf("%v, want %q", err, c.refusal)
			case c.refusal != "" && there != nil:
				t.Error("the folder is gone")
			}
		})
	}
}

// Servers that work in the folder are ended, and nobody else.
func TestCleanEndsServers(t *testing.T) {
	t.Parallel()
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		untested.Except(t, "the end of servers: there is no sleep to be one")
	}
	if sleep, err = filepath.EvalSymlinks(sleep); err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(sleep)
	if err != nil {
		t.Fatal(err)
	}
	dir, elsewhere := t.TempDir(), t.TempDir()
	mustWrite(t, dir+"/devicekeys-ha", "")
	mustWrite(t, dir+"/node-1/data/PG_VERSION", "15")
	start := func(name, in string) *exec.Cmd {
		t.Helper()
		path := filepath.Join(elsewhere, name)
		if _, err := os.Stat(path); err != nil {
			if err := os.WriteFile(path, program, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		cmd := exec.Command(path, "600")
		cmd.Dir = in
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	server := []*exec.Cmd{start("etcd", dir), start("postgres", dir+"/node-1/data"), start("python3.11", dir+"/node-1")}
	other := []*exec.Cmd{start("etcd", elsewhere), start("bash", dir)}
	ended := make(chan error, len(server))
	for _, s := range server {
		go func() { ended <- s.Wait() }()
	}
	if err := ha.Clean(t.Context(), dir); err != nil {
		t.Error(err)
	}
	for range server {
		if err := <-ended; err == nil {
			t.Error("a server ended by itself: the test shows nothing")
		}
	}
	for _, o := range other {
		if err := o.Process.Kill(); err != nil {
			t.Errorf("%s in %s was ended too: %v", o.Path, o.Dir, err)
		}
		o.Wait()
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the folder is still there: %v", err)
	}
}

// As root the servers are another user, who must be able to pass; and no folder is taken that others can write in.
func TestPlace(t *testing.T) {
	t.Parallel()
	open := t.TempDir()
	for d := open; d != os.TempDir() && len(d) > 1; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := ha.Place(open + "/a/servers"); err != nil || got != open+"/a/servers" {
		t.Errorf("%q, %v", got, err)
	}
	if err := os.Mkdir(open+"/wide", 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open+"/wide", 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := ha.Place(open + "/wide"); err == nil || !strings.Contains(err.Error(), "others may write") {
		t.Errorf("a folder that all may write in: %v", err)
	}
	closed := filepath.Join(open, "closed")
	if err := os.Mkdir(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	name := "ha-test-" + filepath.Base(filepath.Dir(open))
	got, err := ha.Place(filepath.Join(closed, name))
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(got)
	if want := closed; os.Geteuid() == 0 {
		if want = "/var/tmp"; filepath.Dir(got) != want {
			t.Errorf("%q, want one in %q", got, want)
		}
	} else if filepath.Dir(got) != want {
		t.Errorf("%q, want one in %q", got, want)
	}
}

// What the nodes are configured with: synchronous and strict, scram over TLS and nothing else, each with ports of its
// own, no secret for others to read.
func TestConfiguration(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c, files, err := ha.Configurations(dir)
	if err != nil {
		t.Fatal(err)
	}
	listens := map[string]bool{}
	for _, file := range files {
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", file, info.Mode())
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var n struct {
			RestAPI struct {
				Listen       string
				VerifyClient string `yaml:"verify_client"`
			} `yaml:"restapi"`
			Bootstrap struct {
				DCS struct {
					TTL             int
					LoopWait        int  `yaml:"loop_wait"`
					RetryTimeout    int  `yaml:"retry_timeout"`
					Synchronous     bool `yaml:"synchronous_mode"`
					SynchronousOnly bool `yaml:"synchronous_mode_strict"`
					PostgreSQL      struct {
						Parameters map[string]string
					} `yaml:"postgresql"`
				}
			}
			PostgreSQL struct {
				Listen     string
				HBA        []string `yaml:"pg_hba"`
				Parameters map[string]string
			} `yaml:"postgresql"`
		}
		if err := yaml.Unmarshal(text, &n); err != nil {
			t.Fatal(err)
		}
		dcs := n.Bootstrap.DCS
		if !dcs.Synchronous || !dcs.SynchronousOnly || dcs.TTL < dcs.LoopWait+2*dcs.RetryTimeout || dcs.TTL < 20 {
			t.Errorf("the cluster's rules are %+v", dcs)
		}
		for _, p := range []map[string]string{dcs.PostgreSQL.Parameters, n.PostgreSQL.Parameters} {
			for _, unsafe := range []string{"fsync", "full_page_writes", "synchronous_commit"} {
				if v, set := p[unsafe]; set {
					t.Errorf("%s is %q", unsafe, v)
				}
			}
		}
		if n.RestAPI.VerifyClient != "required" || n.PostgreSQL.Parameters["ssl"] != "on" || n.PostgreSQL.Parameters["unix_socket_directories"] != "" {
			t.Errorf("anybody gets in: %+v", n)
		}
		if len(n.PostgreSQL.HBA) == 0 {
			t.Error("nobody gets in")
		}
		for _, line := range n.PostgreSQL.HBA {
			if !strings.HasPrefix(line, "hostssl ") || !strings.HasSuffix(line, " 127.0.0.1/32 scram-sha-256") {
				t.Errorf("pg_hba.conf has %q", line)
			}
		}
		for _, l := range []string{n.PostgreSQL.Listen, n.RestAPI.Listen} {
			if listens[l] || !strings.HasPrefix(l, "127.0.0.1:") {
				t.Errorf("two listen on %s, or one to the world", l)
			}
			listens[l] = true
		}
	}
	// The DSN is one that the programs take: it is refused by nobody but the absent servers.
	_, err = database.Open(t.Context(), database.Config{DSN: c.DSN("records", "spp")})
	if !database.Transient(err) || !strings.Contains(err.Error(), "refused") {
		t.Errorf("open %q: %v", c.DSN("records", "spp"), err)
	}
}

// Everyone may read the authority's certificate, the servers alone their key, and there is no key of the authority.
func TestCertificates(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, _, err := ha.Configurations(dir); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir + "/tls")
	if err != nil {
		t.Fatal(err)
	}
	modes := map[string]os.FileMode{"ca.pem": 0o644, "server.pem": 0o600, "server.key": 0o600}
	if len(entries) != len(modes) {
		t.Errorf("there are %v", entries)
	}
	certificates := map[string]*x509.Certificate{}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != modes[e.Name()] {
			t.Errorf("%s has mode %v", e.Name(), info.Mode())
		}
		text, err := os.ReadFile(filepath.Join(dir, "tls", e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if block, _ := pem.Decode(text); block != nil && block.Type == "CERTIFICATE" {
			if certificates[e.Name()], err = x509.ParseCertificate(block.Bytes); err != nil {
				t.Fatal(err)
			}
		}
	}
	roots := x509.NewCertPool()
	roots.AddCert(certificates["ca.pem"])
	for _, use := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		if _, err := certificates["server.pem"].Verify(x509.VerifyOptions{Roots: roots, DNSName: "127.0.0.1", KeyUsages: []x509.ExtKeyUsage{use}}); err != nil {
			t.Error(err)
		}
	}
}
