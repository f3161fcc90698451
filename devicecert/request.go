package devicecert

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509/pkix"
	"encoding/hex"
	"fmt"
	"math/big"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/statement"
)

// Request is what a certificate is to say.
type Request struct {
	Realm  identity.Realm
	Use    keypackage.Use // UseSignature or UseAgreement
	Public statement.PublicKey
	// Record is the device's record id. Nil: made in advance, and named by its key.
	Record *identity.RecordID
	// Identity is written as a URN. Nil unless the product line wants it to be
	// read by whoever sees the certificate.
	Identity identity.Identity
	// ProductLine is the profile's name, 1 to 32 characters.
	ProductLine string
	// Serial is the certificate's serial number, for callers who write it into
	// an audit log before the certificate exists ([NewSerial]). Nil: drawn.
	Serial *big.Int
}

// maxProductLine bounds the name of a product line, in bytes (X.520 allows 64).
const maxProductLine = 32

// serialSize is the length of a serial number, in bytes: the most that
// RFC 5280 §4.1.2.2 allows.
const serialSize = 20

// NewSerial draws a serial number: 158 random bits below a set one, so that
// all have one length and none is negative.
func NewSerial() (*big.Int, error) {
	var b [serialSize]byte
	if _, err := rand.Read(b[:]); err != nil {
		return nil, fmt.Errorf("draw a serial number: %w", err)
	}
	b[0] = b[0]&0x3f | 0x40
	return new(big.Int).SetBytes(b[:]), nil
}

// Subject gives the name that the certificate will carry, for the audit log.
func (r Request) Subject() pkix.Name {
	form, serial := r.subject()
	return pkix.Name{
		Organization: []string{organisation(r.Realm)}, OrganizationalUnit: []string{r.ProductLine},
		CommonName: form.commonName(), SerialNumber: hex.EncodeToString(serial[:]),
	}
}

func (r Request) subject() (form, [sha256.Size]byte) {
	if r.Record == nil {
		return formKey, r.Public.Hash()
	}
	return formRecord, *r.Record
}

func (r Request) check() error {
	switch {
	case !r.Realm.Valid():
		return fmt.Errorf("%s is no realm", r.Realm)
	case r.Public.IsZero():
		return fmt.Errorf("there is no public key")
	case !r.Use.Pair():
		return fmt.Errorf("a key for %s has no public half: those for signatures and key agreement have", r.Use)
	case r.Record != nil && *r.Record == identity.RecordID{}:
		return fmt.Errorf("the record id is zero")
	case r.Serial != nil && (r.Serial.Sign() <= 0 || r.Serial.BitLen() > 8*serialSize-1):
		return fmt.Errorf("the serial number has %d bits or is not positive: 1 to %d are allowed", r.Serial.BitLen(), 8*serialSize-1)
	}
	return checkProductLine(r.ProductLine)
}

func checkProductLine(s string) error {
	if s == "" || len(s) > maxProductLine {
		return fmt.Errorf("product line %.40q has %d characters: 1 to %d are allowed", s, len(s), maxProductLine)
	}
	for i := range len(s) {
		c := s[i]
		// A part of PrintableString, so that the name has one encoding.
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '.' {
			return fmt.Errorf("product line %q: %q is not a letter, a digit, '-' or '.'", s, c)
		}
	}
	return nil
}

// form says what the 32 bytes in subject and hardwareModuleName are. Its
// number is the last of hwType's.
type form int

const (
	formRecord form = 1 // a record id
	formKey    form = 2 // SHA-256 of the certificate's own SubjectPublicKeyInfo
)

func (f form) commonName() string {
	if f == formRecord {
		return "device record"
	}
	return "device key"
}

func organisation(r identity.Realm) string { return "Devicekeys " + r.String() }

// CACommonName gives the common name of a realm's device CA.
func CACommonName(r identity.Realm) string { return r.String() + " device CA" }
