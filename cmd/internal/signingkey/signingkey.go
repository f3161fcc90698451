// Package signingkey reads the key that somebody signs his own letters and files with: no key of the product, from a file of
// his, and worth what they are worth.
package signingkey

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"os"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/statement"
)

// maxFile bounds what is read of a key's file, in bytes.
const maxFile = 4096

// Read reads a private key from a file that others can't read: PKCS #8 in PEM, P-256, not encrypted. No error repeats it.
func Read(path string) (statement.SoftwareKey, error) {
	info, err := os.Stat(path)
	if err != nil {
		return statement.SoftwareKey{}, fmt.Errorf("read signing key: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return statement.SoftwareKey{}, console.Hint(fmt.Errorf("signing key %q has mode %#o: others can read it", path, mode), "run: chmod 0400 %s", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return statement.SoftwareKey{}, fmt.Errorf("read signing key: %w", err)
	}
	defer f.Close()                                     // opened for reading: nothing to lose
	text, err := io.ReadAll(io.LimitReader(f, maxFile)) // what is cut is no key
	if err != nil {
		return statement.SoftwareKey{}, fmt.Errorf("read signing key: %w", err)
	}
	wrong := console.Hint(fmt.Errorf("read signing key %q: one PEM block PRIVATE KEY with an EC P-256 key (PKCS #8, not encrypted) is expected", path),
		"make one: openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out %s", path)
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "PRIVATE KEY" || len(rest) != 0 {
		return statement.SoftwareKey{}, wrong
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return statement.SoftwareKey{}, wrong
	}
	private, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return statement.SoftwareKey{}, wrong
	}
	key, err := statement.NewSoftwareKey(private)
	if err != nil {
		return statement.SoftwareKey{}, wrong
	}
	return key, nil
}
