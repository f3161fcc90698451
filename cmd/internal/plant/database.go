package plant

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"time"

	"github.com/devicekeys/devicekeys/deploy/postgres"
)

// roles of the databases, and which databases each may enter.
var roles = map[string][]string{
	"pool":     {"spp", "auditor"},
	"records":  {"spp", "auditor", "custodian", "service"},
	"registry": {"sequencer", "reader", "auditor"},
}

// postgresStop bounds the stop of the cluster: its own steps take less.
const postgresStop = time.Minute

// StartPostgres starts the cluster, durable as in production, and makes databases and
// roles that are missing. It is called again after a crash of the cluster; then the links
// lead to the new one.
func (p *Plant) StartPostgres(ctx context.Context) (err error) {
	if p.Postgres, err = postgres.Start(ctx, postgres.Config{Dir: p.PostgresDir, Durable: true}); err != nil {
		return err
	}
	for database, users := range roles {
		owner := database + "_owner"
		for _, role := range append([]string{owner}, users...) {
			if p.passwords[role] != "" {
				continue
			}
			if p.passwords[role], err = p.Postgres.Role(ctx, role); err != nil {
				return err
			}
		}
		if err := p.Postgres.CreateDatabase(ctx, database, owner, users...); err != nil {
			return err
		}
	}
	return nil
}

// RestartPostgres starts the cluster after a crash. Its databases are there already.
func (p *Plant) RestartPostgres(ctx context.Context) error {
	s, err := postgres.Start(ctx, postgres.Config{Dir: p.PostgresDir, Durable: true})
	if err != nil {
		return err
	}
	moved := p.Postgres == nil || p.Postgres.SocketDir() != s.SocketDir()
	p.Postgres = s
	if moved {
		// A path too long for a socket has it in a folder that is another one each time.
		return p.writeConfigurations()
	}
	return nil
}

// StopPostgres stops the cluster, if it runs.
func (p *Plant) StopPostgres() error {
	if p.Postgres == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), postgresStop)
	defer cancel()
	err := p.Postgres.Stop(ctx)
	p.Postgres = nil
	return err
}

// database gives the lines of a configuration that name a database and role, as a part
// reaches it.
func (p *Plant) database(from, indent, database, role string) (string, error) {
	dsn := p.Postgres.DSN(database, role)
	if p.Proxies && from != "" {
		l, err := p.link(from+"/postgres", "unix", filepath.Join(p.Postgres.SocketDir(), ".s.PGSQL.5432"))
		if err != nil {
			return "", err
		}
		host, port, err := net.SplitHostPort(l.Addr())
		if err != nil {
			return "", err
		}
		// Postgres itself has no TLS here: the proxy's other end is its Unix socket.
		dsn = fmt.Sprintf("host=%s port=%s dbname=%s user=%s sslmode=disable", host, port, database, role)
	}
	return fmt.Sprintf("%sdsn: %s\n%spassword_file: %s\n", indent, dsn, indent, p.passwords[role]), nil
}
