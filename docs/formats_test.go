// Package docs_test keeps the documents true: what they show is made again
// here and compared.
package docs_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"regexp"
	"sort"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the generated parts of the documents anew")

// vectors reads a golden file with its order of keys.
func vectors(t *testing.T, file string) (keys []string, values map[string]json.RawMessage) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &values); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	d := json.NewDecoder(strings.NewReader(string(b)))
	depth := 0
	for expectKey := false; ; {
		tok, err := d.Token()
		if err != nil {
			break
		}
		switch v := tok.(type) {
		case json.Delim:
			if v == '{' || v == '[' {
				depth++
			} else {
				depth--
			}
			expectKey = depth == 1
			continue
		case string:
			if depth == 1 && expectKey {
				keys = append(keys, v)
				expectKey = false
				continue
			}
		}
		expectKey = depth == 1
	}
	return keys, values
}

// block prints vectors in lines of 100 digits.
func block(t *testing.T, file string) string {
	keys, values := vectors(t, file)
	var b strings.Builder
	b.WriteString("```\n")
	for _, k := range keys {
		var s string
		if json.Unmarshal(values[k], &s) != nil {
			continue // the layout has a table of its own
		}
		fmt.Fprintf(&b, "%s =\n", k)
		for len(s) > 100 {
			fmt.Fprintf(&b, "    %s\n", s[:100])
			s = s[100:]
		}
		fmt.Fprintf(&b, "    %s\n", s)
	}
	b.WriteString("```\n")
	return b.String()
}

func layout(t *testing.T) string {
	_, values := vectors(t, "../identity/testdata/golden.json")
	var spans map[string]struct{ Offset, Length int }
	if err := json.Unmarshal(values["layout"], &spans); err != nil {
		t.Fatal(err)
	}
	names := make([]string, 0, len(spans))
	for n := range spans {
		names = append(names, n)
	}
	sort.Slice(names, func(i, j int) bool {
		a, b := spans[names[i]], spans[names[j]]
		return a.Offset < b.Offset || a.Offset == b.Offset && a.Length > b.Length
	})
	var b strings.Builder
	b.WriteString("| field | offset | length |\n|---|---|---|\n")
	for _, n := range names {
		fmt.Fprintf(&b, "| %s | %d | %d |\n", strings.ReplaceAll(n, "_", " "), spans[n].Offset, spans[n].Length)
	}
	return b.String()
}

func TestFormatsShowGoldenVectors(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("formats.md")
	if err != nil {
		t.Fatal(err)
	}
	made := map[string]string{
		"layout":     layout(t),
		"identity":   block(t, "../identity/testdata/golden.json"),
		"keypackage": block(t, "../keypackage/testdata/golden.json"),
		"registry":   block(t, "../registry/testdata/golden.json"),
	}
	part := regexp.MustCompile(`(?s)<!-- golden: (\w+) -->\n.*?<!-- end -->`)
	seen := 0
	want := part.ReplaceAllStringFunc(string(b), func(s string) string {
		name := part.FindStringSubmatch(s)[1]
		text, ok := made[name]
		if !ok {
			t.Errorf("formats.md has a part %q that nothing makes", name)
			return s
		}
		seen++
		return "<!-- golden: " + name + " -->\n" + text + "<!-- end -->"
	})
	if seen != len(made) {
		t.Errorf("formats.md shows %d of %d sets of vectors", seen, len(made))
	}
	if *update {
		if err := os.WriteFile("formats.md", []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if want != string(b) {
		t.Error("formats.md does not show the golden vectors: run go test ./docs -run Formats -update")
	}
}
