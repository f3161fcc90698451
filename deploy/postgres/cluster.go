package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/devicekeys/devicekeys/secret"
)

const (
	// passwordBytes is the randomness in a password: 160 bits, 32 characters.
	passwordBytes = 20

	// maxSocketDir keeps the path of the socket (and its terminating zero) within
	// the 104 bytes that macOS has; Linux has 108.
	maxSocketDir = 103 - len("/.s.PGSQL."+port)
)

// hba lets every role in by scram and the socket, and nobody else.
const hba = `# TYPE  DATABASE  USER  METHOD
local   all       all   scram-sha-256
`

// cluster is a data folder in the making.
type cluster struct {
	dir     string
	who     account
	durable bool

	// Set by prepare.
	data string // links resolved
	bin  binaries
}

// prepare makes the cluster on first use, and finds it later.
func (c *cluster) prepare(ctx context.Context) error {
	link := filepath.Join(c.dir, "data")
	data, err := filepath.EvalSymlinks(link)
	if errors.Is(err, fs.ErrNotExist) {
		return c.create(ctx, link)
	}
	if err != nil {
		return err
	}
	c.data = data
	if err := c.checkSecrets(); err != nil {
		return err
	}
	major, err := clusterVersion(data)
	if err != nil {
		return fmt.Errorf("read cluster %q: %w", data, err)
	}
	if c.bin, err = findBinaries(ctx, major); err != nil {
		return err
	}
	who, ok := c.who.reach(data)
	if !ok {
		return fmt.Errorf("reach cluster %q: user %d can't write there: give that folder, and the way to it, back to the user, or remove it to begin anew", data, c.who.uid)
	}
	c.who = who
	return nil
}

// checkSecrets: a cluster whose password is lost is of no use.
func (c *cluster) checkSecrets() error {
	path := filepath.Join(c.dir, "superuser.password")
	if _, err := secret.ReadFile(path); err != nil {
		return fmt.Errorf("%w: without it the cluster can't be used; remove %q to begin anew", err, c.dir)
	}
	return nil
}

// create makes the cluster in a folder of another name and renames it when it is
// whole. A crash before that leaves data.new, which the next start removes, and the
// password, which it takes.
func (c *cluster) create(ctx context.Context, link string) (err error) {
	if c.bin, err = findBinaries(ctx, 0); err != nil {
		return err
	}
	if err := c.makeSecrets(); err != nil {
		return err
	}
	place := c.dir
	fresh := filepath.Join(place, "data.new")
	if err := c.freshDir(fresh); err != nil {
		return err
	}
	who, ok := c.who.reach(fresh)
	if !ok {
		if !c.who.switched {
			return fmt.Errorf("make cluster: can't write in %q", fresh)
		}
		// As an end of the line: a folder of its own where everyone can reach it. A crash
		// before the link below leaves that folder for the cleaner of /var/tmp.
		if err := os.RemoveAll(fresh); err != nil {
			return err
		}
		if place, err = reachablePlace(c.who); err != nil {
			return err
		}
		fresh = filepath.Join(place, "data.new")
		if err := c.freshDir(fresh); err != nil {
			return err
		}
		if who, ok = c.who.reach(fresh); !ok {
			return fmt.Errorf("make cluster: user %d can write neither in %q nor in %q", c.who.uid, c.dir, place)
		}
	}
	c.who = who
	if err := c.initdb(ctx, fresh); err != nil {
		return err
	}
	c.data = filepath.Join(place, "data")
	if err := os.Rename(fresh, c.data); err != nil {
		return err
	}
	if c.data != link {
		if err := os.Symlink(c.data, link); err != nil {
			return err
		}
	}
	c.data, err = filepath.EvalSymlinks(link)
	return err
}

// reachablePlace makes a folder in a place that all users can reach.
func reachablePlace(who account) (string, error) {
	var errs []error
	for _, parent := range []string{"/var/tmp", "/tmp"} {
		place, err := os.MkdirTemp(parent, "devicekeys-postgres-")
		if err == nil {
			err = who.own(place)
		}
		if err == nil {
			return place, nil
		}
		errs = append(errs, err)
	}
	return "", errors.Join(errs...)
}

// freshDir makes an empty folder of the account's.
func (c *cluster) freshDir(path string) error {
	if err := os.RemoveAll(path); err != nil {
		return err
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		return err
	}
	return c.who.own(path)
}

