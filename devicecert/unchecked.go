package devicecert

import (
	"fmt"

	"github.com/devicekeys/devicekeys/identity"
)

// Unchecked is what a certificate says of itself that nobody checked, field by
// field as in a [Certificate]. It is another type so that the compiler keeps it
// from where a checked one is taken, a message's recipient above all; converted to
// a Certificate it is still none that Check gave (Certificate.Checked).
type Unchecked Certificate

// Unverified reads a certificate of the profile and the realm without asking
// who signed it, with hwType below any arc: to show it, or for whoever has the
// key in it from elsewhere and compares (Of). It matches ErrForm.
func Unverified(der []byte, realm identity.Realm) (Unchecked, error) {
	c, err := parse(der, realm, nil)
	if err != nil {
		return Unchecked{}, fmt.Errorf("device certificate: %w: %w", ErrForm, err)
	}
	return Unchecked(c), nil
}
