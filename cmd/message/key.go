package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/statement"
)

// fileKey is the sender's own key, from a file: no key of the product, and
// worth what its owner's letters are worth.
type fileKey struct {
	private *ecdsa.PrivateKey
	public  statement.PublicKey
}

// readKey reads a private key that others can't read. No error repeats it.
func readKey(path string) (fileKey, error) {
	info, err := os.Stat(path)
	if err != nil {
		return fileKey{}, fmt.Errorf("read signing key: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fileKey{}, console.Hint(fmt.Errorf("signing key %q has mode %#o: others can read it", path, mode), "run: chmod 0400 %s", path)
	}
	text, err := readFile(path, maxFile)
	if err != nil {
		return fileKey{}, fmt.Errorf("read signing key: %w", err)
	}
	wrong := console.Hint(fmt.Errorf("read signing key %q: one PEM block PRIVATE KEY with an EC P-256 key (PKCS #8, not encrypted) is expected", path),
		"make one: openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out %s", path)
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "PRIVATE KEY" || len(rest) != 0 {
		return fileKey{}, wrong
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return fileKey{}, wrong
	}
	private, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return fileKey{}, wrong
	}
	public, err := statement.FromECDSA(&private.PublicKey)
	if err != nil {
		return fileKey{}, wrong
	}
	return fileKey{private, public}, nil
}

// Public is statement.Signer's.
func (k fileKey) Public() statement.PublicKey { return k.public }

// SignDigest is statement.Signer's.
func (k fileKey) SignDigest(_ context.Context, digest []byte) ([]byte, error) {
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
