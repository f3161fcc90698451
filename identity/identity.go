package identity

import (
	"fmt"
	"strings"
)

// Type says what kind of name an identity is. The numbers are part of the
// formats and of key derivation; they never change.
type Type uint8

// The types of identity. Which one a product line uses is in its profile.
const (
	TypeIMEI   Type = 1 // 14 digits: TAC and serial number (3GPP TS 23.003)
	TypeEUI48  Type = 2 // 12 hexadecimal digits (IEEE)
	TypeEUI64  Type = 3 // 16 hexadecimal digits (IEEE)
	TypeSerial Type = 4 // enterprise number and serial (RFC 9039 §4.3)
)

var typeNames = map[Type]string{TypeIMEI: "imei", TypeEUI48: "eui48", TypeEUI64: "eui64", TypeSerial: "serial"}

// String gives the name that profiles and tables use: "imei", "eui48", …
func (t Type) String() string {
	if n, ok := typeNames[t]; ok {
		return n
	}
	return fmt.Sprintf("identity type %d", uint8(t))
}

// MarshalText writes the type's name.
func (t Type) MarshalText() ([]byte, error) {
	if _, ok := typeNames[t]; !ok {
		return nil, fmt.Errorf("write identity type: %d is not known", uint8(t))
	}
	return []byte(t.String()), nil
}

// UnmarshalText reads the type's name.
func (t *Type) UnmarshalText(b []byte) error {
	for k, n := range typeNames {
		if n == string(b) {
			*t = k
			return nil
		}
	}
	return fmt.Errorf("identity type %q is not known: imei, eui48, eui64 and serial are", b)
}

// Identity is the unique name a device is sold under. The implementations are
// comparable values: IMEI, EUI48, EUI64 and Serial.
type Identity interface {
	// Type tells which of the implementations this is.
	Type() Type
	// Value is the canonical text, the one that is stored, signed and
	// derived from: for an IMEI its 14 digits without the check digit.
	Value() string
	// URN is the name as the certificate carries it; all of one type (and,
	// for serials, of one length) have the same length.
	URN() string
	// String is the text for people: for an IMEI 15 digits.
	String() string
}

// Parse reads what a person or a file says: for an IMEI 14 digits, or 15 with
// a check digit that must be right.
func Parse(t Type, s string) (Identity, error) {
	switch t {
	case TypeIMEI:
		return ParseIMEI(s)
	case TypeEUI48:
		return ParseEUI48(s)
	case TypeEUI64:
		return ParseEUI64(s)
	case TypeSerial:
		return ParseSerial(s)
	}
	return nil, fmt.Errorf("identity %q: %s is not known", s, t)
}

// FromValue reads the canonical text and refuses every other spelling.
func FromValue(t Type, value string) (Identity, error) {
	id, err := Parse(t, value)
	if err != nil {
		return nil, err
	}
	if id.Value() != value {
		return nil, fmt.Errorf("identity %q is not in canonical form: %q is", value, id.Value())
	}
	return id, nil
}

// FromURN reads the name as a certificate carries it, in that one spelling.
func FromURN(urn string) (Identity, error) {
	for _, p := range []struct {
		prefix string
		parse  func(string) (Identity, error)
	}{
		{imeiURN, imeiFromURN},
		{euiURN, euiFromURN},
		{serialURN, func(s string) (Identity, error) { return ParseSerial(s) }},
	} {
		rest, ok := strings.CutPrefix(urn, p.prefix)
		if !ok {
			continue
		}
		id, err := p.parse(rest)
		if err != nil {
			return nil, fmt.Errorf("identity URN %q: %w", urn, err)
		}
		if id.URN() != urn {
			return nil, fmt.Errorf("identity URN %q is not in canonical form: %q is", urn, id.URN())
		}
		return id, nil
	}
	return nil, fmt.Errorf("identity URN %q: the name space is not known", urn)
}

// ParseText reads what a person types: a URN, or an IMEI with or without its check digit.
func ParseText(text string) (Identity, error) {
	if strings.HasPrefix(text, "urn:") {
		return FromURN(text)
	}
	return Parse(TypeIMEI, text)
}
