package devicecert

import (
	"bytes"
	"fmt"

	"github.com/devicekeys/devicekeys/keypackage"
)

// Of says whether the certificate is of a key of the device whose manifest this
// is: one of its pairs has the certificate's key and algorithm, and record and
// identity are the device's where the certificate names them. This is what ties a
// certificate made in advance, which names no record, to its device; the caller
// knows that the manifest is genuine, by its hash in the identity certificate
// (Manifest.Match). It matches ErrOther.
func (c Certificate) Of(m keypackage.Manifest) error { return c.of(m) }

// Of is Certificate.Of. That a device CA signed, it does not say.
func (u Unchecked) Of(m keypackage.Manifest) error { return Certificate(u).of(m) }

func (c Certificate) of(m keypackage.Manifest) error {
	fail := func(format string, args ...any) error {
		return fmt.Errorf("device certificate: %w: "+format, append([]any{ErrOther}, args...)...)
	}
	record := m.ChipID.RecordID()
	switch {
	case c.Realm != m.Realm:
		return fail("it is of the %s realm, the device of the %s one", c.Realm, m.Realm)
	case c.Record != nil && *c.Record != record:
		return fail("it is of record %s, not %s", c.Record.Short(), record.Short())
	case c.Identity != nil && c.Identity.URN() != m.Identity.URN():
		return fail("it names %s, the device is %s", c.Identity, m.Identity)
	}
	point := c.Public.Point()
	for _, e := range m.Entries {
		if e.Form() == keypackage.FormPair && e.Algorithm.Use() == c.Use && bytes.Equal(e.Vouch, point) {
			return nil
		}
	}
	return fail("its key, for %s, is no key of the device: the manifest names another, or none", c.Use)
}
