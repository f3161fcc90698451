package devicecert

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/statement"
)

// MaxCertificate is the longest certificate that is read, in bytes; ours have
// about 700.
const MaxCertificate = 2048

// Skew is how far a certificate's issue may lie in the future of whoever
// checks it: clocks on a line and in the field differ by minutes.
const Skew = 10 * time.Minute

// Errors of Check. All mean: do not use the certificate.
var (
	// ErrForm says that it is no device certificate of the profile and realm.
	ErrForm = errors.New("not a device certificate of the profile")
	// ErrIssuer says that no trusted device CA signed it.
	ErrIssuer = errors.New("no trusted device CA signed it")
	// ErrNotYet says that it was issued in the future, beyond Skew.
	ErrNotYet = errors.New("it is not valid yet")
	// ErrOther says that it is another device's or another key's.
	ErrOther = errors.New("it is another one's certificate")
)

// Certificate is what a certificate says that Check has checked (Checked). What
// nobody checked is an [Unchecked].
type Certificate struct {
	Realm  identity.Realm
	Public statement.PublicKey
	Use    keypackage.Use // UseSignature or UseAgreement
	// Record is the device's. Nil in a certificate made in advance: whose it is
	// then say the manifest (Of) and the maker's records, never the certificate.
	Record *identity.RecordID
	// KeyHash is SHA-256 of the SubjectPublicKeyInfo.
	KeyHash     [sha256.Size]byte
	Identity    identity.Identity // nil if it names none
	ProductLine string
	IssuedAt    time.Time
	X509        *x509.Certificate // read-only; X509.Raw is the DER

	checked bool // Check made it
}

// Checked tells whether Check gave this certificate: whoever relies on one asks.
// A Certificate that was made in another way, the zero one included, is not.
func (c Certificate) Checked() bool { return c.checked }

// Hash is SHA-256 of the DER: how messages and services name the certificate.
func (c Certificate) Hash() [sha256.Size]byte { return sha256.Sum256(c.X509.Raw) }

// Want is whose certificate it must be. Zero fields ask for nothing.
type Want struct {
	// At is the checker's time. Zero: it has no clock, as many devices, and
	// takes any time of issue.
	At     time.Time
	Use    keypackage.Use
	Public statement.PublicKey
	// Record must be named by the certificate: one made in advance is refused.
	Record *identity.RecordID
	// Identity must be named by the certificate.
	Identity identity.Identity
}

// Check reads a certificate in DER and checks that it is one of the profile,
// of the roots' realm, signed by one of them and as wanted. It matches
// ErrForm, ErrIssuer, ErrNotYet or ErrOther. It can't tell whether the device
// is still in use: the registry can.
func Check(der []byte, roots *Roots, want Want) (Certificate, error) {
	fail := func(err error) (Certificate, error) { return Certificate{}, fmt.Errorf("device certificate: %w", err) }
	if roots == nil {
		return fail(fmt.Errorf("%w: there are no roots", ErrIssuer))
	}
	c, err := parse(der, roots.realm, roots.arc)
	if err != nil {
		return fail(fmt.Errorf("%w: %w", ErrForm, err))
	}
	// Chain model: the CA's certificate was valid when it signed.
	_, err = c.X509.Verify(x509.VerifyOptions{Roots: roots.pool, Intermediates: x509.NewCertPool(),
		CurrentTime: c.IssuedAt, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return fail(fmt.Errorf("%w: %w", ErrIssuer, err))
	}
	if err := want.match(c); err != nil {
		return fail(err)
	}
	c.checked = true
	return c, nil
}

func (w Want) match(c Certificate) error {
	switch {
	case !w.At.IsZero() && c.IssuedAt.After(w.At.Add(Skew)):
		return fmt.Errorf("%w: it was issued at %s and it is %s: check the clock", ErrNotYet, c.IssuedAt.Format(time.RFC3339), w.At.UTC().Format(time.RFC3339))
	case w.Use != keypackage.UseNone && w.Use != c.Use:
		return fmt.Errorf("%w: its key is for %s, not for %s", ErrOther, c.Use, w.Use)
	case !w.Public.IsZero() && w.Public != c.Public:
		return fmt.Errorf("%w: its key is %s, not %s", ErrOther, c.Public, w.Public)
	case w.Record != nil && c.Record == nil:
		return fmt.Errorf("%w: it was made in advance and names no record, record %s is expected", ErrOther, w.Record.Short())
	case w.Record != nil && *w.Record != *c.Record:
		return fmt.Errorf("%w: it is of record %s, not %s", ErrOther, c.Record.Short(), w.Record.Short())
	case w.Identity != nil && w.Identity != c.Identity:
		return fmt.Errorf("%w: it does not name %s", ErrOther, w.Identity.URN())
	}
	return nil
}

// String names the certificate for people: whose it is and what its key does.
func (c Certificate) String() string {
	if c.Record != nil {
		return fmt.Sprintf("for %s, of record %s", c.Use, c.Record.Short())
	}
	return fmt.Sprintf("for %s, made in advance, key %s", c.Use, hex.EncodeToString(c.KeyHash[:6]))
}
