package identity

import (
	"fmt"
	"strings"
)

// serialURN is the "os" subtype of RFC 9039 §4.4: an organisation's number and
// a serial number.
const serialURN = "urn:dev:os:"

// maxSerial bounds a serial number; the certificate's length grows with it.
const maxSerial = 32

// Serial is a maker's own serial number under its enterprise number (IANA
// PEN). Canonical text: "32473-A1B2C3", the number without leading zeros, then
// 1 to 32 capital letters, digits or '.'.
type Serial struct{ text string }

// ParseSerial reads the canonical text.
func ParseSerial(s string) (Serial, error) {
	org, serial, ok := strings.Cut(s, "-")
	if !ok {
		return Serial{}, fmt.Errorf("serial number %q: an enterprise number and a hyphen are expected before it", s)
	}
	if org == "" || len(org) > 10 || org[0] == '0' || strings.Trim(org, "0123456789") != "" {
		return Serial{}, fmt.Errorf("serial number %q: %q is not an enterprise number", s, org)
	}
	if serial == "" || len(serial) > maxSerial {
		return Serial{}, fmt.Errorf("serial number %q has %d characters: 1 to %d are allowed", s, len(serial), maxSerial)
	}
	for _, c := range serial {
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && c != '.' {
			return Serial{}, fmt.Errorf("serial number %q: %q is not a capital letter, digit or '.'", s, c)
		}
	}
	return Serial{s}, nil
}

// Type is TypeSerial.
func (s Serial) Type() Type { return TypeSerial }

// Value gives the canonical text.
func (s Serial) Value() string { return s.text }

// URN gives the name of RFC 9039: "urn:dev:os:32473-A1B2C3".
func (s Serial) URN() string { return serialURN + s.text }

// String gives the canonical text.
func (s Serial) String() string { return s.text }
