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
	args := []string{"test", "-tags", "devicekeys_import", "-count", "1", "-v", "-run", "^(TestKnownAnswers|TestImport)$", "./hsm/maker", "./cmd/custodian"}
	out, err := exec.CommandContext(ctx, "go", args...).CombinedOutput()
	for _, passed := range []string{"--- PASS: TestKnownAnswers ", "--- PASS: TestImport "} {
		if err != nil || !strings.Contains(string(out), passed) {
			t.Fatalf("go %q: %v; or not %q\n%s", args, err, passed, out)
		}
	}
}
