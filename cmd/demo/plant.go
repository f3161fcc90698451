package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/devicekeys/devicekeys/deploy/postgres"
	"github.com/devicekeys/devicekeys/softhsm"
)

// plant is the factory of the demo: a folder with everything in it.
//
//	postgres/   a private Postgres cluster: pool, records, registry
//	hsm/        SoftHSM directories of SPP and sequencer
//	devices/    the devices: a SoftHSM directory, slots, flash images
//	public/     what the maker publishes: ROM key, CA certificates, …
//	etc/        configurations, PIN files, certificates
//	modules/    the basic software modules
//	log/        every command, and every server's log
//	report.json
type plant struct {
	dir      string // absolute
	programs string // folder of the product's programs
	devices  int
	log      io.Writer // log/commands.log

	postgres  *postgres.Server
	passwords map[string]string // role → password file
	hsms      map[string]*softhsm.Directory
	servers   []*server
	ports     map[string]string // "spp", "spp metrics", … → host:port
}

// The roles of the databases, and which databases each may enter.
var roles = map[string][]string{
	"pool":     {"spp", "auditor"},
	"records":  {"spp", "auditor", "custodian"},
	"registry": {"sequencer", "reader", "auditor"},
}

// hsmFolders are the token directories. SPP, sequencer and devices share none;
// the station's own token is beside its fixtures' chips.
var hsmFolders = map[string]string{"spp": "hsm/spp", "sequencer": "hsm/sequencer", "fixtures": "devices"}

// newPlant makes the folders anew. What an earlier demo left is stopped and
// removed first, its servers included (KEEP=1).
func newPlant(ctx context.Context, dir string, devices int) (_ *plant, err error) {
	dir, err = filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := clearPlant(ctx, dir); err != nil {
		return nil, err
	}
	executable, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &plant{
		dir: dir, programs: filepath.Dir(executable), devices: devices,
		passwords: map[string]string{}, hsms: map[string]*softhsm.Directory{}, ports: map[string]string{},
	}
	for _, d := range []string{"etc", "log", "modules", "hsm"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			return nil, err
		}
	}
	if p.log, err = os.OpenFile(filepath.Join(dir, "log", "commands.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600); err != nil {
		return nil, err
	}
	for name, folder := range hsmFolders {
		if p.hsms[name], err = softhsm.NewDirectory(filepath.Join(dir, folder)); err != nil {
			return nil, err
		}
	}
	return p, p.pickPorts("spp", "spp metrics", "sequencer", "sequencer metrics", "registry", "registry metrics")
}

// clearPlant ends what an earlier demo left in dir and removes the folder. It
// refuses a folder that no demo made.
func clearPlant(ctx context.Context, dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) || err == nil && len(entries) == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(dir, "log", "commands.log")); err != nil {
		return fmt.Errorf("folder %s is not empty and not an earlier demo's: name another with --dir", dir)
	}
	if err := stopKept(ctx, dir); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

// pickPorts chooses free ports of the loopback address.
func (p *plant) pickPorts(names ...string) error {
	for _, n := range names {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		// All stay open until all are chosen, so that no two are the same.
		defer l.Close()
		p.ports[n] = l.Addr().String()
	}
	return nil
}

func (p *plant) etc(name string) string { return filepath.Join(p.dir, "etc", name) }

func (p *plant) public(name string) string { return filepath.Join(p.dir, "public", name) }

func (p *plant) health(server string) string {
	return "http://" + p.ports[server+" metrics"] + "/healthz"
}

// with names a program and the token directory it uses.
func (p *plant) with(name, hsm string) program {
	g := program{name: name}
	if d := p.hsms[hsm]; d != nil {
		g.env = []string{"SOFTHSM2_CONF=" + d.Conf()}
	}
	return g
}

// startPostgres starts the cluster with its databases and roles, and runs the
// migrations.
func (p *plant) startPostgres(ctx context.Context) (err error) {
	if p.postgres, err = postgres.Start(ctx, postgres.Config{Dir: filepath.Join(p.dir, "postgres"), Durable: true}); err != nil {
		return err
	}
	for database, users := range roles {
		owner := database + "_owner"
		for _, role := range append([]string{owner}, users...) {
			if p.passwords[role] != "" {
				continue
			}
			if p.passwords[role], err = p.postgres.Role(ctx, role); err != nil {
				return err
			}
		}
		if err := p.postgres.CreateDatabase(ctx, database, owner, users...); err != nil {
			return err
		}
	}
	return nil
}

// database gives the lines of a configuration that name a database and role.
func (p *plant) database(indent, database, role string) string {
	return fmt.Sprintf("%sdsn: %s\n%spassword_file: %s\n", indent, p.postgres.DSN(database, role), indent, p.passwords[role])
}

// write makes a configuration file.
func (p *plant) write(name, text string) (string, error) {
	file := p.etc(name)
	return file, os.WriteFile(file, []byte(strings.TrimLeft(text, "\n")), 0o600)
}

// stop ends everything that was started, in the reverse order.
func (p *plant) stop() error {
	var all error
	for i := len(p.servers) - 1; i >= 0; i-- {
		all = errors.Join(all, p.servers[i].stop())
	}
	p.servers = nil
	if p.postgres != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		all = errors.Join(all, p.postgres.Stop(ctx))
		p.postgres = nil
	}
	return all
}
