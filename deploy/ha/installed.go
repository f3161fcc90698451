package ha

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// ErrNotInstalled: a program that the cluster needs is missing; the message says which.
var ErrNotInstalled = errors.New("not everything is installed that a cluster needs")

// needed are the programs, in Debian's packages of about these names.
var needed = []string{"patroni", "etcd"}

// Installed tells whether the cluster's programs are here.
func Installed() error {
	var missing []string
	for _, program := range needed {
		if _, err := find(program); err != nil {
			missing = append(missing, program)
		}
	}
	if _, err := os.Stat("/proc/self/cwd"); err != nil {
		missing = append(missing, "/proc as of Linux")
	}
	if len(missing) > 0 {
		return fmt.Errorf("%w: missing %s: run deploy/setup ha", ErrNotInstalled, strings.Join(missing, ", "))
	}
	return nil
}

// find looks where servers are as well: an ordinary user's PATH may lack that.
func find(program string) (string, error) {
	if path, err := exec.LookPath(program); err == nil {
		return filepath.Abs(path)
	}
	return exec.LookPath(filepath.Join("/usr/sbin", program))
}

// postgresPrograms is the folder of the Postgres that made the data: Patroni calls it.
func postgresPrograms(data string) (string, error) {
	version, err := os.ReadFile(filepath.Join(data, "PG_VERSION"))
	if err != nil {
		return "", err
	}
	for _, pattern := range []string{"/usr/lib/postgresql/%s/bin", "/usr/pgsql-%s/bin"} {
		dir := fmt.Sprintf(pattern, strings.TrimSpace(string(version)))
		if _, err := os.Stat(filepath.Join(dir, "pg_rewind")); err == nil {
			return dir, nil
		}
	}
	return "", fmt.Errorf("%w: pg_rewind of Postgres %s is neither in /usr/lib/postgresql nor in /usr/pgsql-…: install the server's package", ErrNotInstalled, strings.TrimSpace(string(version)))
}
