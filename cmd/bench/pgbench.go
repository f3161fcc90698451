package main

import (
	"bytes"
	"context"
	"database/sql"
	"embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"

	"github.com/devicekeys/devicekeys/deploy/postgres"
)

//go:embed pgbench/*.sql
var pgbenchScripts embed.FS

// pgbench is Postgres' own benchmark: what a database does for scripts that a client sends,
// prepared, with next to no client.
type pgbench struct {
	program, sockets, passfile, database string
}

// newPgbench finds the program that belongs to a server, and connects to one of its databases
// as the superuser. db is any connection of that superuser's.
func newPgbench(ctx context.Context, s *postgres.Server, db *sql.DB, database string) (pgbench, error) {
	p := pgbench{sockets: s.SocketDir(), passfile: s.Passfile(), database: database}
	var folder string
	if err := db.QueryRowContext(ctx, `select setting from pg_config where name = 'BINDIR'`).Scan(&folder); err != nil {
		return p, fmt.Errorf("ask Postgres for the folder of its programs: %w", err)
	}
	p.program = filepath.Join(folder, "pgbench")
	if _, err := os.Stat(p.program); err != nil {
		return p, fmt.Errorf("find pgbench: %w: it comes with Postgres' server, or its contrib package", err)
	}
	return p, nil
}

// pgbenchRun is one run: a script below pgbench/, its variables, and how long.
type pgbenchRun struct {
	script  string // "insert.sql"
	clients int    // connections, shared out among the threads
	threads int
	define  map[string]int
	seconds int // or
	each    int // transactions of each client
}

// tpsPattern is pgbench's last word; 13 and older say "excluding connections establishing".
var tpsPattern = regexp.MustCompile(`(?m)^tps = ([0-9.]+) \((?:without initial connection time|excluding connections establishing)\)$`)

// run gives transactions a second, without the time to connect.
func (p pgbench) run(ctx context.Context, dir string, r pgbenchRun) (float64, error) {
	script, err := pgbenchScripts.ReadFile("pgbench/" + r.script)
	if err != nil {
		return 0, err
	}
	file := filepath.Join(dir, r.script)
	if err := os.WriteFile(file, script, 0o600); err != nil {
		return 0, err
	}
	args := []string{"--no-vacuum", "--protocol=prepared", "--host=" + p.sockets, "--port=5432", "--username=postgres",
		"--file=" + file, "--client=" + strconv.Itoa(r.clients), "--jobs=" + strconv.Itoa(r.threads)}
	for name, value := range r.define {
		args = append(args, "--define="+name+"="+strconv.Itoa(value))
	}
	if r.seconds > 0 {
		args = append(args, "--time="+strconv.Itoa(r.seconds))
	} else {
		args = append(args, "--transactions="+strconv.Itoa(r.each))
	}
	cmd := exec.CommandContext(ctx, p.program, append(args, p.database)...)
	cmd.Env = []string{"PGPASSFILE=" + p.passfile, "PATH=/usr/bin:/bin", "LC_ALL=C"}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	out, err := cmd.CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("pgbench %s: %w\n%s", r.script, err, bytes.TrimSpace(out))
	}
	return parseTPS(out)
}

func parseTPS(out []byte) (float64, error) {
	m := tpsPattern.FindSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("pgbench doesn't say how many transactions it made a second:\n%s", bytes.TrimSpace(out))
	}
	return strconv.ParseFloat(string(m[1]), 64)
}
