package devicecert

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/statement"
)

// Authority is a realm's device CA: its certificate, and its key in an HSM.
// It is safe for concurrent use if the signer is.
type Authority struct {
	ca     *x509.Certificate
	signer crypto.Signer
	roots  *Roots // this CA alone
	realm  identity.Realm
	arc    asn1.ObjectIdentifier
	now    func() time.Time

	// trial signs what is linted. It is nobody's key: drawn by New, kept nowhere.
	trial   *ecdsa.PrivateKey
	trialCA *x509.Certificate // ca with trial's public key
}

// noExpiry is the end of validity of what has none (RFC 5280 §4.1.2.5).
var noExpiry = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)

// New makes the authority of a CA certificate, as custodian setup publishes
// it, and the signer of its key. The certificate names the realm.
func New(ca *x509.Certificate, signer crypto.Signer) (*Authority, error) {
	return NewWithArc(ca, signer, DefaultArc())
}

// NewWithArc is New for a maker with an arc of his own for hwType.
func NewWithArc(ca *x509.Certificate, signer crypto.Signer, arc asn1.ObjectIdentifier) (*Authority, error) {
	fail := func(err error) (*Authority, error) { return nil, fmt.Errorf("device CA: %w", err) }
	if signer == nil {
		return fail(errors.New("there is no signer"))
	}
	realm, err := checkCA(ca)
	if err != nil {
		return fail(err)
	}
	if !ca.PublicKey.(*ecdsa.PublicKey).Equal(signer.Public()) {
		return fail(errors.New("the certificate is of another key than the signer: name the certificate that custodian setup made for this token"))
	}
	roots, err := NewRootsWithArc(realm, arc, ca)
	if err != nil {
		return fail(err)
	}
	trial, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fail(err)
	}
	trialCA := *ca
	trialCA.PublicKey = &trial.PublicKey
	return &Authority{ca: ca, signer: signer, roots: roots, realm: realm, arc: slices.Clone(arc), now: time.Now, trial: trial, trialCA: &trialCA}, nil
}

// Realm is the realm that the authority signs for.
func (a *Authority) Realm() identity.Realm { return a.realm }

// Certify makes a certificate and gives its DER. It is one signature in the
// HSM. What is signed has been checked first: the same certificate, signed by
// a key that is nobody's, is read back and must be one of the profile that
// says what was asked for. What was signed is verified before it is returned.
// The caller has written the act into the audit log.
func (a *Authority) Certify(ctx context.Context, r Request) ([]byte, error) {
	der, err := a.certify(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("certify a device key: %w", err)
	}
	return der, nil
}

func (a *Authority) certify(ctx context.Context, r Request) ([]byte, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	if r.Realm != a.realm {
		return nil, fmt.Errorf("the device is of the %s realm, and the CA of the %s one", r.Realm, a.realm)
	}
	template, err := a.template(r)
	if err != nil {
		return nil, err
	}
	public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), r.Public.Point())
	if err != nil {
		return nil, err
	}
	tried, err := x509.CreateCertificate(rand.Reader, template, a.trialCA, public, a.trial)
	if err != nil {
		return nil, err
	}
	trial, err := a.lint(tried, r)
	if err != nil {
		return nil, fmt.Errorf("it would not be a certificate of the profile: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.ca, public, a.signer)
	if err != nil {
		return nil, err
	}
	c, err := Check(der, a.roots, Want{At: a.now(), Use: r.Use, Public: r.Public, Record: r.Record, Identity: r.Identity})
	if err != nil {
		return nil, fmt.Errorf("what the token signed does not hold, stop using it: %w", err)
	}
	if !bytes.Equal(c.X509.RawTBSCertificate, trial.X509.RawTBSCertificate) {
		return nil, errors.New("what was signed is not what was checked")
	}
	return der, nil
}

func (a *Authority) template(r Request) (*x509.Certificate, error) {
	serial := r.Serial
	if serial == nil {
		var err error
		if serial, err = NewSerial(); err != nil {
			return nil, err
		}
	}
	f, name := r.subject()
	urn := ""
	if r.Identity != nil {
		urn = r.Identity.URN()
	}
	alt, err := altName(hardwareModuleName{f.hardwareType(a.arc), name[:]}, urn)
	if err != nil {
		return nil, err
	}
	ski := keyIdentifier(r.Public)
	t := &x509.Certificate{
		SerialNumber: new(big.Int).Set(serial), Subject: r.Subject(),
		NotBefore: a.now().UTC().Truncate(time.Second), NotAfter: noExpiry,
		BasicConstraintsValid: true, SubjectKeyId: ski[:], SignatureAlgorithm: x509.ECDSAWithSHA256,
		ExtraExtensions: []pkix.Extension{alt},
	}
	t.KeyUsage, t.ExtKeyUsage = usages(r.Use)
	return t, nil
}

func usages(u keypackage.Use) (x509.KeyUsage, []x509.ExtKeyUsage) {
	if u == keypackage.UseAgreement {
		return x509.KeyUsageKeyAgreement, nil
	}
	// A device may be the server of a TLS connection too.
	return x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
}

// lint reads the trial as anyone would and compares it with the request.
func (a *Authority) lint(der []byte, r Request) (Certificate, error) {
	c, err := parse(der, a.realm, a.arc)
	if err != nil {
		return Certificate{}, err
	}
	if err := (Want{At: a.now(), Use: r.Use, Public: r.Public, Record: r.Record, Identity: r.Identity}).match(c); err != nil {
		return Certificate{}, err
	}
	switch {
	case (c.Record == nil) != (r.Record == nil) || (c.Identity == nil) != (r.Identity == nil):
		return Certificate{}, errors.New("it names a record or an identity that was not asked for")
	case c.ProductLine != r.ProductLine:
		return Certificate{}, fmt.Errorf("it names product line %q", c.ProductLine)
	case !bytes.Equal(c.X509.RawIssuer, a.ca.RawSubject) || !bytes.Equal(c.X509.AuthorityKeyId, a.ca.SubjectKeyId):
		return Certificate{}, errors.New("it names another issuer")
	case c.X509.NotBefore.Before(a.ca.NotBefore) || c.X509.NotBefore.After(a.ca.NotAfter):
		return Certificate{}, fmt.Errorf("the CA's certificate is valid from %s to %s: check the clock, or make a new CA",
			a.ca.NotBefore.UTC().Format(time.RFC3339), a.ca.NotAfter.UTC().Format(time.RFC3339))
	}
	return c, nil
}

func publicOf(c *x509.Certificate) (statement.PublicKey, error) {
	k, ok := c.PublicKey.(*ecdsa.PublicKey)
	if !ok {
		return statement.PublicKey{}, fmt.Errorf("its public key is a %T, an EC P-256 key is expected", c.PublicKey)
	}
	return statement.FromECDSA(k)
}
