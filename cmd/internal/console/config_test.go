package console_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

type testConfig struct {
	Listen   string                  `yaml:"listen" default:"127.0.0.1:7001" help:"Where stations connect."`
	Realm    string                  `yaml:"realm" required:"true" example:"development" help:"development or production."`
	Database testDatabase            `yaml:"database" help:"Where records are kept."`
	Stations []testStation           `yaml:"stations" help:"Who may connect."`
	Limits   map[string]int          `yaml:"limits" help:"Devices a day by product line."`
	Lines    map[string]*testStation `yaml:"lines" help:"By name."`
	Extra    *testDatabase           `yaml:"extra" help:"A second database."`
	Ratio    float64                 `yaml:"ratio" default:"0.5" help:"A share."`
	Strict   bool                    `yaml:"strict" default:"true" help:"Refuse rather than warn."`
	Address  netip.Addr              `yaml:"address" help:"An address."`
	testCommon
}

type testCommon struct {
	Admin string `yaml:"admin" default:"127.0.0.1:9101" help:"Where metrics are served."`
}

type testDatabase struct {
	Host     string        `yaml:"host" default:"localhost" help:"Host or socket folder."`
	Password console.Path  `yaml:"password_file" default:"secrets/password" help:"File of mode 0400."`
	Wait     time.Duration `yaml:"wait" default:"5s" help:"How long a query may take."`
	Pool     int           `yaml:"pool" default:"8" help:"Connections."`
}

func (d testDatabase) Validate() error {
	if d.Pool < 1 {
		return fmt.Errorf("pool is %d, want 1 or more", d.Pool)
	}
	return nil
}

type testStation struct {
	Name  string `yaml:"name" required:"true" example:"line-1" help:"Name in its certificate."`
	Quota int    `yaml:"quota" default:"100" help:"Devices a day."`
}

func writeConfig(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "spp.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoadConfig(t *testing.T) {
	t.Parallel()
	path := writeConfig(t, `
# what differs from the defaults
realm: development
listen: "[::1]:7001"
database:
  wait: 1m30s
  password_file: ../other/password
stations:
  - name: line-1
  - {name: line-2, quota: 5}
limits: {phone: 10, watch: 0}
lines:
  a: {name: x}
extra: {password_file: "fd:3"}
address: 192.0.2.1
`)
	var have testConfig
	if err := console.LoadConfig(path, &have); err != nil {
		t.Fatal(err)
	}
	folder := filepath.Dir(path)
	want := testConfig{
		Listen: "[::1]:7001", Realm: "development",
		Database: testDatabase{Host: "localhost", Password: console.Path(filepath.Join(filepath.Dir(folder), "other/password")), Wait: 90 * time.Second, Pool: 8},
		Stations: []testStation{{"line-1", 100}, {"line-2", 5}},
		Limits:   map[string]int{"phone": 10, "watch": 0},
		Lines:    map[string]*testStation{"a": {"x", 100}},
		Extra:    &testDatabase{Host: "localhost", Password: "fd:3", Wait: 5 * time.Second, Pool: 8},
		Ratio:    0.5, Strict: true, Address: netip.MustParseAddr("192.0.2.1"),
		testCommon: testCommon{Admin: "127.0.0.1:9101"},
	}
	if d := cmp.Diff(want, have, cmp.AllowUnexported(testConfig{}), cmpopts.EquateComparable(netip.Addr{})); d != "" {
		t.Errorf("(-want +have):\n%s", d)
	}

	path = writeConfig(t, "realm: production\nstrict: false\nratio: 0\n")
	have = testConfig{}
	if err := console.LoadConfig(path, &have); err != nil {
		t.Fatal(err)
	}
	if have.Strict || have.Ratio != 0 {
		t.Errorf("explicit zero values lose to defaults: %+v", have)
	}
	if want := console.Path(filepath.Join(filepath.Dir(path), "secrets/password")); have.Database.Password != want {
		t.Errorf("default path is %q, want it in the file's folder: %q", have.Database.Password, want)
	}
}

