// Package plant makes and runs a whole factory on this machine, in one folder, out of the
// product's own programs: a private Postgres, SPPs, a sequencer, a registry, stations and
// the devices in their fixtures. The demo performs in one; the torture program breaks one.
//
//	postgres/   a private Postgres cluster: pool, records, registry
//	hsm/        SoftHSM directories of SPPs and sequencer
//	devices/    a station's fixtures: a SoftHSM directory, slots, flash images
//	public/     what the maker publishes: ROM key, CA certificates, …
//	etc/        configurations, PIN files, certificates
//	modules/    the basic software modules
//	journal/    what a station keeps of devices in work
//	log/        every command, and every server's log
//
// # Names
//
// Where there is one SPP it is called "spp", and of several they are "spp-1", "spp-2" and so
// on; stations alike. The name stands for ports, logs, token directory and
// configuration (etc/NAME.yaml).
//
// Several SPPs have several tokens with the same keys: the first one's directory is copied
// once the maker's keys are in it. Each has a TLS key and a certificate of its own, and
// with it its own name.
//
// # Links
//
// With Config.Proxies, every connection between two parts that a fault test may break goes
// through a [fault.Proxy], named by both ends: "stations/spp-1", "spp-1/postgres",
// "spp-1/sequencer", "sequencer/postgres", "registry/postgres". What sets up and checks
// (custodian, auditor, the import commands) goes directly.
package plant

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/devicekeys/devicekeys/deploy/postgres"
	"github.com/devicekeys/devicekeys/fault"
	"github.com/devicekeys/devicekeys/softhsm"
)

// Config says what a plant has.
type Config struct {
	Dir      string // made anew
	Programs string // folder of the product's programs; "" means this program's
	Name     string // whose plant it is: stands in the audit log and in messages
	Devices  int    // of all stations together; identities are for a few more
	SPPs     int    // 0 means 1
	Stations int    // 0 means 1
	Proxies  bool   // between the parts
	Pairs    string // where devices get key pairs from, "pool" or "made", with published certificates; "": they have none
	Service  bool   // there is a device service

	// PostgresDir is another place for the database cluster; "" means Dir/postgres.
	PostgresDir string
	// Modules are PKCS#11 modules for the SPPs, by their order; left out, SoftHSM's.
	Modules []Module
}

// Module is a PKCS#11 module with the environment that it wants.
type Module struct {
	Path string
	Env  []string // "NAME=value"
}

// Plant is a factory. Its methods are for one goroutine, but for those of Servers, Run, Ask
// and the names.
type Plant struct {
	Config
	Postgres *postgres.Server // nil while it does not run

	log       *os.File          // log/commands.log
	passwords map[string]string // role → password file
	hsms      map[string]*softhsm.Directory
	ports     map[string]string // "spp", "spp metrics", … → host:port
	links     map[string]*fault.Proxy

	mu      sync.Mutex // guards servers
	servers []*Server
}

// New makes the folders anew. What an earlier plant left there is stopped and removed
// first, its servers included.
func New(ctx context.Context, c Config) (_ *Plant, err error) {
	if c.Dir, err = filepath.Abs(c.Dir); err != nil {
		return nil, err
	}
	if c.Programs == "" {
		executable, err := os.Executable()
		if err != nil {
			return nil, err
		}
		c.Programs = filepath.Dir(executable)
	}
	c.SPPs, c.Stations = max(c.SPPs, 1), max(c.Stations, 1)
	if c.PostgresDir == "" {
		c.PostgresDir = filepath.Join(c.Dir, "postgres")
	}
	if err := clear(ctx, c); err != nil {
		return nil, err
	}
	p := &Plant{
		Config: c, passwords: map[string]string{}, hsms: map[string]*softhsm.Directory{}, ports: map[string]string{}, links: map[string]*fault.Proxy{},
	}
	for _, d := range []string{"etc", "log", "modules", "hsm"} {
		if err := os.MkdirAll(filepath.Join(c.Dir, d), 0o700); err != nil {
			return nil, err
		}
	}
	if p.log, err = os.OpenFile(filepath.Join(c.Dir, "log", "commands.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Stop())
		}
	}()
	for name, folder := range p.hsmFolders() {
		if p.hsms[name], err = softhsm.NewDirectory(filepath.Join(c.Dir, folder)); err != nil {
			return nil, err
		}
	}
	servers := append([]string{"sequencer", "registry"}, p.SPPNames()...)
	if p.Service {
		servers = append(servers, service)
	}
	if err := p.pickPorts(servers); err != nil {
		return nil, err
	}
	return p, nil
}

