package provisioning

import (
	"context"
	"fmt"

	"github.com/devicekeys/devicekeys/devicecert"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/provisioning/profile"
	"github.com/devicekeys/devicekeys/provisioning/records"
	"github.com/devicekeys/devicekeys/registry"
	"github.com/devicekeys/devicekeys/statement"
)

// Certifier is the device CA (devicecert.Authority): its key is in the HSM.
type Certifier interface {
	// Certify makes the X.509 certificate of a device's key. The audit entry
	// that licenses it is committed before the call.
	Certify(ctx context.Context, r devicecert.Request) (der []byte, err error)
}

// certify gives the device its certificates, in the profile's order: of a key
// that was made in advance the one that waits with it, if it still is what the
// profile says, of another one that names the record. One that a crash loses was seen by nobody.
func (b *beginning) certify(ctx context.Context) error {
	if !b.profile.Certifies() {
		return nil
	}
	ids, err := b.derived()
	if err != nil {
		return err
	}
	if err := b.licence(ctx, ids); err != nil {
		return err
	}
	d := &b.device
	d.X509 = nil
	for _, e := range b.profile.Entries {
		if !e.Certificate {
			continue
		}
		w, err := b.waitingKey(e.Name)
		if err != nil {
			return err
		}
		if err := b.checkWaitingCertificate(d.Identity, e, w); err != nil {
			return err
		}
		der := w.X509
		if len(der) == 0 {
			public, err := statement.ParsePoint(w.Public)
			if err != nil {
				return err
			}
			r := devicecert.Request{Realm: b.realm, Use: w.Algorithm.Use(), Public: public, Record: &d.Record, ProductLine: b.profile.Name, Serial: b.serials[e.Name]}
			if r.Serial == nil {
				return fmt.Errorf("certify entry %q: its serial number was not licensed", e.Name)
			}
			if b.profile.IdentityInCertificates {
				r.Identity = d.Identity
			}
			if der, err = b.keys.Certify(ctx, r); err != nil {
				return err
			}
		}
		d.X509 = append(d.X509, der)
	}
	return nil
}

// certificatesEntry gives the entry with which a device's certificates are published
// for everyone, or nil where its product line has none or keeps them sealed. It is
// a function of the row, so whoever makes it again makes the same bytes.
func (a *Assembly) certificatesEntry(d records.Device) ([]byte, error) {
	p := a.lines[d.Line]
	if !p.Publish.Open() || len(d.X509) == 0 {
		return nil, nil
	}
	public := registry.PublicCertificates{X509: d.X509}
	if p.Publish == profile.Directory {
		public.Identity = d.Identity.URN()
	}
	b, err := public.Encode()
	if err != nil {
		return nil, err
	}
	return registry.Entry{Realm: a.realm, Type: registry.Certificates, Record: d.Record, Generation: d.Generation, Sealed: b}.Encode()
}

// DeviceCALabel is the key of the device CA's first version, as audit entries name
// it.
func DeviceCALabel(r identity.Realm) string { return r.Prefix() + "device-ca" }
