package profile

import "fmt"

// Publication says who finds a device's certificates. The zero value is Sealed.
type Publication string

// The places.
const (
	Sealed       Publication = "sealed"       // in the device's record alone: who has the chip ID reads them
	Certificates Publication = "certificates" // by record id, for everyone
	Directory    Publication = "directory"    // by record id and by identity, for everyone
)

// Open reports whether certificates are published unsealed.
func (p Publication) Open() bool { return p == Certificates || p == Directory }

// maxCertificates is how many a registry record has room for.
const maxCertificates = 8

// Certifies reports whether the device CA signs for devices of the line.
func (p Profile) Certifies() bool { return p.certificates() > 0 }

func (p Profile) certificates() int {
	n := 0
	for _, e := range p.Entries {
		if e.Certificate {
			n++
		}
	}
	return n
}

// InPool lists the entries whose keys, or secrets, wait in the identity pool.
func (p Profile) InPool() []string {
	var names []string
	for _, e := range p.Entries {
		if e.Source.InPool() {
			names = append(names, e.Name)
		}
	}
	return names
}

func (p Profile) checkCertificates() error {
	n := p.certificates()
	switch {
	case p.Publish != "" && p.Publish != Sealed && !p.Publish.Open():
		return fmt.Errorf("publish is %q: write sealed, certificates or directory", p.Publish)
	case n == 0 && p.Publish.Open():
		return fmt.Errorf("publish is %s and no entry has a certificate: write certificate: true in a key pair's entry, or remove publish", p.Publish)
	case n == 0 && p.IdentityInCertificates:
		return fmt.Errorf("identity_in_certificates is set and no entry has a certificate: write certificate: true in a key pair's entry, or remove it")
	case n > maxCertificates:
		return fmt.Errorf("%d entries have a certificate: a registry record has room for %d", n, maxCertificates)
	}
	return nil
}
