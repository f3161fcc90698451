package keypackage

import (
	"bytes"
	"crypto/sha256"
	"fmt"

	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/identity"
)

// Manifest says in clear what one device has, in one generation. The identity
// certificate holds its hash.
type Manifest struct {
	Realm      identity.Realm
	Identity   identity.Identity
	ChipID     identity.ChipID
	Generation identity.Generation
	Entries    []Entry // 1 to MaxEntries, names unique
}

// MaxEntries is the most entries of a device.
const MaxEntries = 32

// MaxManifest bounds an encoded manifest, in bytes.
const MaxManifest = 32 << 10

const manifestVersion = 1

type manifestWire struct {
	_            struct{} `cbor:",toarray"`
	Version      uint
	Realm        identity.Realm
	IdentityType identity.Type
	Identity     string
	ChipID       []byte
	Generation   identity.Generation
	Entries      []Entry
}

// Encode gives the manifest's one encoding.
func (m Manifest) Encode() ([]byte, error) {
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("encode manifest: %w", err)
	}
	b, err := detcbor.Marshal(manifestWire{
		Version: manifestVersion, Realm: m.Realm, IdentityType: m.Identity.Type(), Identity: m.Identity.Value(),
		ChipID: m.ChipID.Bytes(), Generation: m.Generation, Entries: m.Entries,
	})
	if err == nil && len(b) > MaxManifest {
		return nil, fmt.Errorf("encode manifest: %d bytes, at most %d are allowed", len(b), MaxManifest)
	}
	return b, err
}

// ParseManifest reads the one encoding of a manifest and checks every entry.
func ParseManifest(b []byte) (Manifest, error) {
	var w manifestWire
	if err := detcbor.Unmarshal(b, &w, MaxManifest); err != nil {
		return Manifest{}, fmt.Errorf("read manifest: %w", err)
	}
	if w.Version != manifestVersion {
		return Manifest{}, fmt.Errorf("read manifest: version %d is not known", w.Version)
	}
	id, err := identity.FromValue(w.IdentityType, w.Identity)
	if err != nil {
		return Manifest{}, fmt.Errorf("read manifest: %w", err)
	}
	chip, err := identity.ParseChipID(w.ChipID)
	if err != nil {
		return Manifest{}, fmt.Errorf("read manifest: %w", err)
	}
	m := Manifest{Realm: w.Realm, Identity: id, ChipID: chip, Generation: w.Generation, Entries: w.Entries}
	if err := m.check(); err != nil {
		return Manifest{}, fmt.Errorf("read manifest: %w", err)
	}
	return m, nil
}

func (m Manifest) check() error {
	switch {
	case !m.Realm.Valid():
		return fmt.Errorf("%s is not a realm", m.Realm)
	case m.Identity == nil || m.Identity.Value() == "":
		return fmt.Errorf("there is no identity")
	case m.ChipID.IsZero():
		return fmt.Errorf("there is no chip ID")
	case m.Generation == 0:
		return fmt.Errorf("generation 0 is not allowed, the first is 1")
	case len(m.Entries) == 0 || len(m.Entries) > MaxEntries:
		return fmt.Errorf("%d entries: 1 to %d are allowed", len(m.Entries), MaxEntries)
	}
	seen, points := map[string]bool{}, map[string]string{}
	for i, e := range m.Entries {
		if err := e.check(); err != nil {
			return fmt.Errorf("entry %d: %w", i+1, err)
		}
		if seen[e.Key.Name] {
			return fmt.Errorf("entry %d: the name %q stands twice", i+1, e.Key.Name)
		}
		seen[e.Key.Name] = true
		if e.Form() != FormPair {
			continue
		}
		// Signing and key agreement are two keys, and so are any two entries.
		if name, twice := points[string(e.Vouch)]; twice {
			return fmt.Errorf("entry %d: %q has the public key of %q", i+1, e.Key.Name, name)
		}
		points[string(e.Vouch)] = e.Key.Name
	}
	return nil
}

// Wrapped gives the indexes of the entries that travel as wrapped keys, in
// the order in which they travel.
func (m Manifest) Wrapped() []int { return m.indexes(FormKey, FormPair) }

// Secrets gives the indexes of the entries that travel as secrets, in the
// order in which they travel.
func (m Manifest) Secrets() []int { return m.indexes(FormSecret) }

func (m Manifest) indexes(forms ...Form) []int {
	var out []int
	for i, e := range m.Entries {
		for _, f := range forms {
			if e.Form() == f {
				out = append(out, i)
			}
		}
	}
	return out
}

// Proving gives the index of the key that authenticates the device's messages
// on the line: the first communication key, else the first symmetric HMAC key.
// A line with pairs only signs instead; it has none, and ok is false.
func (m Manifest) Proving() (index int, ok bool) {
	for i, e := range m.Entries {
		if e.Kind == Communication && e.Algorithm == HMACSHA256 {
			return i, true
		}
	}
	for i, e := range m.Entries {
		if e.Form() == FormKey && e.Algorithm == HMACSHA256 {
			return i, true
		}
	}
	return 0, false
}

// Match tells whether a manifest is the one that a certificate vouches for:
// same hash, realm, identity, chip and generation.
func (m Manifest) Match(encoded []byte, c identity.Certificate) error {
	hash := sha256.Sum256(encoded)
	switch {
	case !bytes.Equal(hash[:], c.Manifest[:]):
		return fmt.Errorf("manifest is not the one that the certificate vouches for")
	case m.Realm != c.Realm:
		return fmt.Errorf("manifest is of realm %s, certificate of %s", m.Realm, c.Realm)
	case m.Identity.URN() != c.Subject.URN():
		return fmt.Errorf("manifest is for identity %s, certificate for %s", m.Identity, c.Subject)
	case m.ChipID != c.ChipID:
		return fmt.Errorf("manifest and certificate are for different chips")
	case m.Generation != c.Generation:
		return fmt.Errorf("manifest is of generation %d, certificate of %d", m.Generation, c.Generation)
	}
	return nil
}

// Commitment vouches for a secret that is no key: SHA-256("dk-secret" ‖ 32
// random bytes ‖ secret). The random bytes travel with the secret, since a
// SIM-lock code alone could be guessed from its hash.
func Commitment(random [32]byte, secret []byte) [sha256.Size]byte {
	h := sha256.New()
	h.Write([]byte("dk-secret"))
	h.Write(random[:])
	h.Write(secret)
	return [sha256.Size]byte(h.Sum(nil))
}
