package ha

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/devicekeys/devicekeys/database"
	"github.com/devicekeys/devicekeys/deploy/postgres"
	"github.com/devicekeys/devicekeys/secret"
)

// replicator is the role by which the nodes copy each other.
const replicator = "replicator"

// replicable are settings under which the server has to have run once: Patroni starts every node as a
// standby first, and a standby refuses what was written at the private server's wal_level.
var replicable = map[string]string{"wal_level": "replica", "max_wal_senders": "10", "max_replication_slots": "10"}

// adopt takes the data of a private server over. It adds the role for replication and moves the
// data folder to the first node. A crash before the move leaves the private server as it
// was, with one role more.
func (c *Cluster) adopt(ctx context.Context, from string) (err error) {
	s, err := postgres.Start(ctx, postgres.Config{Dir: from, Durable: true, Settings: replicable})
	if err != nil {
		return err
	}
	password, err := c.addReplicator(ctx, s)
	if err := errors.Join(err, s.Stop(ctx)); err != nil {
		return err
	}
	if c.replication, err = secret.ReadFile(password); err != nil {
		return err
	}
	if c.superuser, err = secret.ReadFile(s.SuperuserPasswordFile()); err != nil {
		return err
	}
	data, err := filepath.EvalSymlinks(filepath.Join(from, "data"))
	if err != nil {
		return err
	}
	if c.who, err = ownerOf(data); err != nil {
		return err
	}
	if c.bin, err = postgresPrograms(data); err != nil {
		return err
	}
	first := c.nodes[0]
	if err := c.makeDir(first.dir()); err != nil {
		return err
	}
	if err := c.who.command(first.dir(), "/bin/sh", "-c", "true").Run(); err != nil {
		return fmt.Errorf("user %d can't work in %q (%w): name a folder that it can reach", c.who.uid, first.dir(), err)
	}
	if err := os.Rename(data, first.data()); err != nil {
		return fmt.Errorf("take over the data of %q: %w: both folders must be on one file system", from, err)
	}
	return nil
}

// addReplicator makes the role that package postgres has no use for.
func (c *Cluster) addReplicator(ctx context.Context, s *postgres.Server) (passwordFile string, err error) {
	if passwordFile, err = s.Role(ctx, replicator); err != nil {
		return "", err
	}
	db, err := database.Open(ctx, database.Config{DSN: s.DSN("postgres", "postgres"), PasswordFile: s.SuperuserPasswordFile(), MaxConns: 1})
	if err != nil {
		return "", err
	}
	_, err = db.ExecContext(ctx, `alter role `+replicator+` replication`)
	return passwordFile, errors.Join(err, db.Close())
}
