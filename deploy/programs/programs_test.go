package programs_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/devicekeys/devicekeys/deploy/programs"
)

// TestBuild: several that build at once get the same folder, and a program that is up to date isn't made again.
func TestBuild(t *testing.T) {
	t.Parallel()
	program := filepath.Join(programs.Build(t, "", "message"), "message")
	before, err := os.Stat(program)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			if again := filepath.Join(programs.Build(t, "", "message"), "message"); again != program {
				t.Errorf("folders %q and %q", again, program)
			}
		})
	}
	all.Wait()
	after, err := os.Stat(program)
	if err != nil || !os.SameFile(before, after) {
		t.Errorf("it was made again: %v", err)
	}
	if out, err := exec.CommandContext(t.Context(), program, "--help").CombinedOutput(); err != nil || !strings.Contains(string(out), "message") {
		t.Errorf("%v: %s", err, out)
	}
	if other := programs.Build(t, "devicekeys_import", "message"); other == filepath.Dir(program) {
		t.Error("programs with tags lie among those without")
	}
}