func TestConfigRefused(t *testing.T) {
	t.Parallel()
	const ok = "realm: development\n"
	for name, c := range map[string]struct {
		text, want string // want follows the file's name
	}{
		"empty":              {"", `:1: key "realm": is required and missing (development or production)`},
		"only comments":      {"# nothing\n", `:1: key "realm": is required and missing (development or production)`},
		"only a document":    {"---\n", `:2: key "realm": is required and missing (development or production)`},
		"typo":               {ok + "lisen: x\n", `:2: key "lisen": unknown key; did you mean "listen"?`},
		"typo, nested":       {ok + "database:\n  hots: x\n", `:3: key "database.hots": unknown key; did you mean "host"?`},
		"typo, in a list":    {ok + "stations:\n  - name: a\n  - nam: b\n", `:4: key "stations[1].nam": unknown key; did you mean "name"?`},
		"typo, in a map":     {ok + "lines:\n  a: {nam: b}\n", `:3: key "lines.a.nam": unknown key; did you mean "name"?`},
		"unlike anything":    {ok + "database: {x509: 1}\n", `:2: key "database.x509": unknown key; known are host, password_file, wait, pool`},
		"case differs":       {"Realm: x\n", `:1: key "Realm": unknown key; did you mean "realm"?`},
		"twice":              {ok + ok, `:2: key "realm": is here twice, first in line 1`},
		"twice in a map":     {ok + "limits:\n  a: 1\n  a: 2\n", `:4: key "limits.a": is here twice`},
		"required, empty":    {"ratio: 1\nrealm: ''\n", `:2: key "realm": is required and empty (development or production)`},
		"no value":           {ok + "listen:\n", `:2: key "listen": has no value; give one or remove the key`},
		"list, no value":     {ok + "stations:\nratio: 1\n", `:2: key "stations": has no value; give one or remove the key`},
		"null":               {ok + "listen: ~\n", `:2: key "listen": has no value; give one or remove the key`},
		"null in a list":     {ok + "stations: [~]\n", `:2: key "stations[0].name": is required and missing (Name in its certificate)`},
		"word for number":    {ok + "database: {pool: many}\n", `:2: key "database.pool": want a whole number, have "many"`},
		"fraction for whole": {ok + "database: {pool: 1.5}\n", `:2: key "database.pool": want a whole number, have "1.5"`},
		"bare duration":      {ok + "database: {wait: 5}\n", `:2: key "database.wait": want a duration such as "1m30s", have "5"`},
		"bare zero":          {ok + "database: {wait: 0}\n", `:2: key "database.wait": want a duration such as "1m30s", have "0"`},
		"bad duration":       {ok + "database: {wait: soon}\n", `:2: key "database.wait": want a duration such as "1m30s", have "soon"`},
		"octal":              {ok + "database: {pool: 010}\n", `:2: key "database.pool": want a whole number, have "010"`},
		"above an int":       {ok + "database: {pool: 9223372036854775808}\n", `:2: key "database.pool": want a whole number, have "9223372036854775808"`},
		"infinite":           {ok + "ratio: .inf\n", `:2: key "ratio": want a number, have ".inf"`},
		"beyond a float":     {ok + "ratio: 1e999\n", `:2: key "ratio": want a number, have "1e999"`},
		"yes":                {ok + "strict: yes\n", `:2: key "strict": want true or false, have "yes"`},
		"word for bool":      {ok + "strict: maybe\n", `:2: key "strict": want true or false, have "maybe"`},
		"text, not parsed":   {ok + "address: here\n", `:2: key "address": value "here": ParseAddr("here"): unable to parse IP`},
		"list for word":      {ok + "listen: [a]\n", `:2: key "listen": want a word, have a list`},
		"word for list":      {ok + "stations: a\n", `:2: key "stations": want a list, have "a"`},
		"word for section":   {ok + "database: a\n", `:2: key "database": want keys and values, have "a"`},
		"list for map":       {ok + "limits: [a]\n", `:2: key "limits": want keys and values, have a list`},
		"list for all":       {"- a\n", `:1: want keys and values, have a list`},
		"required in a list": {ok + "stations:\n  - quota: 1\n", `:3: key "stations[0].name": is required and missing (Name in its certificate)`},
		"validation":         {ok + "database:\n  pool: 0\n", `:3: key "database": pool is 0, want 1 or more`},
		"second document":    {ok + "---\nrealm: production\n", `:2: a second document begins here, but a configuration is one document`},
		"second, broken":     {ok + "---\n{", `: line 3: did not find expected node content`},
		"anchor":             {"realm: &r development\nlisten: *r\n", `:1: key "realm": anchors and aliases are not used here; write the value out`},
		"merge":              {ok + "database:\n  <<: {host: a}\n", `:3: key "database": merges and keys that aren't words are not used here`},
		"key not a word":     {ok + "? [a]\n: b\n", `:2: merges and keys that aren't words are not used here`},
		"not YAML":           {ok + "\tlisten: x\n", `: line 2: found a tab character that violates indentation`},
		"too large":          {ok + "# " + strings.Repeat("x", 1<<20), `: it is above the limit of 1048576 bytes`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := writeConfig(t, c.text)
			err := console.LoadConfig(path, &testConfig{})
			if err == nil {
				t.Fatal("accepted")
			}
			have, ours := strings.CutPrefix(err.Error(), "configuration "+path)
			if d := cmp.Diff(c.want, have); d != "" || !ours {
				t.Errorf("(-want +have):\n%s", d)
			}
			var where *console.ConfigError
			if !errors.As(err, &where) {
				t.Errorf("is a %T, not a *ConfigError", err)
			}
		})
	}
}

