package devicecert

import (
	"crypto/x509"
	"time"
)

// SetClock makes the authority believe that it is t.
func (a *Authority) SetClock(t time.Time) { a.now = func() time.Time { return t } }

// Template gives what Certify would sign.
func (a *Authority) Template(r Request) (*x509.Certificate, error) { return a.template(r) }

// Marked gives the certificate as Check would, to compare with what it gave.
func (c Certificate) Marked() Certificate {
	c.checked = true
	return c
}
