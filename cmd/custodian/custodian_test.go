package main

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/devicekeys/devicekeys/audit"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/provisioning/records/recordstest"
	"github.com/devicekeys/devicekeys/softhsm"
)

func TestMain(m *testing.M) { testscript.Main(m, map[string]func(){"custodian": main}) }

// place is a folder with a token directory and a configuration; each test has its own database.
type place struct {
	dir    string
	tokens *softhsm.Directory
}

const configText = `
realm: development
actor: tester
records:
  dsn: %s
  password_file: %s
token:
  token: dev-spp
  pin_file: spp.pin
  lock_file: softhsm/lock
so_pin_file: spp-so.pin
public: public
purposes: [channel, drm]
`

func newPlace(dir string, r *recordstest.Records) (place, error) {
	tokens, err := softhsm.NewDirectory(filepath.Join(dir, "softhsm"))
	if err != nil {
		return place{}, err
	}
	db := r.Config("custodian")
	text := fmt.Sprintf(configText, strconv.Quote(db.DSN), strconv.Quote(db.PasswordFile))
	return place{dir, tokens}, os.WriteFile(filepath.Join(dir, "custodian.yaml"), []byte(text), 0o600)
}

// entries gives all events of the audit log, which must be in order.
func entries(ctx context.Context, r *recordstest.Records) (all []audit.Event, err error) {
	_, err = audit.New(r.As("auditor"), identity.Development).Verify(ctx, audit.Head{}, nil, func(e audit.Entry) error {
		all = append(all, e.Event)
		return nil
	})
	return all, err
}

func TestScript(t *testing.T) {
	t.Parallel()
	if _, err := softhsm.Module(); err != nil {
		softhsm.New(t) // skips, or fails in CI
	}
	scripts, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts found: %v", err)
	}
	for _, script := range scripts {
		t.Run(strings.TrimSuffix(filepath.Base(script), ".txtar"), func(t *testing.T) {
			t.Parallel()
			r := recordstest.New(t)
			r.As("auditor") // opened before the scripts use it
			testscript.Run(t, testscript.Params{
				Files:               []string{script},
				RequireExplicitExec: true,
				Setup: func(env *testscript.Env) error {
					p, err := newPlace(env.WorkDir, r)
					if err != nil {
						return err
					}
					env.Setenv("SOFTHSM2_CONF", p.tokens.Conf())
					return nil
				},
				Cmds: map[string]func(*testscript.TestScript, bool, []string){
					// entries N [WORDS]: the audit log has N entries that say WORDS (key and note).
					"entries": func(ts *testscript.TestScript, neg bool, args []string) {
						want, err := strconv.Atoi(args[0])
						ts.Check(err)
						all, err := entries(context.Background(), r)
						ts.Check(err)
						n := 0
						for _, e := range all {
							line := fmt.Sprintf("%s %s %s by %s", e.Kind, e.Key, e.Note, e.Actor)
							ts.Logf("%s", line)
							if strings.Contains(line, strings.Join(args[1:], " ")) {
								n++
							}
						}
						if n != want || neg {
							ts.Fatalf("%d entries, want %d", n, want)
						}
					},
				},
			})
		})
	}
}

// TestSetupKilled kills setup again and again, each time while it carries out the act that it has just announced,
// until it gets through; then the set is complete and every birth has its entry.
func TestSetupKilled(t *testing.T) {
	t.Parallel()
	if _, err := softhsm.Module(); err != nil {
		softhsm.New(t)
	}
	const (
		rounds = 40                    // it gets through after about half of them
		act    = 60 * time.Millisecond // many acts take less, so that it gets on
	)
	r := recordstest.New(t)
	p, err := newPlace(t.TempDir(), r)
	if err != nil {
		t.Fatal(err)
	}
	command := func(args ...string) *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), "custodian", args...)
		cmd.Dir, cmd.Env = p.dir, p.tokens.Env()
		return cmd
	}
	killed := 0
	for range rounds {
		cmd := command("setup", "--config", "custodian.yaml")
		out, err := cmd.StderrPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		if !lines.Scan() { // it announced nothing: all is there
			if err := cmd.Wait(); err != nil {
				t.Fatalf("setup after %d kills: %v", killed, err)
			}
			break
		}
		first := lines.Text()
		if !strings.Contains(first, "key ceremony") && !strings.Contains(first, "certify") {
			t.Fatalf("setup after %d kills: %s", killed, first)
		}
		time.Sleep(rand.N(act))
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // killed
		killed++
	}
	t.Logf("killed %d times", killed)
	for _, args := range [][]string{{"setup", "--config", "custodian.yaml"}, {"setup", "--config", "custodian.yaml"}, {"show", "--config", "custodian.yaml"}} {
		if out, err := command(args...).CombinedOutput(); err != nil {
			t.Fatalf("custodian %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	all, err := entries(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	born := map[string]bool{}
	for _, e := range all {
		born[e.Key] = true
	}
	for _, key := range []string{"dev-spp", "dev-master-1", "dev-identity-signing", "dev-station-ca", "dev-device-ca"} {
		if !born[key] {
			t.Errorf("the audit log has no entry for %s", key)
		}
	}
	if stray, err := filepath.Glob(filepath.Join(p.dir, "public", "*")); err != nil || len(stray) != 5 {
		t.Errorf("public files are %v, %v", stray, err)
	}
}
