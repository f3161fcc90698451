package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// askBound bounds asking a Postgres program for its version or folder.
const askBound = 10 * time.Second

// binaries is the folder of one installed Postgres and its major version.
type binaries struct {
	dir   string
	major int
}

func (b binaries) path(name string) string { return filepath.Join(b.dir, name) }

// places are where distributions keep the server's programs, which often are in no PATH.
var places = []string{
	"/usr/lib/postgresql/*/bin",         // Debian, Ubuntu
	"/usr/pgsql-*/bin",                  // postgresql.org on Fedora and relatives
	"/usr/libexec/postgresql*",          // Alpine
	"/opt/homebrew/opt/postgresql*/bin", // macOS, Apple silicon
	"/usr/local/opt/postgresql*/bin",    // macOS, Intel
	"/opt/local/lib/postgresql*/bin",    // MacPorts
	"/usr/local/pgsql/bin",              // from source
}

// findBinaries finds initdb and postgres, of the given major version, or with 0 of
// the newest: by pg_config, in the known places, in PATH.
func findBinaries(ctx context.Context, major int) (binaries, error) {
	ctx, cancel := context.WithTimeout(ctx, askBound)
	defer cancel()
	var dirs []string
	if out, err := exec.CommandContext(ctx, "pg_config", "--bindir").Output(); err == nil {
		dirs = append(dirs, strings.TrimSpace(string(out)))
	}
	for _, pattern := range places {
		found, _ := filepath.Glob(pattern) // fails only on a bad pattern
		dirs = append(dirs, found...)
	}
	dirs = append(dirs, filepath.SplitList(os.Getenv("PATH"))...)
	var all []binaries
	for _, dir := range dirs {
		if b := (binaries{dir: dir}); executable(b.path("initdb")) && executable(b.path("postgres")) {
			if b.major = version(ctx, b.path("postgres")); b.major > 0 {
				all = append(all, b)
			}
		}
	}
	if len(all) == 0 {
		return binaries{}, fmt.Errorf("%w: no initdb and postgres in pg_config's folder, the usual places or PATH: install the package postgresql (Debian, Ubuntu, Alpine, Homebrew) or postgresql-server (Fedora)", ErrNotInstalled)
	}
	slices.SortStableFunc(all, func(a, b binaries) int { return cmp.Compare(b.major, a.major) })
	if major == 0 {
		return all[0], nil
	}
	for _, b := range all {
		if b.major == major {
			return b, nil
		}
	}
	return binaries{}, fmt.Errorf("%w: the cluster was made by Postgres %d, installed is %d: install that version, or remove the folder to begin anew", ErrNotInstalled, major, all[0].major)
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

var versionPattern = regexp.MustCompile(`\(PostgreSQL\) (\d+)`)

// version asks postgres for its major version, 0 if it doesn't tell.
func version(ctx context.Context, postgres string) int {
	out, err := exec.CommandContext(ctx, postgres, "--version").Output()
	if err != nil {
		return 0
	}
	m := versionPattern.FindSubmatch(out)
	if m == nil {
		return 0
	}
	n, _ := strconv.Atoi(string(m[1])) // digits by the pattern; an overflow gives a version no one has
	return n
}

// clusterVersion is the major version that made the cluster in data.
func clusterVersion(data string) (int, error) {
	b, err := os.ReadFile(filepath.Join(data, "PG_VERSION"))
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || n < 1 {
		return 0, errors.New("its PG_VERSION is unreadable: remove the folder to begin anew")
	}
	return n, nil
}
