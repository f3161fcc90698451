package check

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning/records"
	"github.com/devicekeys/devicekeys/registry"
	"github.com/devicekeys/devicekeys/statement"
)

// forms checks invariant 6 for one row: every stored byte string has the one
// form that the formats allow at its place, so there is no room for a key, and
// all of them are about this device.
func (c *checker) forms(d records.Device) {
	f := forms{c: c, d: d}
	if d.Realm != c.Realm {
		f.bad("realm", fmt.Errorf("it is %s", d.Realm))
	}
	if gone := published(d) || d.State == records.Burned || d.State == records.Scrapped; gone && len(d.Secrets) > 0 {
		f.bad("secrets", fmt.Errorf("the device is %s and they should be gone: a copy of its secrets is left", d.State))
	}
	for _, s := range d.Secrets {
		_, err := keypackage.ParseSealed(s.Sealed, keypackage.MaxPackage)
		f.check("secrets", err)
	}
	var m keypackage.Manifest
	f.blob("manifest", d.Manifest, func() (err error) { m, err = f.manifest(); return err })
	f.blob("claims", d.Claims, f.claims)
	f.blob("certificate", d.Certificate, f.certificate)
	f.blob("hello", d.Hello, f.hello)
	f.blob("point", d.Point, func() error { _, err := statement.ParsePoint(d.Point); return err })
	f.blob("package", d.Package, func() error { return f.dataPackage(m) })
	f.blob("backup", d.Backup, f.backup)
	f.blob("entry", d.Entry, f.entry)
	f.certificates(m)
	for name, mac := range map[string][]byte{"confirm": d.Confirm, "proof": d.Proof} {
		f.blob(name, mac, func() error {
			if len(mac) != sha256.Size {
				return fmt.Errorf("a MAC has %d bytes, it has %d", sha256.Size, len(mac))
			}
			return nil
		})
	}
}

// forms is the check of one row.
type forms struct {
	c *checker
	d records.Device
}

func (f forms) bad(column string, err error) {
	f.c.violated(NoKeys, f.d.Record, rows(deviceRow(f.d.Record, f.d.Generation)+" "+column),
		"column %s does not hold what it should, so the SPP did not write it: %v", column, err)
}

func (f forms) check(column string, err error) {
	f.c.checked(NoKeys, 1)
	if err != nil {
		f.bad(column, err)
	}
}

// blob checks a column that may be empty: which ones are there, the database's
// own constraints see to.
func (f forms) blob(column string, b []byte, parse func() error) {
	if len(b) > 0 {
		f.check(column, parse())
	}
}

func (f forms) manifest() (keypackage.Manifest, error) {
	m, err := keypackage.ParseManifest(f.d.Manifest)
	if err == nil && (m.ChipID != f.d.ChipID || m.Identity != f.d.Identity || m.Generation != f.d.Generation || m.Realm != f.d.Realm) {
		err = fmt.Errorf("it is another device's")
	}
	return m, err
}

func (f forms) claims() error {
	cl, err := identity.ParseClaims(f.d.Claims)
	if err != nil {
		return err
	}
	switch {
	case cl.ChipID != f.d.ChipID || cl.Subject != f.d.Identity || cl.Generation != f.d.Generation || cl.Realm != f.d.Realm || cl.IssuedAt != f.d.IssuedAt:
		return fmt.Errorf("they are another device's")
	case cl.Manifest != sha256.Sum256(f.d.Manifest):
		return fmt.Errorf("they vouch for another manifest")
	}
	return nil
}

func (f forms) certificate() error {
	var claims []byte
	if f.c.ROMKey.IsZero() {
		payload, _, err := statement.Unverified(f.d.Certificate, statement.IdentityCertificate, identity.MaxCertificate)
		if err != nil {
			return err
		}
		claims = payload
	} else {
		cert, err := identity.ParseCertificate(f.d.Certificate, f.c.ROMKey)
		if err != nil {
			return err
		}
		claims = cert.ClaimsBytes()
	}
	if !bytes.Equal(claims, f.d.Claims) {
		return fmt.Errorf("it signs other claims")
	}
	return nil
}

func (f forms) hello() error {
	h, err := keypackage.ParseHello(f.d.Hello)
	if err == nil && (h.ChipID != f.d.ChipID || h.Realm != f.d.Realm || h.Suite != f.d.Suite) {
		err = fmt.Errorf("it is another device's")
	}
	return err
}

func (f forms) dataPackage(m keypackage.Manifest) error {
	p, err := keypackage.ParseDataPackage(f.d.Package)
	switch {
	case err != nil:
		return err
	case !bytes.Equal(p.Manifest, f.d.Manifest) || !bytes.Equal(p.Certificate, f.d.Certificate) || !bytes.Equal(p.Point.Point(), f.d.Point):
		return fmt.Errorf("it carries another manifest, certificate or point than the row")
	case (p.Secrets != nil) != (len(m.Secrets()) > 0):
		return fmt.Errorf("it carries sealed secrets where the manifest names none, or none where it does")
	}
	return keypackage.CheckWrapped(p.Wrapped, m)
}

func (f forms) backup() error {
	b, err := keypackage.ParseBackup(f.d.Backup)
	if err == nil && !bytes.Equal(b.Manifest, f.d.Manifest) {
		err = fmt.Errorf("it carries another manifest than the row")
	}
	return err
}

func (f forms) entry() error {
	e, err := registry.ParseEntry(f.d.Entry)
	if err == nil && (e.Record != f.d.Record || e.Generation != f.d.Generation || e.Realm != f.d.Realm || !e.Type.HasRecord()) {
		err = fmt.Errorf("it is another device's")
	}
	return err
}

// unlockForm checks an unlock statement.
func (c *checker) unlockForm(u records.Unlock) {
	c.checked(NoKeys, 1)
	var err error
	if c.ROMKey.IsZero() {
		_, _, err = statement.Unverified(u.Statement, statement.Unlock, identity.MaxCertificate)
	} else {
		var s identity.Unlock
		if s, err = identity.ParseUnlock(u.Statement, c.ROMKey); err == nil && (s.Record != u.Record || s.Next != u.Next || s.Realm != c.Realm) {
			err = fmt.Errorf("it is about another device")
		}
	}
	if err != nil {
		c.violated(NoKeys, u.Record, rows(fmt.Sprintf("records.unlock %s/%d", u.Record.Short(), u.Next)), "the unlock statement does not hold: %v", err)
	}
}

// inventory checks the token's side of invariant 6: no key of it can leave in clear.
func (c *checker) inventory(ctx context.Context) {
	if c.Keys == nil {
		return
	}
	keys, err := c.Keys.Inventory(ctx)
	if err != nil {
		c.unread(NoKeys, err)
		return
	}
	for _, k := range keys {
		if !k.Secret {
			continue
		}
		c.checked(NoKeys, 1)
		switch where := rows(fmt.Sprintf("token key %q", k.Label)); {
		case !k.Sensitive:
			c.violated(NoKeys, identity.RecordID{}, where, "the key is not SENSITIVE: whoever has the PIN can read it; make it anew in a ceremony")
		case k.Token && k.Extractable:
			c.violated(NoKeys, identity.RecordID{}, where, "the key is EXTRACTABLE: whoever has the PIN can wrap it out; make it anew in a ceremony")
		}
	}
}
