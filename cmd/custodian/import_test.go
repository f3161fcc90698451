//go:build devicekeys_import

package main

import (
	"crypto/ecdh"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/devicekeys/devicekeys/provisioning/records/recordstest"
	"github.com/devicekeys/devicekeys/softhsm"
	"github.com/devicekeys/devicekeys/statement"
)

// TestImport: a set-up with known keys uses them, generates the others, and puts none of the bytes into its output.
func TestImport(t *testing.T) {
	t.Parallel()
	if _, err := softhsm.Module(); err != nil {
		softhsm.New(t)
	}
	p, err := newPlace(t.TempDir(), recordstest.New(t))
	if err != nil {
		t.Fatal(err)
	}
	known := strings.Repeat("5a", 32)
	folder := t.TempDir()
	for _, label := range []string{"dev-master-1", "dev-identity-signing", "dev-pool-seal", "dev-station-ca"} {
		if err := os.WriteFile(filepath.Join(folder, label), []byte(known+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		cmd := exec.CommandContext(t.Context(), "custodian", "setup", "--config", "custodian.yaml")
		cmd.Dir, cmd.Env = p.dir, append(p.tokens.Env(), importFolder+"="+folder)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if strings.Contains(string(out), known[:16]) {
			t.Errorf("the output has the key's bytes:\n%s", out)
		}
	}
	value, err := hex.DecodeString(known)
	if err != nil {
		t.Fatal(err)
	}
	private, err := ecdh.P256().NewPrivateKey(value)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(p.dir, "public", "rom-key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	rom, err := statement.ParsePEM(text)
	if err != nil || string(rom.Point()) != string(private.PublicKey().Bytes()) {
		t.Errorf("the ROM key is not the imported one: %v", err)
	}
}
