package identity

import (
	"encoding/hex"
	"fmt"
	"strings"
)

// euiURN is the "mac" subtype of RFC 9039 §4.1: an EUI-64 in lower-case
// hexadecimal; an EUI-48 is written with ff:fe in its middle.
const euiURN = "urn:dev:mac:"

// EUI48 is an IEEE 48-bit identifier of a network interface, individual (not
// a group address). Canonical text: 12 lower-case hexadecimal digits.
type EUI48 struct{ hex string }

// EUI64 is an IEEE 64-bit identifier, individual. Canonical text: 16
// lower-case hexadecimal digits. One with fffe in its middle would read as an
// EUI-48 in a URN and is refused.
type EUI64 struct{ hex string }

// ParseEUI48 reads 12 hexadecimal digits, bare or in pairs joined by ':' or '-'.
func ParseEUI48(s string) (EUI48, error) {
	h, err := euiHex(s, 6)
	return EUI48{h}, err
}

// ParseEUI64 reads 16 hexadecimal digits, bare or in pairs joined by ':' or '-'.
func ParseEUI64(s string) (EUI64, error) {
	h, err := euiHex(s, 8)
	if err == nil && h[6:10] == "fffe" {
		return EUI64{}, fmt.Errorf("EUI-64 %q maps an EUI-48: give the 12 digits of the EUI-48", s)
	}
	return EUI64{h}, err
}

func euiHex(s string, n int) (string, error) {
	digits := s
	for _, sep := range []string{":", "-"} {
		if p := strings.Split(s, sep); len(p) == n {
			digits = strings.Join(p, "")
			for _, q := range p {
				if len(q) != 2 {
					return "", fmt.Errorf("EUI %q: pairs of digits are expected between %q", s, sep)
				}
			}
		}
	}
	digits = strings.ToLower(digits)
	b, err := hex.DecodeString(digits)
	if err != nil || len(b) != n {
		return "", fmt.Errorf("EUI %q: %d hexadecimal digits are expected", s, 2*n)
	}
	if b[0]&1 != 0 {
		return "", fmt.Errorf("EUI %q is a group address: a device needs an individual one", s)
	}
	if strings.Trim(digits, "0") == "" {
		return "", fmt.Errorf("EUI %q is all zero", s)
	}
	return digits, nil
}

func euiFromURN(rest string) (Identity, error) {
	if len(rest) == 16 && rest[6:10] == "fffe" {
		return ParseEUI48(rest[:6] + rest[10:])
	}
	return ParseEUI64(rest)
}

// Type is TypeEUI48.
func (e EUI48) Type() Type { return TypeEUI48 }

// Value gives the 12 digits.
func (e EUI48) Value() string { return e.hex }

// URN gives the name of RFC 9039, 28 characters.
func (e EUI48) URN() string { return euiURN + e.hex[:6] + "fffe" + e.hex[6:] }

// String gives pairs of digits with colons.
func (e EUI48) String() string { return pairs(e.hex) }

// Type is TypeEUI64.
func (e EUI64) Type() Type { return TypeEUI64 }

// Value gives the 16 digits.
func (e EUI64) Value() string { return e.hex }

// URN gives the name of RFC 9039, 28 characters.
func (e EUI64) URN() string { return euiURN + e.hex }

// String gives pairs of digits with colons.
func (e EUI64) String() string { return pairs(e.hex) }

func pairs(h string) string {
	var p []string
	for ; len(h) >= 2; h = h[2:] {
		p = append(p, h[:2])
	}
	return strings.Join(p, ":")
}
