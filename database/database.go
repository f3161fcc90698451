// Package database is the one place that opens Postgres, through lib/pq, so that
// every program connects, waits, retries and migrates alike.
//
// What [Open] insists on:
//
//   - host, dbname, user and sslmode stand in the configuration, because lib/pq
//     would otherwise take them from the environment or a default, and its default
//     of sslmode is about to change;
//   - the password stands in a file of mode 0400 (package secret), never in the
//     DSN, the environment or ~/.pgpass;
//   - binary_parameters=yes: a []byte goes over the wire as bytes, not as twice as
//     much hex text, and an unprepared query takes one round trip;
//   - several hosts come with target_session_attrs, because lib/pq would take the first
//     that answers, which may be a standby;
//   - every wait has a bound: connecting, a statement, a transaction left idle, a
//     peer that vanished. Contexts bound them further.
//
// # Failover
//
// With host=a,b,c and target_session_attrs=read-write a program follows the primary by
// itself: a connection to a server that is gone, stopping or read-only never serves
// twice, one that was closed while idle is found out before it is used, and statements
// ([Statements]) are prepared again on the new ones. What was under way fails with an
// error that is [Transient]; what may have happened, with [ErrCommitUnknown], and
// nothing is sent a second time behind the caller's back. conn says how. Whatever was
// acknowledged stands after a failover if the servers replicate synchronously
// (deploy/ha).
//
// The queries themselves are the stores' business; this package knows no table but
// the migrations' own.
//
// Reads that a program makes thousands of times a second go another way ([Lookup]): the same
// connections and bounds, without a goroutine for each query.
//
// Errors: [Transient] says whether trying again may help, [UniqueViolation] whether
// the row was there already. [InTx] runs a transaction and repeats it where Postgres
// said that it didn't happen.
//
// Migrations run as the role that owns the schema ([Migrate]); services connect as
// roles of their own with the least rights, and refuse to run on a schema older than
// they know ([RequireSchema]).
package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/devicekeys/devicekeys/secret"
	"github.com/lib/pq"
)

const (
	// ConnectTimeout bounds one attempt to connect to one host: longer than any
	// healthy login (milliseconds, a few hundred under load), short enough that a
	// program with several hosts reaches the next one soon.
	ConnectTimeout = 5 * time.Second

	// StatementTimeout is the server's bound on one statement, locks waited for
	// included. The slowest statements of the services, batches of a thousand rows,
	// take well under a second. A statement_timeout in the DSN, in
	// milliseconds, wins: long migrations need one.
	StatementTimeout = 30 * time.Second

	// IdleTransactionTimeout is the server's bound on a transaction whose client
	// says nothing: a client that hangs must not hold its locks for ever.
	IdleTransactionTimeout = time.Minute

	// peerTimeout bounds the silence of a TCP peer that is gone without a word (a
	// pulled cable, a dead machine). A context alone doesn't end such a read.
	peerTimeout = 20 * time.Second

	// connLifetime has every connection replaced now and then, so that after a
	// failover the pool drifts back to the writable server by itself.
	connLifetime = 5 * time.Minute

	// connIdleTime gives back what a burst opened.
	connIdleTime = time.Minute

	// DefaultMaxConns suits a service on a few cores; more connections made reads
	// slower where that was measured.
	DefaultMaxConns = 8
)

// Config tells where a database is and who connects to it.
type Config struct {
	// DSN holds key=value pairs as of libpq, for example
	//
	//	host=/run/devicekeys/postgres dbname=pool user=spp sslmode=disable
	//	host=db1,db2,db3 dbname=records user=spp sslmode=verify-full target_session_attrs=read-write connect_timeout=2
	//
	// host, dbname, user and sslmode are required, and target_session_attrs where there are
	// several hosts. They are tried in their order, each for connect_timeout seconds (5 if
	// it isn't there, and at most), so a host that doesn't even refuse costs that much with
	// every new connection. A password in it is refused.
	DSN string `yaml:"dsn"`

	// PasswordFile is a file of mode 0400 with the role's password, or "fd:N". Empty:
	// no password is sent (client certificates, by sslcert and sslkey in the DSN).
	PasswordFile string `yaml:"password_file"`

	// MaxConns bounds the connections open at once; 0 means DefaultMaxConns.
	MaxConns int `yaml:"max_conns"`
}

// noPassfile can't exist. lib/pq would read ~/.pgpass if no password is given.
const noPassfile = "/dev/null/pgpass"

// required are the keys a DSN must have, lest the environment decides.
var required = []string{"host", "dbname", "user", "sslmode"}

// environment lists variables that lib/pq would obey beside the DSN and that change
// who connects or how the server behaves.
var environment = []string{"PGPASSWORD", "PGOPTIONS", "PGSERVICE", "PGSERVICEFILE", "PGHOSTADDR", "PGTARGETSESSIONATTRS", "PGLOADBALANCEHOSTS"}