// hsmFolders are the token directories. SPPs, sequencer and devices share none;
// a station's own token is beside its fixtures' chips.
func (p *Plant) hsmFolders() map[string]string {
	folders := map[string]string{"sequencer": "hsm/sequencer"}
	for _, spp := range p.SPPNames() {
		folders[spp] = "hsm/" + spp
	}
	for _, station := range p.StationNames() {
		folders[station] = filepath.Base(p.Fixtures(station))
	}
	if p.Service {
		folders[service] = "hsm/service"
	}
	return folders
}

// SPPNames lists the SPPs.
func (p *Plant) SPPNames() []string { return names("spp", p.SPPs) }

// StationNames lists the stations.
func (p *Plant) StationNames() []string { return names("station", p.Stations) }

func names(of string, n int) []string {
	if n == 1 {
		return []string{of}
	}
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf("%s-%d", of, i+1))
	}
	return all
}

// Fixtures is the folder of a station's devices: "devices", "devices-2".
func (p *Plant) Fixtures(station string) string {
	return filepath.Join(p.Dir, "devices"+strings.TrimPrefix(station, "station"))
}

// HSM is the token directory of an SPP, a station or the sequencer.
func (p *Plant) HSM(name string) *softhsm.Directory { return p.hsms[name] }

// clear ends what an earlier plant left in a folder and removes it. It refuses a folder that
// holds something else.
func clear(ctx context.Context, c Config) error {
	entries, err := os.ReadDir(c.Dir)
	if errors.Is(err, os.ErrNotExist) || err == nil && len(entries) == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(c.Dir, "log", "commands.log")); err != nil {
		return fmt.Errorf("folder %s is not empty and not an earlier %s's: name another with --dir", c.Dir, c.Name)
	}
	if err := StopKept(ctx, c.Dir); err != nil {
		return err
	}
	return os.RemoveAll(c.Dir)
}

// Ports are chosen below those that the system gives to outgoing connections (from 32768 on
// Linux): one of those could take the port of a server that was killed and is started again.
const (
	firstPort = 20000
	lastPort  = 32767
	portTries = 1000
)

// pickPorts chooses two free ports of the loopback address for each server.
func (p *Plant) pickPorts(servers []string) error {
	var open []net.Listener
	// All stay open until all are chosen, so that no two are the same.
	defer func() {
		for _, l := range open {
			l.Close()
		}
	}()
	for _, s := range servers {
		for _, n := range []string{s, s + " metrics"} {
			l, err := freePort()
			if err != nil {
				return err
			}
			open = append(open, l)
			p.ports[n] = l.Addr().String()
		}
	}
	return nil
}

func freePort() (l net.Listener, err error) {
	for range portTries {
		if l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", firstPort+rand.N(lastPort-firstPort+1))); err == nil {
			return l, nil
		}
	}
	return nil, fmt.Errorf("find a free port from %d to %d: %w", firstPort, lastPort, err)
}

// Etc is the path of a file among the configurations.
func (p *Plant) Etc(name string) string { return filepath.Join(p.Dir, "etc", name) }

// Public is the path of what the maker publishes.
func (p *Plant) Public(name string) string { return filepath.Join(p.Dir, "public", name) }

// Address is where a server listens, host:port; "spp metrics" is where it is monitored.
func (p *Plant) Address(server string) string { return p.ports[server] }

// Link gives the proxy between two parts, nil where there is none.
func (p *Plant) Link(name string) *fault.Proxy { return p.links[name] }

// LinkNames lists the links, sorted.
func (p *Plant) LinkNames() []string { return slices.Sorted(maps.Keys(p.links)) }

// reach tells where a part finds a server: behind their link, where there are proxies.
func (p *Plant) reach(from, to string) (string, error) {
	if !p.Proxies {
		return p.ports[to], nil
	}
	l, err := p.link(from+"/"+to, "tcp", p.ports[to])
	if err != nil {
		return "", err
	}
	return l.Addr(), nil
}

func (p *Plant) link(name, network, address string) (*fault.Proxy, error) {
	if l := p.links[name]; l != nil {
		l.SetTarget(network, address)
		return l, nil
	}
	l, err := fault.NewProxy(network, address)
	if err != nil {
		return nil, err
	}
	p.links[name] = l
	return l, nil
}

// Stop ends everything that was started, in the reverse order.
func (p *Plant) Stop() error {
	var all error
	p.mu.Lock()
	servers := p.servers
	p.servers = nil
	p.mu.Unlock()
	for i := len(servers) - 1; i >= 0; i-- {
		all = errors.Join(all, servers[i].Stop())
	}
	for _, name := range p.LinkNames() {
		all = errors.Join(all, p.links[name].Close())
	}
	all = errors.Join(all, p.StopPostgres())
	if err := os.Remove(filepath.Join(p.Dir, keptFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		all = errors.Join(all, err)
	}
	return errors.Join(all, p.log.Close())
}
