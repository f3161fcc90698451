package devicekeys_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// seenSkips finds where a file skips a test past package untested, whose list is how anybody learns of it, or reads by itself whether
// this is a CI machine.
var seenSkips = regexp.MustCompile(`\b[tfb]\.Skip(f|Now)?\(|Getenv\("CI"\)`)

// otherSkips are files with a right of their own.
var otherSkips = []string{
	"untested/untested.go",
	"keypackage/property_test.go",        // rapid draws again
	"cmd/internal/gotest/gotest_test.go", // the text of a module
}

// Every skip is one that package untested says.
func TestArchitectureSkips(t *testing.T) {
	t.Parallel()
	files, other := 0, 0
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && path != "." || path == "var" || path == "bin") {
			return fs.SkipDir
		}
		if d.IsDir() || filepath.Ext(path) != ".go" {
			return nil
		}
		files++
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		m := seenSkips.Find(text)
		for _, o := range otherSkips {
			if m != nil && path == filepath.FromSlash(o) {
				other++
				m = nil
			}
		}
		if m != nil {
			t.Errorf("%s: %s...: say it through package untested", path, m)
		}
		return nil
	})
	if err != nil || files == 0 || other != len(otherSkips) {
		t.Errorf("%d files, %d of %d others: %v", files, other, len(otherSkips), err)
	}
}
