// Package signingkey reads the key that somebody signs his own letters and files with: no key of the product, from a file of
// his, and worth what they are worth.
package signingkey

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"os"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/statement"
)

// maxFile bounds what is read of a key's file, in bytes.
const maxFile = 4096

// Key is a sender's own key. It is a statement.Signer, safe for concurrent use.
type Key struct {
	private *ecdsa.PrivateKey
	public  statement.PublicKey
}

// Read reads a private key from a file that others can't read: PKCS #8 in PEM, P-256, not encrypted. No error repeats it.
func Read(path string) (Key, error) {
	info, err := os.Stat(path)
	if err != nil {
		return Key{}, fmt.Errorf("read signing key: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return Key{}, console.Hint(fmt.Errorf("signing key %q has mode %#o: others can read it", path, mode), "run: chmod 0400 %s", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return Key{}, fmt.Errorf("read signing key: %w", err)
	}
	defer f.Close()                                     // opened for reading: nothing to lose
	text, err := io.ReadAll(io.LimitReader(f, maxFile)) // what is cut is no key
	if err != nil {
		return Key{}, fmt.Errorf("read signing key: %w", err)
	}
	wrong := console.Hint(fmt.Errorf("read signing key %q: one PEM block PRIVATE KEY with an EC P-256 key (PKCS #8, not encrypted) is expected", path),
		"make one: openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out %s", path)
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "PRIVATE KEY" || len(rest) != 0 {
		return Key{}, wrong
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return Key{}, wrong
	}
	private, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return Key{}, wrong
	}
	public, err := statement.FromECDSA(&private.PublicKey)
	if err != nil {
		return Key{}, wrong
	}
	return Key{private, public}, nil
}

// Public is statement.Signer's.
func (k Key) Public() statement.PublicKey { return k.public }

// SignDigest is statement.Signer's.
func (k Key) SignDigest(_ context.Context, digest []byte) ([]byte, error) {
	der, err := ecdsa.SignASN1(rand.Reader, k.private, digest)
	if err != nil {
		return nil, err
	}
	var sig struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &sig); err != nil {
		return nil, err
	}
	out := make([]byte, 64)
	sig.R.FillBytes(out[:32])
	sig.S.FillBytes(out[32:])
	return out, nil
}
