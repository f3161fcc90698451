package channel

import (
	"errors"
	"fmt"

	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
)

// Suite says how a channel is made. The numbers are part of the formats.
type Suite uint8

// The suites: see the package comment.
const (
	SuiteNoise       Suite = 1
	SuiteTLS         Suite = 2
	SuiteCertificate Suite = 3
)

// Valid reports whether s is one of the suites.
func (s Suite) Valid() bool { return s >= SuiteNoise && s <= SuiteCertificate }

// String gives the suite's name as messages and metrics spell it.
func (s Suite) String() string {
	switch s {
	case SuiteNoise:
		return "noise"
	case SuiteTLS:
		return "tls"
	case SuiteCertificate:
		return "certificate"
	}
	return fmt.Sprintf("suite %d", uint8(s))
}

// Hello is what a device says of itself before anything is proven.
type Hello struct {
	Suite      Suite
	Realm      identity.Realm
	Key        keypackage.KeyID // of the communication key; of SuiteCertificate the pair's name alone
	Identity   identity.Identity
	Generation identity.Generation
}

// MaxHello bounds an encoded hello, in bytes: an identity of 64, a name of 32, five
// small numbers.
const MaxHello = 256

const (
	helloLabel   = "dk-channel-hello"
	helloVersion = 1
)

type helloWire struct {
	_            struct{} `cbor:",toarray"`
	Label        string
	Version      uint
	Suite        Suite
	Realm        identity.Realm
	Key          keypackage.KeyID
	IdentityType identity.Type
	Identity     string
	Generation   identity.Generation
}

// Encode gives the hello's one encoding. It refuses what ParseHello refuses.
func (h Hello) Encode() ([]byte, error) {
	if err := h.check(); err != nil {
		return nil, fmt.Errorf("encode hello: %w", err)
	}
	b, err := detcbor.Marshal(helloWire{Label: helloLabel, Version: helloVersion, Suite: h.Suite, Realm: h.Realm, Key: h.Key,
		IdentityType: h.Identity.Type(), Identity: h.Identity.Value(), Generation: h.Generation})
	if err == nil && len(b) > MaxHello {
		return nil, fmt.Errorf("encode hello: %d bytes, at most %d are allowed", len(b), MaxHello)
	}
	return b, err
}

// ParseHello reads the one encoding of a hello. Nothing in it is proven.
func ParseHello(b []byte) (Hello, error) {
	var w helloWire
	if err := detcbor.Unmarshal(b, &w, MaxHello); err != nil {
		return Hello{}, fmt.Errorf("read hello: %w", err)
	}
	if w.Label != helloLabel || w.Version != helloVersion {
		return Hello{}, fmt.Errorf("read hello: %q of version %d is no hello", w.Label, w.Version)
	}
	id, err := identity.FromValue(w.IdentityType, w.Identity)
	if err != nil {
		return Hello{}, fmt.Errorf("read hello: %w", err)
	}
	h := Hello{Suite: w.Suite, Realm: w.Realm, Key: w.Key, Identity: id, Generation: w.Generation}
	if err := h.check(); err != nil {
		return Hello{}, fmt.Errorf("read hello: %w", err)
	}
	return h, nil
}

func (h Hello) check() error {
	switch {
	case !h.Suite.Valid():
		return fmt.Errorf("%s is not known", h.Suite)
	case !h.Realm.Valid():
		return fmt.Errorf("%s is not a realm", h.Realm)
	case h.Identity == nil || h.Identity.Value() == "":
		return errors.New("there is no identity")
	case h.Generation == 0:
		return errors.New("generation 0 is not allowed, the first is 1")
	case len(h.Key.Name) > 32 || h.Suite != SuiteCertificate && h.Key.Name == "":
		return fmt.Errorf("the key's name has %d bytes: 1 to 32 are allowed", len(h.Key.Name))
	}
	return nil
}
