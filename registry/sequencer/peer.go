package sequencer

import (
	"crypto/tls"
	"fmt"
	"time"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/provisioning/grant"
)

// submitter gives the name of the SPP at the other end of a connection whose
// certificate was verified in the handshake. It is asked on every request, so
// that a long connection does not outlive its certificate.
func submitter(state *tls.ConnectionState, realm identity.Realm, now time.Time) (string, error) {
	if state == nil || len(state.VerifiedChains) == 0 || len(state.PeerCertificates) == 0 {
		return "", fmt.Errorf("there is no verified client certificate: connect with the SPP's over TLS")
	}
	cert := state.PeerCertificates[0]
	if now.After(cert.NotAfter) {
		return "", fmt.Errorf("the client certificate expired at %s: renew it", cert.NotAfter.UTC().Format(time.RFC3339))
	}
	peer, err := grant.PeerFromCertificate(cert)
	if err != nil {
		return "", err
	}
	if peer.Realm != realm || peer.Role != "spp" {
		return "", fmt.Errorf("the client certificate is of %q: one of an SPP of this realm, %q, is needed", peer, grant.PeerURI(realm, "spp", "<name>"))
	}
	return peer.Name, nil
}
