package postgres_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/devicekeys/devicekeys/deploy/postgres"
	"github.com/devicekeys/devicekeys/untested"
)

// TestAccount: as root the server is another user with no capability, or with the one
// that lets it into a folder closed to others.
func TestAccount(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 || runtime.GOOS != "linux" {
		untested.Except(t, "the server's account, which only root on Linux chooses: another user runs the server as himself")
	}
	for name, c := range map[string]struct {
		mode         fs.FileMode
		capabilities string
	}{
		"open folder":   {0o755, "0000000000000000"},
		"closed folder": {0o700, "0000000000000002"}, // CAP_DAC_OVERRIDE
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			home := filepath.Join(t.TempDir(), "home")
			if err := os.Mkdir(home, c.mode); err != nil {
				t.Fatal(err)
			}
			// Folders of t.TempDir are open to others, but for the first, which may not be.
			if c.mode == 0o755 {
				if os.TempDir() != "/tmp" {
					untested.Except(t, "a folder open to others: TMPDIR may itself be closed to them")
				}
				for dir := home; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
					if err := os.Chmod(dir, 0o755); err != nil {
						t.Fatal(err)
					}
				}
			}
			s := start(t, postgres.Config{Dir: filepath.Join(home, "postgres")})
			status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.PID()))
			if err != nil {
				t.Fatal(err)
			}
			for _, set := range []string{"CapEff", "CapPrm", "CapInh", "CapAmb"} {
				if !strings.Contains(string(status), set+":\t"+c.capabilities+"\n") {
					t.Errorf("%s is not %s in:\n%s", set, c.capabilities, regexp.MustCompile(`(?m)^Cap.*$`).FindAllString(string(status), -1))
				}
			}
			if regexp.MustCompile(`(?m)^Uid:.*\b0\b`).Match(status) {
				t.Error("the server has root's user id")
			}
		})
	}
}

// TestFallback: without the capability the data go where postgres can reach them.
func TestFallback(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		untested.Except(t, "the server's account, which only root on Linux chooses: another user runs the server as himself")
	}
	postgres.ForTest(t) // or skip
	home := filepath.Join(t.TempDir(), "home")
	if err := os.Mkdir(home, 0o700); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(home, "postgres")
	for range 2 { // made, then found again
		out, err := childCommand(t, "fallback", dir).Output()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		data, err := filepath.EvalSymlinks(filepath.Join(dir, "data"))
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(data, home) {
			t.Fatalf("data are in %s, where postgres can't reach them", data)
		}
		s, err := postgres.Attach(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		role(t, s, "kept")
		if err := s.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if _, err := os.Stat(filepath.Dir(data)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s is left", filepath.Dir(data))
			}
		})
	}
	if err := postgres.Remove(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
}

func FuzzPIDFile(f *testing.F) {
	for _, seed := range []string{
		"", "\n", "1\n", "-5\n", "123", "99999999999999999999\n",
		"123\n/data\n1700000000\n5432\n/run\n\n  5432001         7\nready   \n",
		"123\n/data\n1700000000\n5432\n/run\n\nx y\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		pid, _, _, err := postgres.ParsePIDFile(b)
		// 0, 1 and negative numbers mean other things to kill(2) than a server.
		if err == nil && pid <= 1 {
			t.Errorf("pid %d from %q", pid, b)
		}
	})
}
