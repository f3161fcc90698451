package hsm_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/secret"
)

// child is what the test binary does when it is started as a process of its own.
func child(role string) int {
	os.Setenv("SOFTHSM2_CONF", os.Getenv("HSM_TEST_CONF"))
	if err := childRole(role); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func childRole(role string) error {
	ctx := context.Background()
	pin := secret.New([]byte(os.Getenv("HSM_TEST_PIN"))) // a test's throw-away PIN
	cfg := hsm.Config{Path: modulePath, LockFile: os.Getenv("HSM_TEST_LOCK")}
	c := hsm.Credentials{Token: hsm.TokenRef{Label: os.Getenv("HSM_TEST_LABEL")}, PIN: pin}
	switch role {
	case "login": // initialise, log in, leave, again and again
		for range 8 {
			m, err := hsm.Load(ctx, cfg)
			if err != nil {
				return err
			}
			tok, err := m.Open(ctx, c, hsm.Options{})
			if err != nil {
				return err
			}
			if err := tok.Check(ctx); err != nil {
				return err
			}
			if err := m.Close(); err != nil {
				return err
			}
		}
		return nil
	case "raw": // without crypto11: one module, opened and closed
		m, err := hsm.Load(ctx, cfg)
		if err != nil {
			return err
		}
		defer m.Close()
		tok, err := m.Open(ctx, c, hsm.Options{})
		if err != nil {
			return err
		}
		if _, err := tok.Signer("tls"); err == nil {
			return fmt.Errorf("a signer without SignToken")
		}
		if _, err := hsm.Load(ctx, hsm.Config{Path: modulePath, SignToken: &c}); err == nil {
			return fmt.Errorf("crypto11 came second")
		}
		wrong := c
		wrong.PIN = secret.New([]byte("wrong-wrong"))
		if _, err := m.Open(ctx, wrong, hsm.Options{}); err == nil {
			return fmt.Errorf("a wrong PIN was taken while logged in")
		}
		return tok.Close()
	case "beside a damaged token":
		m, err := hsm.Load(ctx, hsm.Config{Path: modulePath, LockFile: os.Getenv("HSM_TEST_LOCK")})
		if err != nil {
			return err
		}
		damaged := c
		damaged.Token.Label = "damaged"
		if _, err := m.Open(ctx, damaged, hsm.Options{}); !errors.Is(err, hsm.ErrNoToken) || !strings.Contains(err.Error(), "damaged") {
			return fmt.Errorf("the damaged token: %v", err)
		}
		tok, err := m.Open(ctx, c, hsm.Options{})
		if err != nil {
			return err
		}
		if _, err := m.InitToken(ctx, "another", secret.New([]byte("so-pin-1")), secret.New([]byte("user-pin-1"))); err != nil {
			return err
		}
		if err := tok.Close(); err != nil {
			return err
		}
		if err := m.Close(); err != nil {
			return err
		}
		// crypto11 asks every slot, and the damaged one comes first.
		_, err = hsm.Load(ctx, hsm.Config{Path: modulePath, LockFile: os.Getenv("HSM_TEST_LOCK"), SignToken: &c})
		if !errors.Is(err, hsm.ErrDamaged) || hsm.Classify(err) != hsm.Stop || !strings.Contains(err.Error(), "slot 0") {
			return fmt.Errorf("signing beside a damaged token: %v", err)
		}
		return nil
	case "wrong sign PIN":
		wrong := c
		wrong.PIN = secret.New([]byte("wrong-wrong"))
		if _, err := hsm.Load(ctx, hsm.Config{Path: modulePath, SignToken: &wrong}); hsm.Classify(err) != hsm.Stop {
			return fmt.Errorf("crypto11 with a wrong PIN: %v", err)
		}
		m, err := hsm.Load(ctx, hsm.Config{Path: modulePath, SignToken: &c}) // and nothing is left of it
		if err != nil {
			return err
		}
		return m.Close()
	}
	return fmt.Errorf("no role %q", role)
}

func startChild(t *testing.T, role string, c hsm.Credentials) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), "HSM_TEST_CHILD="+role, "HSM_TEST_CONF="+os.Getenv("SOFTHSM2_CONF"),
		"HSM_TEST_LOCK="+lockPath, "HSM_TEST_LABEL="+c.Token.Label, "HSM_TEST_PIN="+string(c.PIN.Bytes()))
	return cmd
}

// TestLoginRace: processes that initialise and log in at once find the token every
// time, because they take turns. Without the lock file SoftHSM loses up to 12 of 100
// rounds each: C_Login truncates the token's file before rewriting it.
func TestLoginRace(t *testing.T) {
	t.Parallel()
	c := fresh(t)
	var wg sync.WaitGroup
	for range 3 {
		cmd := startChild(t, "login", c)
		wg.Go(func() {
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	wg.Wait()
}

func TestProcessesOfTheirOwn(t *testing.T) {
	t.Parallel()
	for _, role := range []string{"raw", "wrong sign PIN"} {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			if out, err := startChild(t, role, fresh(t)).CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}

// A kill inside C_InitToken or C_Login can leave a token's file with a few bytes. The
// other tokens of the directory stay usable.
func TestDamagedTokenBesideOthers(t *testing.T) {
	t.Parallel()
	util, err := exec.LookPath("softhsm2-util")
	if err != nil {
		t.Fatalf("softhsm2-util comes with SoftHSM: %v", err)
	}
	dir := t.TempDir()
	conf := filepath.Join(dir, "softhsm2.conf")
	if err := os.MkdirAll(filepath.Join(dir, "tokens"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(conf, []byte("directories.tokendir = "+filepath.Join(dir, "tokens")+"\nobjectstore.backend = file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	files := func() []string {
		all, err := filepath.Glob(filepath.Join(dir, "tokens", "*", "token.object"))
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	broken := ""
	for _, label := range []string{"damaged", "whole"} {
		cmd := exec.Command(util, "--init-token", "--free", "--label", label, "--so-pin", "so-pin-1", "--pin", "user-pin-1")
		cmd.Env = append(os.Environ(), "SOFTHSM2_CONF="+conf)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if label == "damaged" {
			broken = files()[0]
		}
	}
	if err := os.Truncate(broken, 8); err != nil {
		t.Fatal(err)
	}
	cmd := startChild(t, "beside a damaged token", hsm.Credentials{Token: hsm.TokenRef{Label: "whole"}, PIN: secret.New([]byte("user-pin-1"))})
	cmd.Env = append(cmd.Env, "HSM_TEST_CONF="+conf, "HSM_TEST_LOCK="+filepath.Join(dir, "lock"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if info, err := os.Stat(broken); err != nil || info.Size() != 8 {
		t.Errorf("the damaged file was touched: %v", err)
	}
}
