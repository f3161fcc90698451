package keypackage

import (
	"fmt"
	"slices"
	"strings"
)

// Algorithm is what an entry's key is used with, by its COSE number (RFC 9053).
type Algorithm int

// The algorithms that the code names. None marks an entry that is no key: a secret, or a value.
const (
	None       Algorithm = 0 // reserved in COSE; here: not a key
	AES256GCM  Algorithm = 3
	HMACSHA256 Algorithm = 5
	ES256      Algorithm = -7
	ECDH       Algorithm = -25
)

// algorithms is the table of all there are. It is the one place that an algorithm is added to, as long as its keys are of
// a use that is here: how a key is made, wrapped, kept in a token and certified follows from its use. The numbers are part
// of the formats: a row stays for ever.
var algorithms = []algorithm{
	{None, "none", UseNone},
	{AES256GCM, "aes-256-gcm", UseCipher}, // A256GCM, RFC 9053 section 4.1; 32 bytes
	{HMACSHA256, "hmac-sha-256", UseMAC},  // HMAC 256/256, RFC 9053 section 3.1; 32 bytes
	{ES256, "es256", UseSignature},        // ECDSA P-256 with SHA-256, RFC 9053 section 2.1
	{ECDH, "ecdh-p256", UseAgreement},     // ECDH-ES + HKDF-256 on P-256, RFC 9053 section 6.3.1
}

// algorithm is a row of the table.
type algorithm struct {
	number Algorithm
	name   string // in profiles and tables
	use    Use
}

// Use is what a token does with a key, and so which key it is: a token's templates, in the SPP and in the device, are by
// use, and a new one takes new templates.
type Use uint8

// The uses of keys.
const (
	UseNone      Use = 0 // not a key
	UseMAC       Use = 1 // HMAC-SHA-256 with a key of 32 bytes
	UseCipher    Use = 2 // AES with a key of 32 bytes
	UseSignature Use = 3 // ECDSA with a key pair on P-256
	UseAgreement Use = 4 // ECDH with a key pair on P-256
)

var useNames = [...]string{"no key", "MACs", "encryption", "signatures", "key agreement"}

// Symmetric reports whether it takes a secret key of 32 bytes.
func (u Use) Symmetric() bool { return u == UseMAC || u == UseCipher }

// Pair reports whether it takes a private key.
func (u Use) Pair() bool { return u == UseSignature || u == UseAgreement }

// String says what for: "signatures".
func (u Use) String() string {
	if int(u) < len(useNames) {
		return useNames[u]
	}
	return fmt.Sprintf("use %d", uint8(u))
}

// Algorithms gives the algorithms of these uses, or all, in the table's order.
func Algorithms(uses ...Use) []Algorithm {
	var all []Algorithm
	for _, r := range algorithms {
		if len(uses) == 0 || slices.Contains(uses, r.use) {
			all = append(all, r.number)
		}
	}
	return all
}

// Either lists algorithms as a sentence does: "es256 or ecdh-p256".
func Either(all []Algorithm) string { return listed(all, "or") }

func listed(all []Algorithm, last string) string {
	names := make([]string, len(all))
	for i, a := range all {
		names[i] = a.String()
	}
	if n := len(names) - 1; n > 0 {
		return strings.Join(names[:n], ", ") + " " + last + " " + names[n]
	}
	return strings.Join(names, "")
}

func (a Algorithm) row() (algorithm, bool) {
	i := slices.IndexFunc(algorithms, func(r algorithm) bool { return r.number == a })
	if i < 0 {
		return algorithm{}, false
	}
	return algorithms[i], true
}

func (a Algorithm) known() bool {
	_, ok := a.row()
	return ok
}

// Use gives what a token does with a key of the algorithm; UseNone where there is none.
func (a Algorithm) Use() Use {
	r, _ := a.row()
	return r.use
}

// Symmetric reports whether the key is a secret key of 32 bytes, vouched for
// by its check value.
func (a Algorithm) Symmetric() bool { return a.Use().Symmetric() }

// Pair reports whether the key is a private key, vouched for by its public key.
func (a Algorithm) Pair() bool { return a.Use().Pair() }

// String gives the name that profiles and tables use.
func (a Algorithm) String() string {
	if r, ok := a.row(); ok {
		return r.name
	}
	return fmt.Sprintf("algorithm %d", int(a))
}

// MarshalText writes the algorithm's name.
func (a Algorithm) MarshalText() ([]byte, error) {
	r, ok := a.row()
	if !ok {
		return nil, fmt.Errorf("write algorithm: %d is not known", int(a))
	}
	return []byte(r.name), nil
}

// UnmarshalText reads the algorithm's name.
func (a *Algorithm) UnmarshalText(b []byte) error {
	for _, r := range algorithms {
		if r.name == string(b) {
			*a = r.number
			return nil
		}
	}
	return fmt.Errorf("algorithm %q is not known: %s are", b, listed(Algorithms(), "and"))
}
