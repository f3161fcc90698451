package identity

import "fmt"

// Realm says which of two worlds an artefact belongs to. It stands in every
// artefact, key derivation context and key label, and nothing made in one
// realm is accepted in the other (docs/design.md, "What travels").
type Realm uint8

// The realms. Zero is no realm, so that a forgotten field is refused.
const (
	Development Realm = 1 // SoftHSM, test identities, demos
	Production  Realm = 2 // hardware; refuses development tokens and PINs
)

// ParseRealm reads "development" or "production".
func ParseRealm(s string) (Realm, error) {
	for _, r := range []Realm{Development, Production} {
		if s == r.String() {
			return r, nil
		}
	}
	return 0, fmt.Errorf("realm %q is not known: write %q or %q", s, Development, Production)
}

// Valid reports whether r is one of the two realms.
func (r Realm) Valid() bool { return r == Development || r == Production }

// String gives the realm's name as configuration spells it.
func (r Realm) String() string {
	switch r {
	case Development:
		return "development"
	case Production:
		return "production"
	}
	return fmt.Sprintf("realm(%d)", uint8(r))
}

// Prefix gives the prefix of every key and token label of the realm, "dev-"
// or "prod-", so that a key of the wrong realm shows by its name.
func (r Realm) Prefix() string {
	if r == Production {
		return "prod-"
	}
	return "dev-"
}

// MarshalText writes the realm's name.
func (r Realm) MarshalText() ([]byte, error) {
	if !r.Valid() {
		return nil, fmt.Errorf("write realm: %s is not a realm", r)
	}
	return []byte(r.String()), nil
}

// UnmarshalText reads the realm's name.
func (r *Realm) UnmarshalText(b []byte) error {
	v, err := ParseRealm(string(b))
	if err != nil {
		return err
	}
	*r = v
	return nil
}
