package keypackage

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"

	"github.com/devicekeys/devicekeys/detcbor"
)

// Secret is an entry that is no key, with the random bytes of its commitment.
type Secret struct {
	_      struct{} `cbor:",toarray"`
	Random []byte   // 32 bytes
	Value  []byte   // 1 to MaxSecret bytes
}

func (s Secret) check() error {
	if len(s.Random) != 32 || len(s.Value) == 0 || len(s.Value) > MaxSecret {
		return fmt.Errorf("secret of %d bytes with %d random ones: 1 to %d with 32 are allowed", len(s.Value), len(s.Random), MaxSecret)
	}
	return nil
}

// Vouched tells whether the secret is the one that the entry committed to.
func (s Secret) Vouched(e Entry) bool {
	if s.check() != nil || e.Form() != FormSecret || len(e.Vouch) != sha256.Size {
		return false
	}
	c := Commitment([32]byte(s.Random), s.Value)
	return subtle.ConstantTimeCompare(c[:], e.Vouch) == 1
}

// EncodeSecrets gives the plaintext that a data package seals: the secrets in
// the order of Manifest.Secrets.
func EncodeSecrets(secrets []Secret) ([]byte, error) {
	for i, s := range secrets {
		if err := s.check(); err != nil {
			return nil, fmt.Errorf("encode secret %d: %w", i+1, err)
		}
	}
	return detcbor.Marshal(secrets)
}

// ParseSecrets reads that plaintext and matches it, one to one, against the
// manifest's commitments.
func ParseSecrets(b []byte, m Manifest) ([]Secret, error) {
	var secrets []Secret
	if err := detcbor.Unmarshal(b, &secrets, MaxPackage); err != nil {
		return nil, fmt.Errorf("read secrets: %w", err)
	}
	return secrets, matchSecrets(secrets, m)
}

func matchSecrets(secrets []Secret, m Manifest) error {
	want := m.Secrets()
	if len(secrets) != len(want) {
		return fmt.Errorf("package holds %d secrets, the manifest names %d", len(secrets), len(want))
	}
	for i, at := range want {
		if !secrets[i].Vouched(m.Entries[at]) {
			return fmt.Errorf("secret %q is not the one that the manifest vouches for", m.Entries[at].Key.Name)
		}
	}
	return nil
}

// CheckWrapped matches wrapped keys, by number and length, against the
// manifest. What each key is, its check value must still show.
func CheckWrapped(wrapped [][]byte, m Manifest) error {
	want := m.Wrapped()
	if len(wrapped) != len(want) {
		return fmt.Errorf("package holds %d keys, the manifest names %d", len(wrapped), len(want))
	}
	for i, at := range want {
		if e := m.Entries[at]; len(wrapped[i]) != e.WrappedSize() {
			return fmt.Errorf("key %q is wrapped in %d bytes, %d are expected", e.Key.Name, len(wrapped[i]), e.WrappedSize())
		}
	}
	return nil
}

// Contents is the plaintext of a backup: keys wrapped under the chip wrap key
// and other secrets, both in the manifest's order.
type Contents struct {
	_       struct{} `cbor:",toarray"`
	Wrapped [][]byte
	Secrets []Secret
}

// Encode gives the plaintext that the chip seal key encrypts.
func (c Contents) Encode(m Manifest) ([]byte, error) {
	if err := c.match(m); err != nil {
		return nil, fmt.Errorf("encode contents of backup: %w", err)
	}
	if c.Wrapped == nil {
		c.Wrapped = [][]byte{}
	}
	if c.Secrets == nil {
		c.Secrets = []Secret{}
	}
	return detcbor.Marshal(c)
}

// ParseContents reads that plaintext and matches it, one to one, against the
// manifest.
func ParseContents(b []byte, m Manifest) (Contents, error) {
	var c Contents
	if err := detcbor.Unmarshal(b, &c, MaxPackage); err != nil {
		return Contents{}, fmt.Errorf("read contents of backup: %w", err)
	}
	if c.Wrapped == nil || c.Secrets == nil {
		return Contents{}, fmt.Errorf("read contents of backup: keys or secrets are null; where there are none, an empty array stands")
	}
	if err := c.match(m); err != nil {
		return Contents{}, fmt.Errorf("read contents of backup: %w", err)
	}
	return c, nil
}

func (c Contents) match(m Manifest) error {
	if err := CheckWrapped(c.Wrapped, m); err != nil {
		return err
	}
	return matchSecrets(c.Secrets, m)
}
