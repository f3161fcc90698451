package rom_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/statement"
)

// goldenKey is the key of RFC 6979 A.2.5, whose certificates are in identity's golden vectors.
const goldenKey = "c9afa9d845ba75166b5c215767b1d6934e50c3db36e89b127b8a622b120f6721"

// newSigner gives a key that signs as RFC 6979 says.
func newSigner(t testing.TB, private string) statement.SoftwareKey {
	t.Helper()
	k, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), unhex(t, private))
	if err != nil {
		t.Fatal(err)
	}
	key, err := statement.NewSoftwareKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return key.Deterministic()
}

// self is what a ROM knows of itself.
type self struct {
	chip  []byte
	realm identity.Realm
	typ   identity.Type
	key   []byte
	hash  []byte
}

func selfOf(c identity.Claims, key statement.PublicKey) self {
	h := key.Hash()
	return self{c.ChipID.Bytes(), c.Realm, c.Subject.Type(), key.Point(), h[:]}
}

func (s self) fields(certificate []byte) [][]byte {
	return [][]byte{{byte(s.realm), byte(s.typ)}, s.chip, s.key, s.hash, certificate}
}

// accepts is the Go verifier's word: for this key, chip, realm and type.
func (s self) accepts(raw []byte, key statement.PublicKey) bool {
	c, err := identity.ParseCertificate(raw, key)
	return err == nil && c.Subject.Type() == s.typ && string(c.ChipID.Bytes()) == string(s.chip) && c.Realm == s.realm
}

// fields is a struct dkrom_claims.
type fields struct {
	Type                 identity.Type
	Realm                identity.Realm
	IssuedAt, Generation uint32
	Manifest, ClaimsHash [32]byte
	ChipID, Identity     string
}

func readFields(t fataler, b []byte) fields {
	t.Helper()
	var f fields
	if len(b) < 78 || len(b) < 78+int(binary.BigEndian.Uint32(b[74:])) {
		t.Fatalf("claims of %d bytes", len(b))
	}
	chip := 78 + int(binary.BigEndian.Uint32(b[74:]))
	f.Type, f.Realm = identity.Type(b[0]), identity.Realm(b[1])
	f.IssuedAt, f.Generation = binary.BigEndian.Uint32(b[2:]), binary.BigEndian.Uint32(b[6:])
	copy(f.Manifest[:], b[10:])
	copy(f.ClaimsHash[:], b[42:])
	f.ChipID, f.Identity = string(b[78:chip]), string(b[chip:])
	return f
}

func fieldsOf(c identity.Claims, encoded []byte) fields {
	return fields{
		Type: c.Subject.Type(), Realm: c.Realm, IssuedAt: c.IssuedAt, Generation: uint32(c.Generation), Manifest: c.Manifest,
		ClaimsHash: sha256.Sum256(encoded), ChipID: string(c.ChipID.Bytes()), Identity: c.Subject.Value(),
	}
}

// golden reads the text values of a file of golden vectors.
func golden(t testing.TB, file string) map[string][]byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var values map[string]any
	if err := json.Unmarshal(b, &values); err != nil {
		t.Fatal(err)
	}
	out := map[string][]byte{}
	for k, v := range values {
		if s, ok := v.(string); ok {
			out[k] = unhex(t, s)
		}
	}
	return out
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
