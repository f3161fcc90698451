package devicekeys_test

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// overlayTime bounds one run of the go tool on changed source: what depends on the change is compiled anew the first time.
const overlayTime = 5 * time.Minute

// TestAddedAlgorithm adds two algorithms to the table in keypackage, and to nothing else, and puts keys of theirs through
// line and chips. The source stays as it is: the go tool reads another file in its place.
func TestAddedAlgorithm(t *testing.T) {
	t.Parallel()
	const (
		file = "keypackage/algorithm.go"
		row  = "\t{None, \"none\", UseNone},\n"
		more = row +
			"\t{4, \"hmac-sha-256-64\", UseMAC},\n" + // HMAC 256/64, RFC 9053 section 3.1
			"\t{-9, \"esp256\", UseSignature},\n" // ESP256, RFC 9864 section 2.1
	)
	dir := t.TempDir()
	path, err := filepath.Abs(file)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Count(string(text), row) != 1 {
		t.Fatalf("%s has no row %q, or several", file, row)
	}
	changed, overlay := filepath.Join(dir, "algorithm.go"), filepath.Join(dir, "overlay.json")
	list, err := json.Marshal(map[string]any{"Replace": map[string]string{path: changed}})
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{changed: []byte(strings.Replace(string(text), row, more, 1)), overlay: list} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ pkg, run, passed string }{
		{"./provisioning", "^TestAlgorithms$", "TestAlgorithms/"},
		{"./device/chip", "^TestSoftwareInMemory$/^Algorithms$", "TestSoftwareInMemory/Algorithms/"},
		{"./device/chip", "^TestToken$/^suite$/^Algorithms$", "TestToken/suite/Algorithms/"},
	} {
		t.Run(c.passed, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), overlayTime)
			defer cancel()
			args := []string{"test", "-overlay", overlay, "-count", "1", "-v", "-run", c.run, c.pkg}
			out, err := exec.CommandContext(ctx, "go", args...).CombinedOutput()
			for _, algorithm := range []string{"hmac-sha-256-64", "esp256", "es256"} {
				if err != nil || !strings.Contains(string(out), "--- PASS: "+c.passed+algorithm+" ") {
					t.Fatalf("go %q: %v; or %s was not tried\n%s", args, err, algorithm, out)
				}
			}
		})
	}
}
