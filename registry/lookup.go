package registry

import (
	"context"
	"errors"
	"fmt"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/statement"
)

// Lookup finds, opens and checks the record of the device that has the chip:
// what restoring takes. rom is the key in the device's ROM. The certificate
// was signed by it and names this chip, the client's realm and the entry's
// generation; the backup is the device's to check.
//
// It matches ErrNotFound; ErrScrapped or ErrErased where the newest entry says
// so with a statement by the ROM key (without one the entry is ignored, and
// the record of its generation is taken); ErrSealed; statement.ErrForm or
// statement.ErrSignature where the certificate is another manufacturer's; or
// it is a *StatusError or a network error.
func (c *Client) Lookup(ctx context.Context, chip identity.ChipID, rom statement.PublicKey) (Record, identity.Certificate, error) {
	if c.realm == 0 {
		return Record{}, identity.Certificate{}, fmt.Errorf("look up a device: the client was given no realm")
	}
	if chip.IsZero() || rom.IsZero() {
		return Record{}, identity.Certificate{}, fmt.Errorf("look up a device: chip ID and ROM key are needed")
	}
	e, _, err := c.Newest(ctx, chip.RecordID())
	if err != nil {
		return Record{}, identity.Certificate{}, err
	}
	if !e.Type.HasRecord() {
		if err := e.CheckStatement(rom); err == nil {
			return Record{}, identity.Certificate{}, ended(e)
		}
		// Anyone able to write into a mirror could have put it there.
		under, _, err := c.Get(ctx, e.Record, e.Generation)
		if errors.Is(err, ErrNotFound) || errors.Is(err, ErrErased) {
			return Record{}, identity.Certificate{}, fmt.Errorf(
				"look up record %s: the registry's %s entry of generation %d has no statement by the ROM key, and the record under it is withheld: ask another mirror",
				e.Record.Short(), e.Type, e.Generation)
		}
		if err != nil {
			return Record{}, identity.Certificate{}, err
		}
		e = under
	}
	return e.Check(chip, c.realm, rom)
}

func ended(e Entry) error {
	err := ErrScrapped
	if e.Type == Erase {
		err = ErrErased
	}
	return fmt.Errorf("look up record %s: generation %d: %w", e.Record.Short(), e.Generation, err)
}

// Check opens a register or supersede entry and checks that the identity
// certificate in it was signed by the ROM key and names this chip, the realm
// and the entry's generation. It fails like Open and identity.ParseCertificate.
func (e Entry) Check(chip identity.ChipID, realm identity.Realm, rom statement.PublicKey) (Record, identity.Certificate, error) {
	fail := func(err error) (Record, identity.Certificate, error) {
		return Record{}, identity.Certificate{}, fmt.Errorf("check record %s: %w", e.Record.Short(), err)
	}
	if e.Realm != realm {
		return fail(fmt.Errorf("it is of the %s realm, and the device of the %s one", e.Realm, realm))
	}
	r, err := Open(chip, e)
	if err != nil {
		return fail(err)
	}
	cert, err := identity.ParseCertificate(r.Certificate, rom)
	if err != nil {
		return fail(fmt.Errorf("identity certificate: %w", err))
	}
	switch {
	case cert.ChipID != chip:
		return fail(fmt.Errorf("%w: the identity certificate is another chip's", statement.ErrForm))
	case cert.Realm != e.Realm:
		return fail(fmt.Errorf("%w: the identity certificate is of the %s realm", statement.ErrForm, cert.Realm))
	case cert.Generation != e.Generation:
		return fail(fmt.Errorf("%w: the identity certificate is of generation %d, the entry of %d", statement.ErrForm, cert.Generation, e.Generation))
	}
	return r, cert, nil
}
