package chipidfile_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/devicekeys/devicekeys/cmd/internal/chipidfile"
)

func TestRead(t *testing.T) {
	t.Parallel()
	const chip = "00112233445566778899aabbccddeeff"
	for name, c := range map[string]struct {
		content string
		mode    os.FileMode
		fails   string
	}{
		"a chip ID":       {chip + "\n", 0o400, ""},
		"others can read": {chip, 0o444, "mode"},
		"odd digits":      {chip[1:], 0o400, "not hexadecimal"},
		"no hexadecimal":  {"chip" + chip, 0o400, "not hexadecimal"},
		"too short":       {chip[:20], 0o400, "chip ID"},
		"empty":           {"", 0o400, "read"},
	} {
		file := filepath.Join(t.TempDir(), "chip-id")
		if err := os.WriteFile(file, []byte(c.content), c.mode); err != nil {
			t.Fatal(err)
		}
		got, err := chipidfile.Read(file)
		if c.fails == "" {
			if err != nil || got.IsZero() {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), c.fails) || strings.Contains(err.Error(), chip[2:12]) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
