// Package postgres runs the private Postgres server of the demo and of the tests.
//
// Private means: a cluster of its own in a folder of its own, reached by a Unix
// socket only, every role, the superuser included, with a random scram password from
// the first start on. A server that runs on the machine already is never used or
// touched. For production there is the distribution's server and the operator's
// configuration; this is not it.
//
// # Who runs it
//
// An ordinary user runs the server as himself. Postgres refuses to run as root, so
// there it runs as the user "postgres", with one capability (CAP_DAC_OVERRIDE,
// ambient) if that is what it takes to reach a folder below root's home. Where the
// capability is not to be had, the data go to a folder of /var/tmp that postgres can
// reach, and Dir/data is a link to it.
//
// # Who ends it
//
// The server is the child of a small shell script, the watchdog, that holds the reading
// end of a pipe whose writing end only this process has. However this process ends,
// by return, os.Exit, panic or SIGKILL, the kernel closes the pipe, and the watchdog
// stops the server and removes its socket folder. (PR_SET_PDEATHSIG would tie the
// server to the life of a thread, which Go ends as it pleases, and exists on Linux
// only.) [Server.Detach] releases it, [Attach] and [StopDir] find it again.
//
// # What is in Config.Dir
//
//	data                the cluster (or a link to it)
//	run                 the socket, unless the path is too long for one
//	superuser.password  of the role postgres, mode 0400
//	pgpass              the same for psql and pg_dump: PGPASSFILE=Dir/pgpass
//	role-NAME.password  of each role made by [Server.Role], mode 0400
//	postgres.log        the server's log: no statements, no row values
//
// Whoever reads the password files can do with the databases what the role can.
package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/devicekeys/devicekeys/database"
)

const (
	// startBound bounds the wait for a started server to answer. A second is usual;
	// recovery after a crash of a loaded durable cluster takes longest.
	startBound = time.Minute

	// startPoll is the pause between two questions whether it answers yet.
	startPoll = 10 * time.Millisecond

	// initBound bounds initdb: one to three seconds, many times that on a loaded
	// machine that syncs.
	initBound = 2 * time.Minute

	superuser = "postgres"
	port      = "5432" // only part of the socket's name: nothing listens on the network
)

var (
	// ErrNotInstalled: no Postgres server was found, or no user to run it as; the
	// message says which package to install.
	ErrNotInstalled = errors.New("postgres is not installed")

	// ErrNotRunning: no server runs in the folder.
	ErrNotRunning = errors.New("no server runs there")
)

// Config says where the server lives and how careful it is.
type Config struct {
	// Dir holds everything of the server. It is made if missing and can be used
	// again later: roles, databases and passwords are kept.
	Dir string

	// Durable makes commits survive a loss of power, as in production. Without it
	// the server neither syncs nor writes full pages: several times faster, survives its
	// own crash, not the machine's. For tests.
	Durable bool

	// LogFile takes the server's log; "" means Dir/postgres.log. It is appended to.
	LogFile string

	// Settings are further server settings by their name in postgresql.conf, for
	// benchmarks and fault tests. Those that keep the server private can't be set.
	Settings map[string]string
}

// A Server is a running Postgres. Its methods are safe for concurrent use.
type Server struct {
	dir     string // absolute Config.Dir
	data    string // the cluster, links resolved
	sockets string // folder of the socket
	bin     binaries
	pid     int           // of the postmaster
	process *os.Process   // the postmaster
	watch   *watchdog     // nil if attached
	admin   *sql.DB       // as the superuser, to the database postgres
	roles   sync.Mutex    // one change of roles at a time
	stop    sync.Once     // Stop and Kill act once
	stopped chan struct{} // closed when they have
}

// Start starts the server of cfg.Dir, after making its cluster on first use, and
// returns when it answers. If one runs there already it is an error: [Attach] to it or
// stop it with [StopDir].
func Start(ctx context.Context, cfg Config) (*Server, error) {
	who, err := runAs()
	if err != nil {
		return nil, fmt.Errorf("start postgres in %q: %w", cfg.Dir, err)
	}
	s, err := start(ctx, cfg, who, false)
	if err != nil {
		return nil, fmt.Errorf("start postgres in %q: %w", cfg.Dir, err)
	}
	return s, nil
}

