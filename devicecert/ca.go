package devicecert

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/devicekeys/devicekeys/identity"
)

const (
	// caLife is how long a self-signed CA may sign, in years. Its devices outlive it.
	caLife = 30
	// caBackdate lets machines whose clocks lag a little take a new CA at once.
	caBackdate = 5 * time.Minute
	// MaxRoots is the most CAs trusted at a time.
	MaxRoots = 64
	// maxRootsPEM bounds a file of roots, in bytes.
	maxRootsPEM = MaxRoots * 4096
)

// SelfSigned makes the certificate of a device CA, signed by itself: for
// development and tests. A maker's is made by custodian setup, in the same
// form. The organisation is the maker's name.
func SelfSigned(realm identity.Realm, organisation string, signer crypto.Signer) (*x509.Certificate, error) {
	fail := func(err error) (*x509.Certificate, error) { return nil, fmt.Errorf("make a device CA: %w", err) }
	if !realm.Valid() {
		return fail(fmt.Errorf("%s is no realm", realm))
	}
	serial, err := NewSerial()
	if err != nil {
		return fail(err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{Organization: []string{organisation}, CommonName: CACommonName(realm)},
		NotBefore: now.Add(-caBackdate), NotAfter: now.AddDate(caLife, 0, 0),
		BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true, // it signs devices only
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, SignatureAlgorithm: x509.ECDSAWithSHA256,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, signer.Public(), signer)
	if err != nil {
		return fail(err)
	}
	ca, err := x509.ParseCertificate(der)
	if err != nil {
		return fail(err)
	}
	if _, err := checkCA(ca); err != nil {
		return fail(err)
	}
	return ca, nil
}

// checkCA checks the certificate of a device CA and tells its realm.
func checkCA(ca *x509.Certificate) (identity.Realm, error) {
	if ca == nil {
		return 0, errors.New("there is no CA certificate")
	}
	var realm identity.Realm
	for _, r := range []identity.Realm{identity.Development, identity.Production} {
		if ca.Subject.CommonName == CACommonName(r) {
			realm = r
		}
	}
	if _, err := publicOf(ca); err != nil {
		return 0, fmt.Errorf("CA certificate: %w", err)
	}
	switch {
	case realm == 0:
		return 0, fmt.Errorf("CA certificate %q names no realm: its common name must be %q or %q", ca.Subject,
			CACommonName(identity.Development), CACommonName(identity.Production))
	case !ca.BasicConstraintsValid || !ca.IsCA || !ca.MaxPathLenZero || ca.KeyUsage&x509.KeyUsageCertSign == 0:
		return 0, fmt.Errorf("CA certificate %q is not one of a CA that signs devices directly (pathlen 0, keyCertSign)", ca.Subject)
	case len(ca.SubjectKeyId) == 0:
		return 0, fmt.Errorf("CA certificate %q has no subject key identifier", ca.Subject)
	}
	if err := ca.CheckSignatureFrom(ca); err != nil {
		return 0, fmt.Errorf("CA certificate %q is not signed by itself: %w", ca.Subject, err)
	}
	return realm, nil
}

// Roots are the device CAs of a realm that someone trusts. They are read-only
// and safe for concurrent use.
type Roots struct {
	realm identity.Realm
	arc   asn1.ObjectIdentifier
	pool  *x509.CertPool
}

// NewRoots trusts some CAs, at least one, all of the realm.
func NewRoots(realm identity.Realm, cas ...*x509.Certificate) (*Roots, error) {
	return NewRootsWithArc(realm, DefaultArc(), cas...)
}

// NewRootsWithArc is NewRoots for a maker with an arc of his own for hwType.
func NewRootsWithArc(realm identity.Realm, arc asn1.ObjectIdentifier, cas ...*x509.Certificate) (*Roots, error) {
	if !realm.Valid() || len(cas) == 0 || len(cas) > MaxRoots {
		return nil, fmt.Errorf("device CAs: %d certificates of the %s realm: 1 to %d of a known realm are expected", len(cas), realm, MaxRoots)
	}
	if err := checkArc(arc); err != nil {
		return nil, fmt.Errorf("device CAs: %w", err)
	}
	r := &Roots{realm: realm, arc: slices.Clone(arc), pool: x509.NewCertPool()}
	for _, ca := range cas {
		of, err := checkCA(ca)
		if err != nil {
			return nil, fmt.Errorf("device CAs: %w", err)
		}
		if of != realm {
			return nil, fmt.Errorf("device CAs: %q is of the %s realm, the devices of the %s one", ca.Subject, of, realm)
		}
		r.pool.AddCert(ca)
	}
	return r, nil
}

// ParseRoots reads the CAs of a realm from PEM, one after the other: the file
// that custodian setup publishes, or several of them.
func ParseRoots(realm identity.Realm, text []byte) (*Roots, error) {
	if len(text) > maxRootsPEM {
		return nil, fmt.Errorf("read device CAs: %d bytes: at most %d are read", len(text), maxRootsPEM)
	}
	cas, err := ParsePEM(text)
	if err != nil {
		return nil, fmt.Errorf("read device CAs: %w", err)
	}
	for _, ca := range cas {
		if _, ok := ca.PublicKey.(*ecdsa.PublicKey); !ok {
			return nil, fmt.Errorf("read device CAs: %q has a %T, an EC P-256 key is expected", ca.Subject, ca.PublicKey)
		}
	}
	return NewRoots(realm, cas...)
}

// Realm is the realm of the CAs.
func (r *Roots) Realm() identity.Realm { return r.realm }
