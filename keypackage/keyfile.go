package keypackage

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/statement"
)

// KeyFile is a sender's signed word on one file of devices' keys from outside. Each
// key in such a file is wrapped to the maker's transport key, whose public half is
// no secret: whoever has it can make a file of keys that he knows. So the file as a
// whole is taken by its sender's word, or by its hash, heard another way.
type KeyFile struct {
	Realm identity.Realm
	Line  string            // the product line that the keys are for, "meter"
	Hash  [sha256.Size]byte // SHA-256 of the file
}

// MaxKeyFile is the longest statement of a key file that is read, in bytes.
const MaxKeyFile = 512

// maxLine bounds the name of a product line, in bytes.
const maxLine = 64

const keyFileVersion = 1

type keyFileWire struct {
	_       struct{} `cbor:",toarray"`
	Version uint
	Realm   identity.Realm
	Line    string
	Hash    []byte
}

// ErrKeyFile says that a statement is a sender's, but about another file, product
// line or realm.
var ErrKeyFile = errors.New("the signature is for something else")

// Encode gives the statement's payload.
func (k KeyFile) Encode() ([]byte, error) {
	if err := k.check(); err != nil {
		return nil, fmt.Errorf("key file: %w", err)
	}
	return detcbor.Marshal(keyFileWire{Version: keyFileVersion, Realm: k.Realm, Line: k.Line, Hash: k.Hash[:]})
}

// SignKeyFile makes the statement, with the sender's key.
func SignKeyFile(ctx context.Context, s statement.Signer, k KeyFile) ([]byte, error) {
	payload, err := k.Encode()
	if err != nil {
		return nil, err
	}
	return statement.Sign(ctx, s, statement.KeyFile, payload)
}

// ParseKeyFile checks form and signature with the sender's key. It matches
// statement.ErrForm or statement.ErrSignature where it is not his statement.
func ParseKeyFile(raw []byte, sender statement.PublicKey) (KeyFile, error) {
	payload, err := statement.Open(raw, statement.KeyFile, sender, MaxKeyFile)
	if err != nil {
		return KeyFile{}, err
	}
	var w keyFileWire
	if err := detcbor.Unmarshal(payload, &w, MaxKeyFile); err != nil {
		return KeyFile{}, fmt.Errorf("read the signature of a key file: %w", err)
	}
	if w.Version != keyFileVersion || len(w.Hash) != sha256.Size {
		return KeyFile{}, fmt.Errorf("read the signature of a key file: version %d with a hash of %d bytes is not known", w.Version, len(w.Hash))
	}
	k := KeyFile{Realm: w.Realm, Line: w.Line, Hash: [sha256.Size]byte(w.Hash)}
	if err := k.check(); err != nil {
		return KeyFile{}, fmt.Errorf("read the signature of a key file: %w", err)
	}
	return k, nil
}

// Match tells whether the sender speaks of this file, for this product line and
// realm. It matches ErrKeyFile.
func (k KeyFile) Match(want KeyFile) error {
	switch {
	case k.Realm != want.Realm:
		return fmt.Errorf("%w: for the %s realm, this is the %s one", ErrKeyFile, k.Realm, want.Realm)
	case k.Line != want.Line:
		return fmt.Errorf("%w: for product line %q, the keys are to be %q's", ErrKeyFile, k.Line, want.Line)
	case k.Hash != want.Hash:
		return fmt.Errorf("%w: for a file of SHA-256 %x, this one has %x", ErrKeyFile, k.Hash, want.Hash)
	}
	return nil
}

func (k KeyFile) check() error {
	if !k.Realm.Valid() || k.Line == "" || len(k.Line) > maxLine {
		return fmt.Errorf("realm %s and product line %q: a realm and a name of 1 to %d bytes are needed", k.Realm, k.Line, maxLine)
	}
	return nil
}
