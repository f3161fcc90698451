package main_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/devicekeys/devicekeys/secret"
	"github.com/devicekeys/devicekeys/softhsm"
	"github.com/devicekeys/devicekeys/softhsm/raw"
	"github.com/devicekeys/devicekeys/untested"
)

// A process of this test with a role in its environment is a child that does its part, says that it is done, and rests
// until its input ends, so that its memory can be searched.
const (
	childRole   = "DEMO_TEST_CHILD"
	childModule = "DEMO_TEST_CHILD_MODULE"
	childPIN    = "DEMO_TEST_CHILD_PIN"
	childWait   = time.Minute // bounds a child's life
	childDone   = "done\n"
	controlMade = 50 // devices, or handshakes, of a control
)

var childRoles = map[string]func(module string, pin secret.Secret) error{
	"spp": controlSPP, "deviceservice": controlService, "planted": planted,
}

// controlTokens are the servers that have a control, and their token directories in the plant's folder.
var controlTokens = map[string]string{"spp": "hsm/spp/tokens", "deviceservice": "hsm/service/tokens"}

func TestMain(m *testing.M) {
	if role := os.Getenv(childRole); role != "" {
		pin, err := secret.ReadFile(os.Getenv(childPIN))
		if err == nil {
			err = childRoles[role](os.Getenv(childModule), pin)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// rest is the end of a child's part.
func rest() error {
	fmt.Print(childDone)
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// controlSPP makes the PKCS#11 calls of devices raw, as the SPP makes them.
func controlSPP(module string, pin secret.Secret) error {
	return control(raw.Config{Module: module, Token: "dev-spp", PIN: pin, Purpose: "dev-purpose-channel-1",
		Seal: "dev-pool-seal", Identity: "dev-identity-signing", Submission: "dev-submission"}, func(l *raw.Loop) error { return l.Device(true) })
}

// controlService makes those of handshakes, as the device service makes them.
func controlService(module string, pin secret.Secret) error {
	return control(raw.Config{Module: module, Token: "dev-service", PIN: pin, Purpose: "dev-purpose-channel-1"}, (*raw.Loop).Handshake)
}

func control(c raw.Config, make func(*raw.Loop) error) (err error) {
	l, err := raw.Open(c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	for range controlMade {
		if err := make(l); err != nil {
			return err
		}
	}
	return rest()
}

// child starts a child on a token directory and gives it what it is to read. It gives its process, once that rests. It
// ends with the test.
func child(t *testing.T, role string, d *softhsm.Directory, pin string, say []byte) (pid int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), childWait)
	cmd := exec.CommandContext(ctx, os.Args[0])
	// A goroutine that is preempted by a signal while it copies a key leaves the copy's registers on the signal's stack, which
	// lies among Go's memory: not what a child is to show.
	cmd.Env = append(d.Env(), childRole+"="+role, childModule+"="+d.Module(), childPIN+"="+pin, "GODEBUG=asyncpreemptoff=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		defer cancel()
		_ = in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("child %s: %v", role, err)
		}
	})
	if _, err := in.Write(say); err != nil {
		t.Fatal(err)
	}
	said := make([]byte, len(childDone))
	if _, err := io.ReadFull(out, said); err != nil || string(said) != childDone {
		t.Fatalf("child %s did not do its part: it says %q, %v", role, said, err)
	}
	return cmd.Process.Pid
}

// residue gives which kinds of keys lie in C memory of a control, at rest: what the module itself leaves there. It works
// on a copy of the server's token; the device key that it derives is the one needle that is its own.
func (h *haystack) residue(dir, server string, purposeKey []byte) map[string]bool {
	h.t.Helper()
	d, err := softhsm.NewDirectory(filepath.Join(h.t.TempDir(), "control"))
	if err != nil {
		h.t.Fatal(err)
	}
	tokens := filepath.Join(d.Path(), "tokens")
	if err := errors.Join(os.Remove(tokens), os.CopyFS(tokens, os.DirFS(filepath.Join(dir, controlTokens[server])))); err != nil {
		h.t.Fatal(err)
	}
	pid := child(h.t, server, d, filepath.Join(dir, "etc", server+".pin"), nil)
	c := &haystack{t: h.t, needles: append(h.keys(), newNeedle("device key of the control", kdf1FromDigest(h.t, purposeKey, make([]byte, 32))))}
	if err := c.memory("the control of "+server, pid); err != nil {
		h.t.Fatal(err)
	}
	left := map[string]bool{}
	for _, f := range c.found {
		if f.place == cHeap {
			left[kind(f.needle)] = true
		}
	}
	return left
}

// keys gives the needles that nobody may have in memory. PINs and passwords are in that of who logs in with them.
func (h *haystack) keys() (keys []needle) {
	for _, n := range h.needles {
		if !strings.HasPrefix(n.name, secretOf) {
			keys = append(keys, n)
		}
	}
	return keys
}

// kind is a needle's name without what tells it from others of its kind.
func kind(name string) string {
	if strings.HasPrefix(name, "device key") {
		return "device key"
	}
	return name
}

// processes searches the servers' memory. A key in memory that the program itself fills is its fault; of one in C memory
// the module is asked, which shares the process: only what a control keeps too, by the same PKCS#11 calls, is the module's.
func (h *haystack) processes(t *testing.T, dir string, purposeKey []byte) {
	if os.Geteuid() != 0 {
		untested.Skip(t, "the servers' memory, which needs root to be searched")
	}
	b, err := os.ReadFile(filepath.Join(dir, "running.json"))
	if err != nil {
		t.Fatal(err)
	}
	var running struct {
		Servers []struct {
			Name string
			PID  int
		}
	}
	if err := json.Unmarshal(b, &running); err != nil || len(running.Servers) != 4 {
		t.Fatalf("running.json: %d servers, %v", len(running.Servers), err)
	}
	for _, s := range running.Servers {
		own := &haystack{t: t, needles: h.keys()}
		if err := own.memory(s.Name+" (process "+strconv.Itoa(s.PID)+")", s.PID); err != nil {
			t.Error(err)
			continue
		}
		h.read += own.read
		var module map[string]bool
		if controlTokens[s.Name] != "" {
			module = own.residue(dir, s.Name, purposeKey)
			t.Logf("kinds of keys that the module leaves by the same calls as %s's, made raw: %d", s.Name, len(module))
		}
		for _, f := range own.found {
			if !f.place.ours() && module[kind(f.needle)] {
				t.Logf("THE MODULE'S OWN: %s, and in the control's too", f)
			} else {
				t.Error(f)
			}
		}
	}
}
