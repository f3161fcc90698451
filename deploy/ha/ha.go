// Package ha runs a Postgres cluster that survives the loss of a machine, on this machine:
// three etcd, three Patroni, three Postgres, each with ports of its own on the loopback
// address, in one folder, from Debian's packages. It is there to kill its leader while
// devices are assembled (command ha, `make ha`), and as an example of a site's configuration;
// the README beside it says what a site does otherwise.
//
// # How it comes about
//
// [Start] takes over a private server of package postgres, with its databases, roles and
// passwords, as a site would take its first server into a cluster: the data folder becomes the
// first node's, Patroni starts it as the leader, the other two are copied from it. From
// then on Patroni owns the three.
//
// Replication is synchronous and strict: a commit is acknowledged when one standby has it on
// disk as well, and only that standby may take over. So what was acknowledged stands after
// the loss of any one node. With no standby left, commits wait.
//
// # Who gets in
//
// Everything speaks TLS with certificates of an authority that is made for the cluster and
// whose key is thrown away. Postgres takes scram passwords, etcd and Patroni's API take
// certificates; all listen on 127.0.0.1 only. On a machine with other users nobody gets
// further than to a refused connection.
//
// # Who runs it, who ends it
//
// The servers run as the owner of the data folder: root's private server runs as the user
// postgres, and so does the cluster. [Cluster.Stop] ends and removes everything. If this
// process is killed the servers go on; they are known by their working folder, and [Clean],
// or the next Start in the same folder, ends them.
package ha

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/devicekeys/devicekeys/secret"
)

// Nodes is how many there are: the fewest of which one can be missing while the other
// two still agree and have a synchronous standby.
const Nodes = 3

// Patroni's times, of which the first bounds how long a dead leader is missed. They are the
// shortest that Patroni takes together: TTL ≥ LoopWait + 2·RetryTimeout, and 20 s at least.
const (
	TTL          = 20 * time.Second // a leader that doesn't renew its lease for so long has lost it
	LoopWait     = 5 * time.Second  // between two looks
	RetryTimeout = 5 * time.Second  // for etcd and Postgres to answer
)

const (
	// startBound bounds the start of the cluster: two base backups, each of some seconds, and some
	// rounds of Patroni's loop.
	startBound = 3 * time.Minute

	// scope is the cluster's name in etcd.
	scope = "devicekeys"
)

// Config says where the cluster lives and what it begins with.
type Config struct {
	// Dir holds everything of the cluster. It is made anew: what an earlier one left is
	// ended and removed. The servers' user must be able to reach it, see [Place].
	Dir string

	// From is the folder of a private server (package postgres) that is stopped. Its data move
	// to the first node and its password files stay.
	From string
}

// Cluster is the running cluster. Its methods are safe for concurrent use, Start and
// Kill of the same node aside.
type Cluster struct {
	dir   string
	who   account
	bin   string // folder of Postgres's programs
	nodes [Nodes]*node
	etcds [Nodes]*etcd

	superuser, replication secret.Secret // passwords

	http *http.Client // for Patroni's API
	lock *os.File     // see lockDir
}

// Start makes the cluster and returns when its leader is writable and both others follow it, one of
// them synchronously. errors.Is(err, [ErrNotInstalled]) where packages are missing.
func Start(ctx context.Context, cfg Config) (*Cluster, error) {
	if err := Installed(); err != nil {
		return nil, fmt.Errorf("start cluster: %w", err)
	}
	if err := Clean(ctx, cfg.Dir); err != nil {
		return nil, err
	}
	c, err := start(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("start cluster in %q: %w", cfg.Dir, err)
	}
	return c, nil
}

func start(ctx context.Context, cfg Config) (_ *Cluster, err error) {
	ctx, cancel := context.WithTimeout(ctx, startBound)
	defer cancel()
	c := &Cluster{}
	if c.dir, err = filepath.Abs(cfg.Dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(c.dir, 0o711); err != nil {
		return nil, err
	}
	// A crash from here on leaves the folder with its mark, and Clean removes it.
	if c.lock, err = lockDir(c.dir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			// With the logs, by which one sees why.
			err = errors.Join(err, endProcesses(context.WithoutCancel(ctx), c.dir), c.lock.Close())
		}
	}()
	if err := c.makeNodes(); err != nil {
		return nil, err
	}
	if err := c.adopt(ctx, cfg.From); err != nil {
		return nil, err
	}
	if err := c.makeCertificates(); err != nil {
		return nil, err
	}
	for _, e := range c.etcds {
		if err := e.start(); err != nil {
			return nil, err
		}
	}
	if err := c.awaitEtcd(ctx); err != nil {
		return nil, err
	}
	// The first alone, lest another one makes an empty cluster; then the others copy it.
	for i, n := range c.nodes {
		if err := n.start(); err != nil {
			return nil, err
		}
		if i == 0 {
			if _, err := c.AwaitLeader(ctx, ""); err != nil {
				return nil, err
			}
		}
	}
	return c, c.AwaitWhole(ctx)
}

// makeNodes makes the folders and chooses the ports.
func (c *Cluster) makeNodes() error {
	const each = 4 // Postgres, Patroni, etcd for clients, etcd for its peers
	ports, err := freePorts(each * Nodes)
	if err != nil {
		return err
	}
	for i := range Nodes {
		p := ports[each*i:]
		c.nodes[i] = &node{c: c, name: fmt.Sprintf("node-%d", i+1), port: p[0], api: p[1]}
		c.etcds[i] = &etcd{c: c, name: fmt.Sprintf("etcd-%d", i+1), client: p[2], peer: p[3]}
	}
	return nil
}

// makeDir makes a folder that is the servers' alone.
func (c *Cluster) makeDir(path string) error {
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return c.who.own(path)
}

// write makes a file that is the servers' alone.
func (c *Cluster) write(path string, content []byte) error {
	if err := os.WriteFile(path, content, 0o600); err != nil {
		return err
	}
	return c.who.own(path)
}

// DSN tells how a role reaches a database, in the form of package database: all hosts, the
// primary among them, TLS with a certificate that is checked. It holds no password.
func (c *Cluster) DSN(database, role string) string {
	return fmt.Sprintf("%s dbname=%s user=%s", c.Hosts(), database, role)
}

// Hosts is the part of a DSN that says where the cluster is and which of its nodes is
// meant.
func (c *Cluster) Hosts() string {
	var hosts, ports []string
	for _, n := range c.nodes {
		hosts, ports = append(hosts, loopback), append(ports, fmt.Sprint(n.port))
	}
	return fmt.Sprintf("host=%s port=%s target_session_attrs=read-write connect_timeout=2 sslmode=verify-full sslrootcert=%s",
		strings.Join(hosts, ","), strings.Join(ports, ","), c.tls("ca.pem"))
}

// Names lists the nodes.
func (c *Cluster) Names() []string {
	var names []string
	for _, n := range c.nodes {
		names = append(names, n.name)
	}
	return names
}

// Control is the command line of patronictl for this cluster.
func (c *Cluster) Control() string { return "patronictl -c " + c.nodes[0].config() }

// Log is the file with what Patroni and Postgres of a node say.
func (c *Cluster) Log(name string) string { return filepath.Join(c.dir, name, "patroni.log") }

// Stop ends all servers at once and removes the folder. Called again it does nothing.
func (c *Cluster) Stop(ctx context.Context) error {
	if err := c.lock.Close(); errors.Is(err, os.ErrClosed) {
		return nil
	}
	return Clean(ctx, c.dir)
}
