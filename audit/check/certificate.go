package check

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/devicekeys/devicekeys/audit"
	"github.com/devicekeys/devicekeys/devicecert"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
)

// certified is what is kept of a device's X.509 certificate, to be held against the
// audit log.
type certified struct {
	deviceID
	place  int    // in the row, from 1
	serial string // as audit.SerialText spells it
	record bool   // it names the record: it was made for this device, not in advance
}

func certificateRow(d deviceID, place int) string {
	return fmt.Sprintf("%s x509 %d", deviceRow(d.Record, d.Generation), place)
}

// isDeviceCA tells whether a key named in an audit entry is the device CA's, of any version: "dev-device-ca",
// "dev-device-ca-2" (package provisioning).
func isDeviceCA(r identity.Realm, label string) bool {
	version, ok := strings.CutPrefix(label, r.Prefix()+"device-ca")
	if !ok || version == "" {
		return ok
	}
	_, err := strconv.ParseUint(strings.TrimPrefix(version, "-"), 10, 32)
	return err == nil && version[0] == '-'
}

// certificates checks a device's certificates: each is of the profile, of a key of
// the device's manifest and of its product line, and by a device CA, where the
// auditor has their certificates. A manifest that does not parse is said elsewhere.
func (f forms) certificates(m keypackage.Manifest) {
	var keys [][]byte
	for i, der := range f.d.X509 {
		f.c.checked(NoKeys, 1)
		c, err := devicecert.Unverified(der, f.c.Realm)
		if err == nil {
			f.c.certified = append(f.c.certified, certified{deviceID{f.d.Record, f.d.Generation}, i + 1, audit.SerialText(c.X509.SerialNumber), c.Record != nil})
		}
		switch {
		case err != nil:
		case c.ProductLine != f.d.Line:
			err = fmt.Errorf("it is of product line %q", c.ProductLine)
		case slices.ContainsFunc(keys, func(k []byte) bool { return bytes.Equal(k, c.Public.Point()) }):
			err = errors.New("another certificate of the row is of the same key")
		case m.Identity != nil:
			err = c.Of(m)
		}
		if err == nil {
			err = f.c.byDeviceCA(c.X509)
		}
		if err != nil {
			f.bad(fmt.Sprintf("x509, certificate %d of %d,", i+1, len(f.d.X509)), err)
			continue
		}
		keys = append(keys, c.Public.Point())
	}
}

// byDeviceCA checks a certificate's signature by the device CAs among the auditor's
// certificates.
func (c *checker) byDeviceCA(x *x509.Certificate) error {
	var err error
	for _, ca := range c.Certificates {
		if !ca.IsCA || ca.Subject.CommonName != devicecert.CACommonName(c.Realm) {
			continue
		}
		if err = x.CheckSignatureFrom(ca); err == nil {
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("no device CA signed it: %w", err)
	}
	if !c.noDeviceCA {
		c.noDeviceCA = true
		c.leftOut(Audited, "no device CA's certificate: the signatures of devices' certificates were not verified")
	}
	return nil
}

// licensedCertificates holds the devices' certificates against the audit log: each
// has a serial number of its own, in an entry for its device, or, made in advance,
// in one for the device CA's key.
func (c *checker) licensedCertificates(l licences) {
	seen := map[string]certified{}
	for _, x := range c.certified {
		c.checked(Audited, 1)
		where := rows(certificateRow(x.deviceID, x.place), "certificate "+x.serial)
		if other, twice := seen[x.serial]; twice {
			c.violated(Audited, x.Record, append(where, certificateRow(other.deviceID, other.place)),
				"two certificates have this serial number, which is drawn for each: the device CA's key signed one unlicensed under the other's number, or one certificate was given to two devices")
		}
		seen[x.serial] = x
		switch {
		case x.record && !l.made[x.deviceID][x.serial]:
			c.violated(Audited, x.Record, where, "no entry about this device licensed its certificate: the device CA's key was used unlicensed, or the row was changed")
		case !x.record && !l.advance[x.serial]:
			c.violated(Audited, x.Record, where, "no entry licensed this certificate, made in advance: the device CA's key was used unlicensed, or the row was changed")
		}
	}
}
