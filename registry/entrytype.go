package registry

import "fmt"

// EntryType says what an entry does to its record.
type EntryType uint8

// The types of entry. Zero is no type, so that a forgotten field is refused.
const (
	Register     EntryType = 1 // the first record of a chip
	Supersede    EntryType = 2 // a record of a higher generation; the lower ones no longer hold
	Scrap        EntryType = 3 // the device is out of use; carries a statement, no record
	Erase        EntryType = 4 // a generation's record was or will be deleted; carries a statement, no record
	Certificates EntryType = 5 // the device's certificates, for everyone (PublicCertificates); where the product line opts in
)

var entryTypes = map[EntryType]string{Register: "register", Supersede: "supersede", Scrap: "scrap", Erase: "erase", Certificates: "certificates"}

// ParseEntryType reads "register", "supersede", "scrap", "erase" or "certificates".
func ParseEntryType(s string) (EntryType, error) {
	for t, name := range entryTypes {
		if name == s {
			return t, nil
		}
	}
	return 0, fmt.Errorf("entry type %q is not known: register, supersede, scrap, erase and certificates are", s)
}

// Valid reports whether t is one of the types.
func (t EntryType) Valid() bool { return t >= Register && t <= Certificates }

// HasRecord reports whether entries of the type carry a sealed record.
func (t EntryType) HasRecord() bool { return t == Register || t == Supersede }

// HasStatement reports whether they carry a statement by the identity-signing
// key in its place.
func (t EntryType) HasStatement() bool { return t == Scrap || t == Erase }

// String gives the type's name as HTTP, metrics and tables spell it.
func (t EntryType) String() string {
	if name, ok := entryTypes[t]; ok {
		return name
	}
	return fmt.Sprintf("entry type(%d)", uint8(t))
}

// MarshalText writes the type's name.
func (t EntryType) MarshalText() ([]byte, error) {
	if !t.Valid() {
		return nil, fmt.Errorf("write entry type: %s is not one", t)
	}
	return []byte(t.String()), nil
}

// UnmarshalText reads the type's name.
func (t *EntryType) UnmarshalText(b []byte) error {
	v, err := ParseEntryType(string(b))
	if err != nil {
		return err
	}
	*t = v
	return nil
}
