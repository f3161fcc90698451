package softhsm_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/pkcs11"

	"github.com/devicekeys/devicekeys/softhsm"
	"github.com/devicekeys/devicekeys/untested"
)

// The shim in this process is tested in hsm/outage, where the process's module is the
// shim. Here it is another program's: softhsm2-util's.

// util runs softhsm2-util on a directory through the shim.
func util(t *testing.T, d *softhsm.Directory, s *softhsm.Shim) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "softhsm2-util", "--show-slots", "--module", s.Module())
	cmd.Env = append(d.Env(), s.Env()...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func shimmed(t *testing.T) (*softhsm.Directory, *softhsm.Shim) {
	t.Helper()
	s := softhsm.NewShim(t)
	d, err := softhsm.NewDirectory(filepath.Join(t.TempDir(), "softhsm"))
	if err != nil {
		t.Fatal(err)
	}
	d.Token(t, "dev-child")
	return d, s
}

func TestShimOfOtherProcesses(t *testing.T) {
	t.Parallel()
	d, s := shimmed(t)
	if out, err := util(t, d, s); err != nil || !strings.Contains(out, "dev-child") {
		t.Fatalf("through the shim: %v\n%s", err, out)
	}
	once := s.Counts()
	if once["C_Initialize"] != 1 || once["C_GetTokenInfo"] == 0 {
		t.Errorf("counted %v", once)
	}
	var wg sync.WaitGroup
	for range 3 { // all map the one control file
		wg.Go(func() {
			if out, err := util(t, d, s); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
	wg.Wait()
	for name, n := range s.Counts() {
		if n != 4*once[name] {
			t.Errorf("four runs made %d calls of %s, and one made %d", n, name, once[name])
		}
	}
	s.Reset()
	if n := s.Counts(); len(n) != 0 {
		t.Errorf("after a reset %v", n)
	}

	if err := s.Fail(softhsm.Rule{Function: "C_Initialize", Code: pkcs11.CKR_DEVICE_ERROR}); err != nil {
		t.Fatal(err)
	}
	if out, err := util(t, d, s); err == nil {
		t.Errorf("with C_Initialize failing: %s", out)
	}
	s.Lose(true)
	if out, err := util(t, d, s); err == nil && strings.Contains(out, "dev-child") {
		t.Errorf("with the token away: %s", out)
	}
	s.Lose(false)
	if out, err := util(t, d, s); err != nil || !strings.Contains(out, "dev-child") {
		t.Errorf("with the token back: %v\n%s", err, out)
	}
}

func TestShimWithoutControl(t *testing.T) {
	t.Parallel()
	d, s := shimmed(t)
	cmd := exec.CommandContext(t.Context(), "softhsm2-util", "--show-slots", "--module", s.Module())
	cmd.Env = d.Env() // SoftHSM is found in its usual places
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "dev-child") {
		t.Errorf("%v\n%s", err, out)
	}
	if n := s.Counts(); len(n) != 0 {
		t.Errorf("counted %v", n)
	}
}

// A control file or module that isn't one is refused, with a word why.
func TestShimRefuses(t *testing.T) {
	t.Parallel()
	d, s := shimmed(t)
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "other")
	if err := os.WriteFile(other, make([]byte, 1<<16), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ variable, value, complaint string }{
		{"DEVICEKEYS_SHIM_CONTROL", empty, "too short"},
		{"DEVICEKEYS_SHIM_CONTROL", other, "another shim"},
		{"DEVICEKEYS_SHIM_CONTROL", filepath.Join(empty, "none"), "open control file"},
		{"DEVICEKEYS_SHIM_MODULE", other, "load module"},
	} {
		cmd := exec.CommandContext(t.Context(), "softhsm2-util", "--show-slots", "--module", s.Module())
		cmd.Env = append(append(d.Env(), s.Env()...), c.variable+"="+c.value)
		if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), c.complaint) {
			t.Errorf("%s=%s: %v, and %q isn't said:\n%s", c.variable, c.value, err, c.complaint, out)
		}
	}
}

func TestBuildShimTwice(t *testing.T) {
	t.Parallel()
	if _, err := softhsm.Module(); err != nil {
		untested.Skip(t, "%v", err)
	}
	dir := filepath.Join(t.TempDir(), "new", "folder")
	var made [4]*softhsm.Shim
	var wg sync.WaitGroup
	for i := range made {
		wg.Go(func() {
			s, err := softhsm.BuildShim(context.Background(), dir)
			if err != nil {
				t.Error(err)
			}
			made[i] = s
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	for i, s := range made {
		if s.Module() != made[0].Module() {
			t.Errorf("built %q and %q", made[0].Module(), s.Module())
		}
		for _, before := range made[:i] {
			if strings.Join(s.Env(), " ") == strings.Join(before.Env(), " ") {
				t.Error("two shims have one control file")
			}
		}
	}
	for range 2 {
		if err := made[0].Close(); err != nil {
			t.Error(err)
		}
	}
	if n := made[0].Counts(); len(n) != 0 { // closed, and no crash
		t.Errorf("counted %v", n)
	}
	found, err := os.ReadDir(dir)
	if err != nil || len(found) != 1+3 {
		t.Errorf("left are %v, %v: the module and three control files were expected", found, err)
	}
	for _, s := range made[1:] {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestBuildShimFails(t *testing.T) {
	if _, err := softhsm.Module(); err != nil {
		untested.Skip(t, "%v", err)
	}
	t.Setenv("CC", "no-such-compiler -m64")
	if _, err := softhsm.BuildShim(t.Context(), t.TempDir()); err == nil || !strings.Contains(err.Error(), "no-such-compiler") || !strings.Contains(err.Error(), "install") {
		t.Errorf("a compiler that isn't there: %v", err)
	}
	t.Setenv("CC", "false")
	dir := t.TempDir()
	if _, err := softhsm.BuildShim(t.Context(), dir); err == nil || !strings.Contains(err.Error(), "compile it with false") {
		t.Errorf("a compiler that fails: %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left are %v, %v", left, err)
	}
	t.Setenv("CC", "")
	t.Setenv("PATH", t.TempDir())
	if _, err := softhsm.BuildShim(t.Context(), dir); err == nil || !strings.Contains(err.Error(), "no C compiler") {
		t.Errorf("without a compiler: %v", err)
	}
	if _, err := softhsm.BuildShim(t.Context(), "/dev/null/x"); err == nil || errors.Is(err, softhsm.ErrNotInstalled) {
		t.Errorf("in a folder that can't be: %v", err)
	}
}

// The list of functions is PKCS#11 v2.40's.
func TestShimFunctions(t *testing.T) {
	t.Parallel()
	all := softhsm.ShimFunctions()
	if len(all) != 68 || all[0] != "C_Initialize" || all[33] != "C_DecryptInit" || all[43] != "C_Sign" || all[67] != "C_WaitForSlotEvent" {
		t.Errorf("%d functions: %q", len(all), all)
	}
}
