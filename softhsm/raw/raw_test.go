package raw_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/hsm/maker"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/secret"
	"github.com/devicekeys/devicekeys/softhsm"
	"github.com/devicekeys/devicekeys/softhsm/raw"
)

// The loop runs in a process of its own: package hsm has the module in this one.
const (
	childVariable   = "RAW_TEST_CHILD"
	foreverVariable = "RAW_TEST_FOREVER" // it goes on until it is killed
)

func TestMain(m *testing.M) {
	if pin := os.Getenv(childVariable); pin != "" {
		if err := child(pin); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(softhsm.Main(m))
}

const (
	devices = 3
	fill    = 5
)

// child makes the calls and prints how often it made each.
func child(pin string) (err error) {
	p, err := secret.ReadFile(pin)
	if err != nil {
		return err
	}
	l, err := raw.Open(raw.Config{
		Module: os.Getenv("RAW_TEST_MODULE"), Token: os.Getenv("RAW_TEST_TOKEN"), PIN: p,
		Purpose: "dev-purpose-channel-1", Seal: "dev-pool-seal", Identity: os.Getenv("RAW_TEST_IDENTITY"), Submission: "dev-submission",
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	for i := 0; i < devices || os.Getenv(foreverVariable) != ""; i++ {
		if err := l.Device(i == 0); err != nil {
			return err
		}
	}
	if err := l.Fill(fill, "dev-fill-", func() {}); err != nil {
		return err
	}
	for name, n := range l.Calls() {
		fmt.Println(name, n)
	}
	return nil
}

// run runs the child on a token with a maker's keys, through a shim that counts.
func run(t *testing.T, shim *softhsm.Shim, identityLabel string) (map[string]uint64, error) {
	t.Helper()
	cmd := command(t, t.Context(), shim, identityLabel)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, errs.String())
	}
	counts := map[string]uint64{}
	for lines := bufio.NewScanner(strings.NewReader(string(out))); lines.Scan(); {
		var name string
		var n uint64
		if _, err := fmt.Sscan(lines.Text(), &name, &n); err != nil {
			return nil, err
		}
		counts[name] = n
	}
	return counts, nil
}

// command gives the child's on a fresh token, until ctx ends.
func command(t *testing.T, ctx context.Context, shim *softhsm.Shim, identityLabel string) *exec.Cmd {
	t.Helper()
	h := softhsm.New(t)
	tok := h.Token(t, "spp")
	keys := h.Open(t, tok)
	if err := maker.Create(t.Context(), keys, maker.Plan{Realm: identity.Development, Masters: []maker.Master{{Version: 1, KDF: hsm.KDF1}}, Purposes: []string{"channel"}}); err != nil {
		t.Fatal(err)
	}
	pin := filepath.Join(t.TempDir(), "pin")
	if err := os.WriteFile(pin, tok.PIN.Bytes(), 0o400); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(append(h.Directory.Env(), shim.Env()...), childVariable+"="+pin, "RAW_TEST_MODULE="+shim.Module(), "RAW_TEST_TOKEN="+tok.Label, "RAW_TEST_IDENTITY="+identityLabel)
	return cmd
}

// The process that works counts its own session objects: a device's come and go, none is left behind.
func TestCensus(t *testing.T) {
	t.Parallel()
	shim := softhsm.NewShim(t)
	ctx, kill := context.WithCancel(t.Context())
	cmd := command(t, ctx, shim, "dev-identity-signing")
	cmd.Env = append(cmd.Env, foreverVariable+"=1")
	if err := cmd.Start(); err != nil {
		kill()
		t.Fatal(err)
	}
	defer func() {
		kill()
		if err := cmd.Wait(); err == nil {
			t.Error("the child ended by itself")
		}
	}()
	bound, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for shim.Counts()["C_DestroyObject"] == 0 { // it is logged in and at work
		if bound.Err() != nil {
			t.Fatal("the child does nothing")
		}
		time.Sleep(time.Millisecond)
	}
	const ofADevice = 6 // the pair, the device key, the agreed key and two keys derived from that
	most := 0
	for range 50 {
		objects, sessions, err := shim.Census(bound)
		if err != nil {
			t.Fatal(err)
		}
		if sessions != 1 || objects > ofADevice {
			t.Fatalf("%d session objects and %d sessions", objects, sessions)
		}
		most = max(most, objects)
	}
	if most == 0 {
		t.Error("none of fifty counts found an object")
	}
}

// What the loop says it calls is what the module sees, size queries included, and of that what a
// device needs is what Needs says.
func TestDeviceCalls(t *testing.T) {
	t.Parallel()
	shim := softhsm.NewShim(t)
	said, err := run(t, shim, "dev-identity-signing")
	if err != nil {
		t.Fatal(err)
	}
	seen, sizes, spent := shim.Counts(), shim.SizeQueries(), shim.Spent()
	of := map[string]uint64{}
	for name := range said {
		of[name] = seen[name]
		if spent[name] <= 0 {
			t.Errorf("%d calls of %s took %v", seen[name], name, spent[name])
		}
	}
	if d := cmp.Diff(said, of); d != "" {
		t.Errorf("(-said +seen)\n%s", d)
	}
	for name, n := range raw.Needs() {
		want := n * devices
		if name == "C_SignInit" {
			want++ // one submission
		}
		if have := seen[name] - sizes[name]; have != uint64(want) {
			t.Errorf("%d devices made %d calls of %s that weren't for a size, %d are needed", devices, have, name, want)
		}
	}
	if want := map[string]uint64{"C_Sign": 3*devices + 1, "C_Encrypt": 2 * devices, "C_WrapKey": devices}; cmp.Diff(want, sizes) != "" {
		t.Errorf("(-want +have) of questions for a size\n%s", cmp.Diff(want, sizes))
	}
	if n := shim.Busiest(); n != 1 {
		t.Errorf("%d calls were under way at once, from one thread", n)
	}
	if seen["C_GenerateKey"] != fill {
		t.Errorf("%d keys were made to fill the token, %d were asked for", seen["C_GenerateKey"], fill)
	}
	shim.Reset()
	if n := len(shim.SizeQueries()) + len(shim.Spent()) + shim.Busiest(); n != 0 {
		t.Errorf("after a reset there are %v, %v and %d", shim.SizeQueries(), shim.Spent(), shim.Busiest())
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, _, err := shim.Census(ctx); err == nil || !strings.Contains(err.Error(), "no process made a call") {
		t.Errorf("a census when nobody calls: %v", err)
	}
	// All that a device needs but its destruction is in the list.
	for name := range said {
		needed := raw.Needs()[name] > 0 || raw.Needs()[strings.TrimSuffix(name, "Init")+"Init"] > 0 || raw.Needs()[name+"Init"] > 0
		if !needed && name != "C_DestroyObject" && name != "C_GetAttributeValue" && name != "C_GenerateRandom" && name != "C_GenerateKey" {
			t.Errorf("%s isn't in the list", name)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	if _, err := run(t, softhsm.NewShim(t), "dev-nobody"); err == nil || !strings.Contains(err.Error(), `find key "dev-nobody": there are 0 of it`) {
		t.Errorf("a key that isn't there: %v", err)
	}
	if _, err := raw.Open(raw.Config{Module: filepath.Join(t.TempDir(), "none.so")}); err == nil || !strings.Contains(err.Error(), "no PKCS#11 module") {
		t.Errorf("a module that isn't there: %v", err)
	}
}
