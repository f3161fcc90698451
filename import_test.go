package devicekeys_test

import (
	"context"
	"os/exec"
	"strings"
	"testing"
)

// TestImportBuild runs the tests that need keys of known bytes, which only a build for tests takes into a token: without
// this, nobody would.
func TestImportBuild(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), overlayTime)
	defer cancel()
	out, err := exec.CommandContext(ctx, "go", "test", "-tags", "devicekeys_import", "-count", "1", "-v", "-run", "^TestKnownAnswers$", "./hsm/maker").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestKnownAnswers ") {
		t.Errorf("%v\n%s", err, out)
	}
}