// makeSecrets draws the superuser's password, if an earlier try didn't.
func (c *cluster) makeSecrets() error {
	path := filepath.Join(c.dir, "superuser.password")
	err := secret.WriteFile(path, secret.Random(passwordBytes))
	if err != nil && !errors.Is(err, secret.ErrExist) {
		return err
	}
	password, err := secret.ReadFile(path)
	if err != nil {
		return err
	}
	line := secret.New(append([]byte("*:*:*:"+superuser+":"), password.Bytes()...))
	err = secret.WriteFile(filepath.Join(c.dir, "pgpass"), line)
	if errors.Is(err, secret.ErrExist) {
		return nil
	}
	return err
}

// initdb fills the fresh folder.
func (c *cluster) initdb(ctx context.Context, fresh string) error {
	// The account may not read our password file: it gets a copy beside the folder
	// for the moment. A crash leaves that, for the next start to replace.
	passwords := fresh + ".password"
	if err := os.RemoveAll(passwords); err != nil {
		return err
	}
	password, err := secret.ReadFile(filepath.Join(c.dir, "superuser.password"))
	if err != nil {
		return err
	}
	if err := secret.WriteFile(passwords, password); err != nil {
		return err
	}
	defer os.Remove(passwords)
	if err := c.who.own(passwords); err != nil {
		return err
	}
	args := []string{"--pgdata", fresh, "--username", superuser, "--pwfile", passwords,
		"--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C"}
	if !c.durable {
		args = append(args, "--no-sync")
	}
	ctx, cancel := context.WithTimeout(ctx, initBound)
	defer cancel()
	cmd := c.who.command(c.bin.path("initdb"), args...)
	stop := context.AfterFunc(ctx, func() { // as exec.CommandContext does it
		if cmd.Process != nil {
			cmd.Process.Kill()
		}
	})
	defer stop()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("make cluster: initdb: %w: %s", errors.Join(err, context.Cause(ctx)), out)
	}
	path := filepath.Join(fresh, "pg_hba.conf")
	if err := os.WriteFile(path, []byte(hba), 0o600); err != nil {
		return err
	}
	return c.who.own(path)
}

// plainPath matches paths that need no quoting in Postgres's list of folders, in a
// DSN, or in a message to copy.
var plainPath = regexp.MustCompile(`^[A-Za-z0-9/._+-]+$`)

// socketDir makes the folder for the socket: Dir/run, or where that path is too long
// or has letters that would need quoting, a temporary one (which the watchdog
// removes).
func (c *cluster) socketDir() (path string, temporary bool, err error) {
	path = filepath.Join(filepath.Dir(c.data), "run")
	if len(path) <= maxSocketDir && plainPath.MatchString(path) {
		if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return "", false, err
		}
		return path, false, c.who.own(path)
	}
	parent := os.TempDir()
	// The watchdog, which is the account, must be able to remove it from there.
	if len(parent) > maxSocketDir-len("/dkpg-0123456789") || !plainPath.MatchString(parent) || !c.who.writes(parent) {
		parent = "/tmp"
	}
	path, err = os.MkdirTemp(parent, "dkpg-")
	if err != nil {
		return "", false, err
	}
	return path, true, c.who.own(path)
}

// serverArgs is the command line of the server. Settings stand there and not in
// postgresql.conf, so that each start decides anew.
func (c *cluster) serverArgs(sockets string, more map[string]string) ([]string, error) {
	settings := map[string]string{
		// Private.
		"listen_addresses":        "",
		"port":                    port,
		"unix_socket_directories": sockets,
		"unix_socket_permissions": "0700", // root gets in all the same
		"hba_file":                filepath.Join(c.data, "pg_hba.conf"),
		"password_encryption":     "scram-sha-256",

		// Modest.
		"max_connections": "100",
		"shared_buffers":  "32MB",
		"wal_level":       "minimal", // no replicas
		"max_wal_senders": "0",
		"jit":             "off",

		// Memory that vanishes with the data folder instead of staying in /dev/shm after a kill.
		"dynamic_shared_memory_type": "mmap",

		// No statement and no value of a row (which DETAIL would show) in the log.
		"log_error_verbosity":               "terse",
		"log_min_error_statement":           "panic",
		"log_parameter_max_length_on_error": "0",
		"log_timezone":                      "UTC",
		"timezone":                          "UTC",
	}
	private := []string{"listen_addresses", "port", "unix_socket_directories", "unix_socket_permissions", "hba_file", "password_encryption"}
	if !c.durable {
		settings["fsync"] = "off"
		settings["synchronous_commit"] = "off"
		settings["full_page_writes"] = "off"
	}
	for name, value := range more {
		if slices.Contains(private, name) {
			return nil, fmt.Errorf("setting %q keeps the server private and can't be changed", name)
		}
		settings[name] = value
	}
	args := []string{c.bin.path("postgres"), "-D", c.data}
	for name, value := range settings {
		args = append(args, "-c", name+"="+value)
	}
	return args, nil
}
