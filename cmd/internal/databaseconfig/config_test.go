package databaseconfig_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/cmd/internal/databaseconfig"
	"github.com/devicekeys/devicekeys/database"
	"github.com/devicekeys/devicekeys/deploy/postgres"
)

// load reads a program's configuration that has this section and nothing else.
func load(t *testing.T, dsn, passwordFile string) (databaseconfig.Config, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "program.yaml")
	text := fmt.Sprintf("records:\n  dsn: %s\n  password_file: %s\n", dsn, passwordFile)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var c struct {
		Records databaseconfig.Config `yaml:"records"`
	}
	err := console.LoadConfig(file, &c)
	return c.Records, err
}

// TestSeveralHosts: a configuration that names several hosts is taken as it is, and leads to the one that
// takes writes.
func TestSeveralHosts(t *testing.T) {
	t.Parallel()
	s := postgres.ForTest(t)
	d := s.TestDatabase(t, "several")
	_, password := d.As(d.Owner)
	for name, c := range map[string]struct {
		hosts, more string
		transient   bool
		refusal     string // "" for none
	}{
		"the second is it": {"/nowhere," + s.SocketDir(), "target_session_attrs=read-write connect_timeout=2 binary_parameters=yes", false, ""},
		"none is there":    {"/nowhere,/nowhere", "target_session_attrs=read-write", true, "no such file"},
		"any would do":     {"/nowhere," + s.SocketDir(), "", false, "target_session_attrs=read-write"},
		"no word on TLS":   {"/nowhere," + s.SocketDir(), "target_session_attrs=read-write sslmode=", false, "sslmode"},
		"TLS if it likes":  {"db1,db2", "target_session_attrs=read-write sslmode=prefer", false, "verify-full"},
		"socket and TLS":   {s.SocketDir() + ",db2", "target_session_attrs=read-write sslmode=verify-full", false, "mixes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dsn := fmt.Sprintf("host=%s port=5432 dbname=%s user=%s %s", c.hosts, d.Name, d.Owner, c.more)
			if !strings.Contains(dsn, "sslmode") {
				dsn += " sslmode=disable"
			}
			config, err := load(t, dsn, password)
			if err != nil {
				t.Fatal(err)
			}
			db, err := config.Open(t.Context(), 2)
			if err == nil {
				db.Close()
			}
			switch {
			case c.refusal == "" && err != nil:
				t.Error(err)
			case c.refusal != "" && (err == nil || !strings.Contains(err.Error(), c.refusal) || database.Transient(err) != c.transient):
				t.Errorf("transient %v, want %v and %q: %v", database.Transient(err), c.transient, c.refusal, err)
			}
		})
	}
}
