package keypackage

import (
	"crypto/sha256"
	"fmt"

	"github.com/devicekeys/devicekeys/statement"
)

// Kind says what an entry is for. The numbers are part of the formats.
type Kind uint8

// The kinds of entry.
const (
	Communication Kind = 1 // key of the secure channel with the device service
	KeyPair       Kind = 2 // private key whose certificate others hold
	DRM           Kind = 3 // a licensor's key or secret
	SIMLock       Kind = 4 // a code that unlocks the device for other networks
	Opaque        Kind = 5 // anything else the product line gives its devices
)

var kindNames = map[Kind]string{Communication: "communication", KeyPair: "key-pair", DRM: "drm", SIMLock: "sim-lock", Opaque: "opaque"}

// String gives the name that profiles and tables use.
func (k Kind) String() string {
	if n, ok := kindNames[k]; ok {
		return n
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// MarshalText writes the kind's name.
func (k Kind) MarshalText() ([]byte, error) {
	if _, ok := kindNames[k]; !ok {
		return nil, fmt.Errorf("write kind of entry: %d is not known", uint8(k))
	}
	return []byte(k.String()), nil
}

// UnmarshalText reads the kind's name.
func (k *Kind) UnmarshalText(b []byte) error {
	for v, n := range kindNames {
		if n == string(b) {
			*k = v
			return nil
		}
	}
	return fmt.Errorf("kind of entry %q is not known: communication, key-pair, drm, sim-lock and opaque are", b)
}

// KeyID names an entry within its device: what it is called and, for a key
// that was derived from the master key, how, so that the key can be derived
// again without asking the device.
type KeyID struct {
	_       struct{} `cbor:",toarray"`
	Name    string   // unique in the manifest; for a derived key its purpose ("channel", "drm")
	KDF     uint8    // 1 or 2; 0 for an entry that was not derived
	Version uint32   // master key version, from 1; 0 for an entry that was not derived
}

// String gives "channel/1.1": name, KDF and master version.
func (k KeyID) String() string {
	if k.KDF == 0 {
		return k.Name
	}
	return fmt.Sprintf("%s/%d.%d", k.Name, k.KDF, k.Version)
}

// Derived reports whether the key is a function of the master key.
func (k KeyID) Derived() bool { return k.KDF != 0 }

// Entry is one line of the manifest: what the device has and what vouches for
// it. The wire form is an array of five.
type Entry struct {
	_         struct{} `cbor:",toarray"`
	Kind      Kind
	Key       KeyID
	Algorithm Algorithm
	Clear     bool   // the value stands here, for everyone to read
	Vouch     []byte // see Form; for a clear entry, the value itself
}

// Limits of an entry.
const (
	maxName   = 32
	MaxSecret = 4096 // bytes of a secret or clear value
)

// SymmetricSize is the length in bytes of every symmetric key of a package.
const SymmetricSize = 32

// Form says how an entry travels.
type Form uint8

// The forms of an entry, decided by its algorithm and its clear mark.
const (
	FormKey    Form = 1 // symmetric key: wrapped, 40 bytes; vouched for by HMAC-SHA-256 under itself
	FormPair   Form = 2 // private key: wrapped, 80 bytes; vouched for by its public point
	FormSecret Form = 3 // other secret: encrypted with 32 random bytes; vouched for by a commitment
	FormClear  Form = 4 // value in the manifest
)

// Form gives the entry's form.
func (e Entry) Form() Form {
	switch {
	case e.Clear:
		return FormClear
	case e.Algorithm.Symmetric():
		return FormKey
	case e.Algorithm.Pair():
		return FormPair
	}
	return FormSecret
}

// WrappedSize gives the length in bytes of the entry's wrapped key (AES-KW,
// RFC 3394: eight bytes more than the key; a P-256 private key is wrapped as
// the 72 bytes of its padded PrivateKeyInfo), or 0 where it is none.
func (e Entry) WrappedSize() int {
	switch e.Form() {
	case FormKey:
		return SymmetricSize + 8
	case FormPair:
		return 80
	}
	return 0
}

func (e Entry) check() error {
	if _, ok := kindNames[e.Kind]; !ok {
		return fmt.Errorf("%s is not known", e.Kind)
	}
	if !e.Algorithm.known() {
		return fmt.Errorf("%s is not known", e.Algorithm)
	}
	if err := checkName(e.Key.Name); err != nil {
		return err
	}
	if (e.Key.KDF == 0) != (e.Key.Version == 0) || e.Key.KDF > 2 {
		return fmt.Errorf("KDF %d with master version %d: both are 0, or the KDF is 1 or 2 and the version at least 1", e.Key.KDF, e.Key.Version)
	}
	if e.Key.Derived() && !e.Algorithm.Symmetric() {
		return fmt.Errorf("a derived key is symmetric, %s is not", e.Algorithm)
	}
	switch e.Kind {
	case Communication:
		if !e.Algorithm.Symmetric() {
			return fmt.Errorf("a communication key is symmetric, %s is not", e.Algorithm)
		}
	case KeyPair:
		if !e.Algorithm.Pair() {
			return fmt.Errorf("a key pair has algorithm %s, not %s", Either(Algorithms(UseSignature, UseAgreement)), e.Algorithm)
		}
	case SIMLock, Opaque:
		if e.Algorithm != None {
			return fmt.Errorf("a %s entry is no key, its algorithm is none", e.Kind)
		}
	case DRM:
		if e.Algorithm.Pair() {
			return fmt.Errorf("a drm entry is a symmetric key or a secret; a private key is a key-pair entry")
		}
	}
	switch e.Form() {
	case FormClear:
		if e.Algorithm != None {
			return fmt.Errorf("a symmetric or private key is never clear")
		}
		if len(e.Vouch) == 0 || len(e.Vouch) > MaxSecret {
			return fmt.Errorf("clear value of %d bytes: 1 to %d are allowed", len(e.Vouch), MaxSecret)
		}
	case FormPair:
		if _, err := statement.ParsePoint(e.Vouch); err != nil {
			return err
		}
	default:
		if len(e.Vouch) != sha256.Size {
			return fmt.Errorf("check value of %d bytes: %d are expected", len(e.Vouch), sha256.Size)
		}
	}
	return nil
}

func checkName(n string) error {
	if n == "" || len(n) > maxName {
		return fmt.Errorf("entry name %q has %d characters: 1 to %d are allowed", n, len(n), maxName)
	}
	for _, c := range n {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return fmt.Errorf("entry name %q: %q is not a lower-case letter, digit or hyphen", n, c)
		}
	}
	return nil
}
