package identity

import (
	"fmt"
	"strings"
)

// IMEI is an International Mobile Equipment Identity without its check digit:
// 8 digits of type allocation code (TAC) and 6 of serial number
// (3GPP TS 23.003 §6.2.1). The Luhn digit is computed for people and checked
// when they write it; it is never stored and no key is derived from it, so
// that one phone cannot get two keys.
type IMEI struct{ digits string }

// imeiURN is the name space of RFC 7254.
const imeiURN = "urn:gsma:imei:"

// ParseIMEI reads 14 digits, or 15 of which the last is the check digit.
// Sixteen digits are an IMEISV, a software version's name, and are refused.
func ParseIMEI(s string) (IMEI, error) {
	for i, c := range s {
		if c < '0' || c > '9' {
			return IMEI{}, fmt.Errorf("IMEI %q: character %d is %q, only digits are allowed", s, i+1, c)
		}
	}
	switch len(s) {
	case 14:
		return IMEI{s}, nil
	case 15:
		if want := luhn(s[:14]); s[14] != want {
			return IMEI{}, fmt.Errorf("IMEI %q: check digit is %c, it should be %c: look for a mistyped digit", s, s[14], want)
		}
		return IMEI{s[:14]}, nil
	case 16:
		return IMEI{}, fmt.Errorf("IMEI %q has 16 digits: that is an IMEISV; leave out the software version", s)
	}
	return IMEI{}, fmt.Errorf("IMEI %q has %d digits: 14, or 15 with the check digit, are expected", s, len(s))
}

func imeiFromURN(rest string) (Identity, error) {
	// RFC 7254 §4.2: TAC "-" SNR "-" spare digit, which is always 0.
	p := strings.Split(rest, "-")
	if len(p) != 3 || len(p[0]) != 8 || len(p[1]) != 6 || p[2] != "0" {
		return nil, fmt.Errorf("an IMEI is written as 8 digits, 6 digits and 0, with hyphens between (RFC 7254)")
	}
	return ParseIMEI(p[0] + p[1])
}

// Type is TypeIMEI.
func (i IMEI) Type() Type { return TypeIMEI }

// Value gives the 14 digits.
func (i IMEI) Value() string { return i.digits }

// URN gives the name of RFC 7254, 31 characters: "urn:gsma:imei:35420900-000001-0".
// Its last digit is the spare digit, not the check digit.
func (i IMEI) URN() string { return imeiURN + i.digits[:8] + "-" + i.digits[8:] + "-0" }

// String gives 15 digits, check digit last, as printed on the box.
func (i IMEI) String() string {
	if i.digits == "" {
		return ""
	}
	return i.digits + string(luhn(i.digits))
}

// TAC gives the type allocation code, "35420900".
func (i IMEI) TAC() TAC { return TAC(i.digits[:8]) }

// Serial gives the serial number, 0 to 999999.
func (i IMEI) Serial() int {
	n := 0
	for _, c := range i.digits[8:] {
		n = n*10 + int(c-'0')
	}
	return n
}

// TAC is a type allocation code: eight digits, the first two naming the
// reporting body. Body 00 is for test equipment (GSMA TS.06).
type TAC string

// ParseTAC reads eight digits.
func ParseTAC(s string) (TAC, error) {
	if len(s) != 8 {
		return "", fmt.Errorf("TAC %q has %d characters: 8 digits are expected", s, len(s))
	}
	for _, c := range s {
		if c < '0' || c > '9' {
			return "", fmt.Errorf("TAC %q: %q is not a digit", s, c)
		}
	}
	return TAC(s), nil
}

// IMEI gives the identity of this TAC with the given serial number.
func (t TAC) IMEI(serial int) (IMEI, error) {
	if _, err := ParseTAC(string(t)); err != nil {
		return IMEI{}, err
	}
	if serial < 0 || serial > 999999 {
		return IMEI{}, fmt.Errorf("serial number %d of TAC %s: 0 to 999999 are allowed", serial, t)
	}
	return IMEI{fmt.Sprintf("%s%06d", t, serial)}, nil
}

// Test reports whether the TAC is of the range reserved for test equipment.
func (t TAC) Test() bool { return strings.HasPrefix(string(t), "00") }

// luhn computes the check digit of 3GPP TS 23.003 annex B: double every second
// digit from the right, add the digits of all, complete to a multiple of ten.
func luhn(digits string) byte {
	sum := 0
	for i := 0; i < len(digits); i++ {
		d := int(digits[len(digits)-1-i] - '0')
		if i%2 == 0 {
			d *= 2
			if d > 9 {
				d -= 9
			}
		}
		sum += d
	}
	return byte('0' + (10-sum%10)%10)
}
