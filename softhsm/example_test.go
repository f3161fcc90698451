package softhsm_test

import (
	"fmt"
	"log"
	"os"
	"os/exec"
	"testing"

	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/secret"
	"github.com/devicekeys/devicekeys/softhsm"
)

// In a test: a token, a key in it, a use of the key.
func Example() {
	_ = func(t *testing.T) {
		h := softhsm.New(t)
		token := h.Open(t, h.Token(t, "spp"))
		key, err := token.Generate(t.Context(), hsm.Spec{Kind: hsm.AuditKey, Label: "audit", Token: true})
		if err != nil {
			t.Fatal(err)
		}
		signature, err := key.Sign(t.Context(), make([]byte, 32))
		if err != nil || len(signature) != 64 {
			t.Fatal(len(signature), err)
		}
	}
}

// A token directory for a child process.
func ExampleDirectory() {
	dir, err := os.MkdirTemp("", "example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	d, err := softhsm.NewDirectory(dir)
	if err != nil {
		log.Fatal(err)
	}
	token, err := d.InitToken("spp", secret.Random(15), secret.Random(15))
	if err != nil {
		log.Fatal(err)
	}
	cmd := exec.Command("softhsm2-util", "--show-slots")
	cmd.Env = d.Env()
	if err := cmd.Run(); err != nil {
		log.Fatal(err)
	}
	fmt.Println(token.Label, len(token.Serial), token.PIN)
	// prints: spp 16 [redacted]
}
