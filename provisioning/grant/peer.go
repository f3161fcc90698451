package grant

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"

	"github.com/devicekeys/devicekeys/identity"
)

// Peer is a program that shows a certificate of the station CA: the SPP, the sequencer, a client that watches.
type Peer struct {
	Realm identity.Realm
	Role  string // "spp", "sequencer", "auditor"; never "station"
	Name  string // which of them, "spp-1"
}

// PeerURI gives the URI that stands in a program's certificate: "devicekeys://development/spp/spp-1".
func PeerURI(realm identity.Realm, role, name string) *url.URL {
	return &url.URL{Scheme: scheme, Host: realm.String(), Path: "/" + role + "/" + name}
}

// Validate checks everything that URI relies on.
func (p Peer) Validate() error {
	if !p.Realm.Valid() {
		return fmt.Errorf("peer: %s is not a realm", p.Realm)
	}
	if err := checkName("role", p.Role); err != nil {
		return fmt.Errorf("peer: %w", err)
	}
	if p.Role == station {
		return errors.New("peer: a station is no program: it has a grant")
	}
	if err := checkName("name", p.Name); err != nil {
		return fmt.Errorf("peer: %w", err)
	}
	return nil
}

// URI gives the peer as it stands in a certificate.
func (p Peer) URI() *url.URL { return PeerURI(p.Realm, p.Role, p.Name) }

// String gives the URI's text.
func (p Peer) String() string { return p.URI().String() }

// ParsePeer reads the one spelling of a peer.
func ParsePeer(s string) (Peer, error) {
	realm, role, name, _, err := split(s)
	p := Peer{Realm: realm, Role: role, Name: name}
	if err == nil {
		err = p.Validate()
	}
	if err == nil && p.String() != s {
		err = fmt.Errorf("it is not in canonical form: %q is", p)
	}
	if err != nil {
		return Peer{}, fmt.Errorf("read peer %.64q: %w", s, err)
	}
	return p, nil
}

// PeerFromCertificate reads the peer of a program's certificate, which TLS has verified.
func PeerFromCertificate(c *x509.Certificate) (Peer, error) {
	u, err := uriOf(c)
	if err != nil {
		return Peer{}, fmt.Errorf("read program's certificate: %w", err)
	}
	return ParsePeer(u)
}
