package statement_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/devicekeys/devicekeys/statement"
)

// RFC 6979 §A.2.5: P-256, SHA-256, "sample".
const (
	rfc6979Key       = "c9afa9d845ba75166b5c215767b1d6934e50c3db36e89b127b8a622b120f6721"
	rfc6979Signature = "efd48b2aacb6a8fd1140dd9cd45e81d69d2c877b56aaf991c34d0ea84eaf3716" +
		"f7cb1c942d657c41d436c7a1b6e29f65f3e900dbb9aff4064dc4ab2f843acda8"
)

func TestSoftwareKey(t *testing.T) {
	t.Parallel()
	scalar, err := hex.DecodeString(rfc6979Key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), scalar)
	if err != nil {
		t.Fatal(err)
	}
	k, err := statement.NewSoftwareKey(private)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("sample"))
	sign := func(k statement.SoftwareKey) []byte {
		t.Helper()
		s, err := k.SignDigest(t.Context(), digest[:])
		if err != nil {
			t.Fatal(err)
		}
		if err := k.Public().Verify(digest[:], s); err != nil {
			t.Error(err)
		}
		return s
	}
	if got := hex.EncodeToString(sign(k.Deterministic())); got != rfc6979Signature {
		t.Errorf("%s, the RFC says %s", got, rfc6979Signature)
	}
	if bytes.Equal(sign(k), sign(k)) {
		t.Error("two signatures that should be random are one")
	}
	other, err := statement.GenerateSoftwareKey()
	if err != nil {
		t.Fatal(err)
	}
	if sign(other); other.Public() == k.Public() {
		t.Error("a new key is the old one")
	}
	if _, err := k.SignDigest(t.Context(), digest[:31]); err == nil {
		t.Error("a digest of 31 bytes was signed")
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := statement.NewSoftwareKey(p384); err == nil || !strings.Contains(err.Error(), "P-256") {
		t.Errorf("a key of P-384: %v", err)
	}
}