// A program's own mistakes are errors too, not panics.
func TestConfigTypes(t *testing.T) {
	t.Parallel()
	path := writeConfig(t, "a: {b: 1}\n")
	for _, into := range []any{
		nil, testConfig{}, (*testConfig)(nil), new(int),
		&struct{ A chan int }{},
		&struct{ A map[int]int }{},
		&struct {
			A map[string]int
			B int `default:"x"`
		}{},
		&struct {
			A map[string]int
			B int `default:"[1"`
		}{},
	} {
		if err := console.LoadConfig(path, into); err == nil {
			t.Errorf("into %T: accepted", into)
		}
	}
}

func TestPrintConfigHelp(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	if err := console.PrintConfigHelp(&b, &testConfig{}); err != nil {
		t.Fatal(err)
	}
	const want = `# Where stations connect.
#listen: 127.0.0.1:7001

# development or production. Required.
realm: development

# Where records are kept.
database:
  # Host or socket folder.
  #host: localhost

`
	if !strings.HasPrefix(b.String(), want) {
		t.Errorf("%s", cmp.Diff(want, b.String()))
	}
	// What is printed is a configuration, as it is and with its comments taken away.
	plain, full := testConfig{}, testConfig{}
	if err := console.LoadConfig(writeConfig(t, b.String()), &plain); err != nil {
		t.Errorf("%v in\n%s", err, b.String())
	}
	text := regexp.MustCompile(`(?m)^( *)#(  )*([a-zA-Z_]+:|-)`).ReplaceAllString(b.String(), "$1$2$3")
	text = strings.Replace(text, "address: VALUE", "address: ::1", 1)
	if err := console.LoadConfig(writeConfig(t, text), &full); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	if full.Stations[0].Name != "line-1" || full.Lines["NAME"].Quota != 100 || full.Extra.Pool != 8 {
		t.Errorf("printed configuration is read as %+v", full)
	}
	if err := console.PrintConfigHelp(&b, 5); err == nil {
		t.Error("printed the keys of a number")
	}
}

func FuzzLoadConfig(f *testing.F) {
	f.Add("realm: development\n")
	f.Add("realm: a\ndatabase: {wait: 5s, pool: 3}\nstations: [{name: b}]\n")
	f.Add("a: &a [*a]\n")
	f.Add("? {}\n: x\n---\n")
	f.Add("lines: {a: {name: !!binary aGk=}}\n")
	f.Add("<<: {realm: x}\n")
	f.Fuzz(func(t *testing.T, text string) {
		var c testConfig
		err := console.LoadConfig(writeConfig(t, text), &c)
		var where *console.ConfigError
		switch {
		case err == nil && c.Realm == "":
			t.Errorf("%q: accepted without the required key", text)
		case err != nil && !errors.As(err, &where):
			t.Errorf("%q: %v is a %T, not a *ConfigError", text, err, err)
		}
	})
}
