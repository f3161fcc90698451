package provisioning

import (
	"bytes"
	"fmt"

	"github.com/devicekeys/devicekeys/devicecert"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning/profile"
)

// checkWaited looks whether what came with an identity is what the profile says, before
// the device is bound to it: refused here, the identity is still the pool's. A key is
// one, of the entry's algorithm, with the certificate that the profile would have made;
// a secret has the profile's length. A profile may have changed since.
func (b *beginning) checkWaited(id identity.Identity, waited sealedByEntry) error {
	for _, e := range b.profile.Entries {
		if _, ok := waited[e.Name]; !ok {
			continue
		}
		if e.WaitingSecret() {
			if err := e.CheckSecret(b.secrets[e.Name].Value); err != nil {
				return otherProfile(id, e, b.profile, err)
			}
			continue
		}
		w, err := b.waitingKey(e.Name)
		if err == nil && w.Algorithm != e.Algorithm {
			err = fmt.Errorf("it is for %s, the entry is %s", w.Algorithm, e.Algorithm)
		}
		if err != nil {
			return otherProfile(id, e, b.profile, err)
		}
		if !e.Certificate {
			continue
		}
		if err := b.checkWaitingCertificate(id, e, w); err != nil {
			return err
		}
	}
	return nil
}

func otherProfile(id identity.Identity, e profile.Entry, p profile.Profile, err error) *Refusal {
	return refuse(CodeProfile, "bring the profile back to what it was when the entry was filled; or burn the identity, spp pool burn, and import others, for which it is filled anew",
		"what waits with %s for entry %q is not what the profile of product line %q says: %v", id, e.Name, p.Name, err)
}

// checkWaitingCertificate says whether the certificate that waits with a key, if
// there is one, is what the profile as it is now would have made in advance: of this
// key, for this use, of this product line, with the identity where the profile says
// so and without it where not. A profile may have changed since, and what a device
// once has is published for good. The device CA's signature is not asked for: the
// CA may have changed, and the seal says that the certificate is what was put there.
func (b *beginning) checkWaitingCertificate(id identity.Identity, e profile.Entry, w keypackage.WaitingKey) error {
	if len(w.X509) == 0 {
		return nil
	}
	c, err := devicecert.Unverified(w.X509, b.realm)
	if err == nil {
		err = wouldMake(b.profile, id, e, w, c)
	}
	if err != nil {
		return refuse(CodeProfile, "bring the profile back to what it was when the key was made; or burn the identity, spp pool burn, and import others, whose keys are made anew",
			"the certificate that waits with %s, entry %q, is not what the profile of product line %q says: %v", id, e.Name, b.profile.Name, err)
	}
	return nil
}

func wouldMake(p profile.Profile, id identity.Identity, e profile.Entry, w keypackage.WaitingKey, c devicecert.Unchecked) error {
	switch {
	case w.Algorithm != e.Algorithm || c.Use != e.Algorithm.Use():
		return fmt.Errorf("key is of %s, certificate for %s, the entry is %s", w.Algorithm, c.Use, e.Algorithm)
	case !bytes.Equal(c.Public.Point(), w.Public):
		return fmt.Errorf("it is of another key")
	case c.Record != nil:
		return fmt.Errorf("it names record %s, and was made in advance", c.Record.Short())
	case c.ProductLine != p.Name:
		return fmt.Errorf("it names product line %q", c.ProductLine)
	case c.Identity == nil && p.IdentityInCertificates:
		return fmt.Errorf("it names no identity")
	case c.Identity != nil && !p.IdentityInCertificates:
		return fmt.Errorf("it names the identity, which certificates of this line don't")
	case c.Identity != nil && c.Identity.URN() != id.URN():
		return fmt.Errorf("it names %s", c.Identity)
	}
	return nil
}