// start is Start as an account; ephemeral has the watchdog remove the whole of Dir at the
// end.
func start(ctx context.Context, cfg Config, who account, ephemeral bool) (_ *Server, err error) {
	if cfg.Dir == "" {
		return nil, errors.New("no folder named: set Dir")
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, who.dirMode()); err != nil {
		return nil, err
	}
	unlock, err := lockDir(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if running, err := Attach(ctx, dir); err == nil {
		running.release()
		return nil, fmt.Errorf("a server runs there already (process %d): attach to it, or stop it first", running.pid)
	} else if !errors.Is(err, ErrNotRunning) {
		return nil, err
	}
	cl := cluster{dir: dir, who: who, durable: cfg.Durable}
	if err := cl.prepare(ctx); err != nil {
		return nil, err
	}
	sockets, temporary, err := cl.socketDir()
	if err != nil {
		return nil, err
	}
	logFile := cfg.LogFile
	if logFile == "" {
		logFile = filepath.Join(dir, "postgres.log")
	}
	args, err := cl.serverArgs(sockets, cfg.Settings)
	if err != nil {
		return nil, err
	}
	var remove []string
	if temporary {
		remove = append(remove, sockets)
	}
	if ephemeral {
		remove = append(remove, dir)
		if place := filepath.Dir(cl.data); place != dir {
			remove = append(remove, place)
		}
	}
	watch, err := startWatchdog(cl.who, logFile, remove, args)
	if err != nil {
		return nil, err
	}
	s := &Server{dir: dir, data: cl.data, sockets: sockets, bin: cl.bin, watch: watch, stopped: make(chan struct{})}
	if err := s.awaitReady(ctx, logFile); err != nil {
		watch.end()
		return nil, err
	}
	return s, nil
}

// awaitReady connects as the superuser as soon as that works.
func (s *Server) awaitReady(ctx context.Context, logFile string) error {
	ctx, cancel := context.WithTimeout(ctx, startBound)
	defer cancel()
	for {
		db, err := s.open(ctx, "postgres")
		if err == nil {
			return s.adopt(db)
		}
		if !database.Transient(err) && ctx.Err() == nil {
			return err
		}
		select {
		case <-s.watch.done:
			return fmt.Errorf("the server ended at once; its log (%s) ends with:\n%s", logFile, tail(logFile))
		case <-ctx.Done():
			return fmt.Errorf("no answer from the server: %w (last: %w): see %s", context.Cause(ctx), err, logFile)
		case <-time.After(startPoll):
		}
	}
}

// adopt takes db as the superuser's connection and finds the server's process.
func (s *Server) adopt(db *sql.DB) error {
	file, err := readPIDFile(s.data)
	if err == nil {
		// On Linux this is a handle to the process, not just its number, so that a
		// later signal can't hit another one.
		s.pid = file.pid
		s.process, err = os.FindProcess(file.pid)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("find the server's process: %w", err), db.Close())
	}
	s.admin = db
	return nil
}

// open connects to a database as the superuser.
func (s *Server) open(ctx context.Context, name string) (*sql.DB, error) {
	return database.Open(ctx, database.Config{
		DSN:          s.DSN(name, superuser),
		PasswordFile: s.SuperuserPasswordFile(),
		MaxConns:     2, // reserved for superusers are three, so this works in a full server too
	})
}

// DSN tells how role connects to a database here, in the form of
// [database.Config]. It holds no password: [Server.Role] names its file.
func (s *Server) DSN(name, role string) string {
	return fmt.Sprintf("host=%s port=%s dbname=%s user=%s sslmode=disable", quote(s.sockets), port, quote(name), quote(role))
}

// quote makes a value of a DSN.
func quote(v string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(v) + "'"
}

// SocketDir is the folder of the server's socket: psql -h takes it.
func (s *Server) SocketDir() string { return s.sockets }

// SuperuserPasswordFile names the file with the password of the superuser,
// "postgres".
func (s *Server) SuperuserPasswordFile() string {
	return filepath.Join(s.dir, "superuser.password")
}

// Passfile names a file for the PGPASSFILE of psql and other tools, which then connect
// as the superuser.
func (s *Server) Passfile() string { return filepath.Join(s.dir, "pgpass") }

// PID is the process id of the server.
func (s *Server) PID() int { return s.pid }

// tail is the end of the log, for an error message.
func tail(path string) string {
	const most = 2000
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err.Error()
	}
	b := make([]byte, most)
	n, _ := f.ReadAt(b, max(0, info.Size()-most)) // short at the end of the file
	return strings.TrimSpace(string(b[:n]))
}