// Open connects to the database of cfg and checks that it answers. The result is a
// pool, safe for concurrent use; the caller closes it.
func Open(ctx context.Context, cfg Config) (*sql.DB, error) {
	inner, err := configure(cfg)
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	db := sql.OpenDB(&connector{Connector: inner})
	conns := cfg.MaxConns
	if conns == 0 {
		conns = DefaultMaxConns
	}
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	db.SetConnMaxLifetime(connLifetime)
	db.SetConnMaxIdleTime(connIdleTime)
	if err := db.PingContext(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open database %s: %w%s", where(cfg.DSN), err, hint(err)), db.Close())
	}
	return db, nil
}

// configure checks cfg and makes lib/pq's connector of it.
func configure(cfg Config) (*pq.Connector, error) {
	// These come first: the parser's errors quote pieces of what they can't read.
	switch {
	case cfg.DSN == "":
		return nil, errors.New("no dsn: set it to host=… dbname=… user=… sslmode=…")
	case strings.Contains(cfg.DSN, "://"):
		return nil, errors.New("the dsn is a URL: write it as key=value pairs, host=… dbname=… user=… sslmode=…")
	case hasKey(cfg.DSN, "password"):
		return nil, errors.New("the dsn holds a password: put it into a file of mode 0400 and name that as password_file")
	case hasKey(cfg.DSN, "passfile") || hasKey(cfg.DSN, "service"):
		return nil, errors.New("the dsn names a passfile or service: write out host, dbname, user and sslmode, and name the password's file as password_file")
	case cfg.MaxConns < 0:
		return nil, fmt.Errorf("max_conns is %d: set it to 1 or more, or leave it out for %d", cfg.MaxConns, DefaultMaxConns)
	}
	for _, key := range required {
		if !hasKey(cfg.DSN, key) {
			return nil, fmt.Errorf("the dsn has no %s: add %s=…", key, key)
		}
	}
	for _, name := range environment {
		if os.Getenv(name) != "" {
			return nil, fmt.Errorf("the environment sets %s: unset it, the configuration alone decides how to connect", name)
		}
	}
	c, err := pq.NewConfig(cfg.DSN)
	if err != nil {
		return nil, fmt.Errorf("parse dsn: %w", err)
	}
	if mode := c.SSLMode; mode == pq.SSLModeAllow || mode == pq.SSLModePrefer {
		return nil, fmt.Errorf("sslmode is %q, which anyone between can turn off: set verify-full, or disable on a unix socket", mode)
	}
	if len(c.Multi) > 0 && !hasKey(cfg.DSN, "target_session_attrs") {
		return nil, errors.New("the dsn has several hosts and no target_session_attrs: add target_session_attrs=read-write, or any for a program that only reads")
	}
	for _, m := range c.Multi {
		if onSocket(m.Host) != onSocket(c.Host) {
			return nil, errors.New("the dsn mixes unix sockets and network hosts: name only the one kind, lib/pq would talk to all of them as to the first, on a socket without TLS")
		}
	}
	c.BinaryParameters = true
	c.Passfile = noPassfile
	if cfg.PasswordFile != "" {
		password, err := secret.ReadFile(cfg.PasswordFile)
		if err != nil {
			return nil, err
		}
		c.Password = string(password.Bytes())
	}
	if c.ConnectTimeout <= 0 || c.ConnectTimeout > ConnectTimeout {
		c.ConnectTimeout = ConnectTimeout
	}
	if c.ApplicationName == "" {
		c.ApplicationName = filepath.Base(os.Args[0])
	}
	if c.Runtime == nil {
		c.Runtime = make(map[string]string)
	}
	for name, bound := range map[string]time.Duration{
		"statement_timeout":                   StatementTimeout,
		"idle_in_transaction_session_timeout": IdleTransactionTimeout,
	} {
		if _, set := c.Runtime[name]; !set {
			c.Runtime[name] = strconv.FormatInt(bound.Milliseconds(), 10)
		}
	}
	conn, err := pq.NewConnectorConfig(c)
	if err != nil {
		return nil, err
	}
	conn.Dialer(newDialer())
	return conn, nil
}

// onSocket tells whether a host is the folder of a Unix socket, or an abstract one.
func onSocket(host string) bool { return strings.HasPrefix(host, "/") || strings.HasPrefix(host, "@") }

// hasKey tells whether dsn sets key. A quoted value that itself holds "key=" counts
// too; no sensible one does.
func hasKey(dsn, key string) bool {
	return regexp.MustCompile(`(?:^|\s)` + key + `\s*=`).MatchString(dsn)
}

// where names hosts, database and user for messages, and nothing else of the DSN.
func where(dsn string) string {
	c, err := pq.NewConfig(dsn)
	if err != nil {
		return ""
	}
	hosts := c.Host
	for _, m := range c.Multi {
		hosts += "," + m.Host
	}
	return fmt.Sprintf("%q at %q as %q", c.Database, hosts, c.User)
}

// hint is the next step where a connection was refused, "" where none is known.
func hint(err error) string {
	if anyWrongSession(err) {
		return ": no host is what target_session_attrs asks for; in the middle of a failover that passes"
	}
	switch code(err) {
	case "28P01", "28000":
		return ": check user and password_file, and the server's pg_hba.conf"
	case "3D000":
		return ": create the database first, or correct dbname"
	case "53300":
		return ": lower max_conns or raise the server's max_connections"
	case "":
		return ": is Postgres running, and is host right?"
	}
	return ""
}
