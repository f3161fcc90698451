package devicecert

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/statement"
)

// extension is one of a certificate's, with the one value that it may have.
type extension struct {
	id       asn1.ObjectIdentifier
	name     string
	critical bool
	value    []byte // DER; nil: read by readNames
}

// extensions gives those of a certificate by its key's use, by their encoding
// and not by what crypto/x509 reads in them.
func extensions(c Certificate) ([]extension, error) {
	ski := keyIdentifier(c.Public)
	subject, err := asn1.Marshal(ski[:])
	if err != nil {
		return nil, err
	}
	issuer, err := asn1.Marshal(struct {
		ID []byte `asn1:"tag:0"`
	}{c.X509.AuthorityKeyId})
	if err != nil {
		return nil, err
	}
	usage := []byte{0x03, 0x02, 0x07, 0x80} // digitalSignature, bit 0
	if c.Use == keypackage.UseAgreement {
		usage = []byte{0x03, 0x02, 0x03, 0x08} // keyAgreement, bit 4
	}
	all := []extension{
		{asn1.ObjectIdentifier{2, 5, 29, 15}, "keyUsage", true, usage},
		{asn1.ObjectIdentifier{2, 5, 29, 19}, "basicConstraints", true, []byte{0x30, 0x00}},
		{asn1.ObjectIdentifier{2, 5, 29, 14}, "subjectKeyIdentifier", false, subject},
		{asn1.ObjectIdentifier{2, 5, 29, 35}, "authorityKeyIdentifier", false, issuer},
		{oidAltName, "subjectAltName", false, nil},
	}
	if c.Use == keypackage.UseSignature {
		all = append(all, extension{asn1.ObjectIdentifier{2, 5, 29, 37}, "extKeyUsage", false, extKeyUsage})
	}
	return all, nil
}

// extKeyUsage is id-kp-clientAuth and id-kp-serverAuth (RFC 5280 §4.2.1.12).
var extKeyUsage = []byte{
	0x30, 0x14, 0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02,
	0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01,
}

// parse reads a certificate and checks all of the profile but the signature. A
// nil arc is any.
func parse(der []byte, realm identity.Realm, arc asn1.ObjectIdentifier) (Certificate, error) {
	var none Certificate
	if len(der) == 0 || len(der) > MaxCertificate {
		return none, fmt.Errorf("%d bytes: 1 to %d are read", len(der), MaxCertificate)
	}
	x, err := x509.ParseCertificate(der)
	if err != nil {
		return none, err
	}
	c := Certificate{Realm: realm, IssuedAt: x.NotBefore.UTC(), X509: x}
	if c.Public, err = publicOf(x); err != nil {
		return none, err
	}
	if !bytes.Equal(x.RawSubjectPublicKeyInfo, c.Public.SPKI()) {
		return none, errors.New("its public key is encoded in another way than ours")
	}
	c.KeyHash = c.Public.Hash()
	switch x.KeyUsage {
	case x509.KeyUsageDigitalSignature:
		c.Use = keypackage.UseSignature
	case x509.KeyUsageKeyAgreement:
		c.Use = keypackage.UseAgreement
	default:
		return none, fmt.Errorf("its key usage is %#x: digitalSignature or keyAgreement alone is expected", int(x.KeyUsage))
	}
	if err := checkFrame(x); err != nil {
		return none, err
	}
	value, err := checkExtensions(c)
	if err != nil {
		return none, err
	}
	if err := c.readNames(value, realm, arc); err != nil {
		return none, err
	}
	return c, nil
}

// checkFrame checks the fields that all certificates have alike.
func checkFrame(x *x509.Certificate) error {
	switch {
	case x.Version != 3:
		return fmt.Errorf("its version is %d, not 3", x.Version)
	case x.SignatureAlgorithm != x509.ECDSAWithSHA256:
		return fmt.Errorf("it is signed with %s, not with %s", x.SignatureAlgorithm, x509.ECDSAWithSHA256)
	case x.SerialNumber.Sign() <= 0 || x.SerialNumber.BitLen() > 8*serialSize-1:
		return errors.New("its serial number is not positive or longer than 20 bytes (RFC 5280 section 4.1.2.2)")
	case !x.NotAfter.Equal(noExpiry):
		return fmt.Errorf("it ends at %s, not at 99991231235959Z", x.NotAfter.UTC().Format(time.RFC3339))
	case len(x.AuthorityKeyId) == 0:
		return errors.New("it names no issuer's key")
	}
	return nil
}

// checkExtensions checks that exactly ours are there, and gives the value of
// subjectAltName.
func checkExtensions(c Certificate) (altName []byte, err error) {
	all, err := extensions(c)
	if err != nil {
		return nil, err
	}
	for _, want := range all {
		i := slices.IndexFunc(c.X509.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(want.id) })
		if i < 0 {
			return nil, fmt.Errorf("extension %s is missing", want.name)
		}
		e := c.X509.Extensions[i]
		switch {
		case e.Critical != want.critical:
			return nil, fmt.Errorf("extension %s: critical is %t", want.name, e.Critical)
		case want.value == nil:
			altName = e.Value
		case !bytes.Equal(e.Value, want.value):
			return nil, fmt.Errorf("extension %s is %x, expected is %x", want.name, e.Value, want.value)
		}
	}
	if len(c.X509.Extensions) != len(all) { // crypto/x509 refuses one that stands twice
		return nil, fmt.Errorf("%d extensions, %d are expected", len(c.X509.Extensions), len(all))
	}
	return altName, nil
}

// readNames reads subject and subjectAltName, which must agree.
func (c *Certificate) readNames(value []byte, realm identity.Realm, arc asn1.ObjectIdentifier) error {
	name, urn, err := parseAltName(value)
	if err != nil {
		return err
	}
	if len(name.Serial) != sha256.Size {
		return fmt.Errorf("hwSerialNum has %d bytes, %d are expected", len(name.Serial), sha256.Size)
	}
	if last := len(name.Type) - 1; arc == nil && last > 0 {
		arc = name.Type[:last]
	}
	r := Request{Realm: realm, Use: c.Use, Public: c.Public}
	switch {
	case name.Type.Equal(formRecord.hardwareType(arc)):
		id := identity.RecordID(name.Serial)
		c.Record, r.Record = &id, &id
	case !name.Type.Equal(formKey.hardwareType(arc)):
		return fmt.Errorf("hwType is %s: %s or %s is expected", name.Type, formRecord.hardwareType(arc), formKey.hardwareType(arc))
	case [sha256.Size]byte(name.Serial) != c.KeyHash:
		return errors.New("hwSerialNum is not the hash of its key")
	}
	if units := c.X509.Subject.OrganizationalUnit; len(units) == 1 {
		r.ProductLine = units[0]
	}
	if err := r.check(); err != nil {
		return err
	}
	c.ProductLine = r.ProductLine
	want, err := asn1.Marshal(r.Subject().ToRDNSequence())
	if err != nil {
		return err
	}
	if !bytes.Equal(want, c.X509.RawSubject) {
		return fmt.Errorf("its subject is %q, expected is %q: of another realm, perhaps, or of another profile", c.X509.Subject, r.Subject())
	}
	if urn == "" {
		return nil
	}
	if c.Identity, err = identity.FromURN(urn); err != nil {
		return err
	}
	return nil
}

// keyIdentifier is method 1 of RFC 7093 §2: the first 160 bits of SHA-256 of
// the key's bytes.
func keyIdentifier(k statement.PublicKey) [20]byte {
	h := sha256.Sum256(k.Point())
	return [20]byte(h[:20])
}
