package docs_test

import (
	"bytes"
	"os"
	"testing"

	"github.com/devicekeys/devicekeys/hsm/maker"
)

// keys.md is what the templates say, and no one's memory of it.
func TestKeysAreTheTemplates(t *testing.T) {
	t.Parallel()
	var want bytes.Buffer
	if err := maker.WriteMarkdown(&want); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile("keys.md", want.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile("keys.md")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want.Bytes()) {
		t.Error("keys.md is not what the templates say: run go test ./docs -run Keys -update")
	}
}
