package tokenconfig

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/devicecert"
	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/provisioning/grant"
)

// TLSKeyLabel gives the label of a program's TLS key in its token: "dev-tls-spp".
func TLSKeyLabel(realm identity.Realm, program string) string {
	return realm.Prefix() + "tls-" + program
}

// ServerTLS gives the configuration of a server that speaks TLS 1.3 only and asks every client for a certificate
// of the CA in clientCAFile. Its own certificate, in PEM with the leaf first, is in certFile, and the private key
// stays in tok under keyLabel. The files are read once: after a renewal the program is restarted.
//
// Any client of the CA gets through. Whom a server means to serve it says with RequirePeer, or per request with
// grant.FromCertificate.
func ServerTLS(tok *hsm.Token, keyLabel, certFile, clientCAFile string) (*tls.Config, error) {
	own, err := certificate(tok, keyLabel, certFile, x509.ExtKeyUsageServerAuth)
	if err != nil {
		return nil, err
	}
	cas, err := pool(clientCAFile)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{own},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    cas,
		NextProtos:   []string{"h2", "http/1.1"},
	}, nil
}

// StationTLS is ServerTLS for a server of stations, with one difference: a station's certificate that has expired gets
// through the handshake, so that the station is told that it expired and not just cut off. Chain, usage and beginning
// are checked as ever (grant.Verify). Whoever serves looks at the certificate's end with every call, and verifies
// it with ClientCAs again, as the handshake leaves no verified chain.
func StationTLS(tok *hsm.Token, keyLabel, certFile, clientCAFile string) (*tls.Config, error) {
	c, err := ServerTLS(tok, keyLabel, certFile, clientCAFile)
	if err != nil {
		return nil, err
	}
	c.ClientAuth = tls.RequireAnyClientCert
	// Called after each handshake, resumed ones included.
	c.VerifyConnection = func(s tls.ConnectionState) error {
		return grant.Verify(c.ClientCAs, s.PeerCertificates, time.Now())
	}
	return c, nil
}

// ClientTLS gives the configuration of a client that speaks TLS 1.3 only, shows the certificate in certFile, whose
// key stays in tok under keyLabel, and trusts servers of the CA in serverCAFile and no other.
func ClientTLS(tok *hsm.Token, keyLabel, certFile, serverCAFile string) (*tls.Config, error) {
	own, err := certificate(tok, keyLabel, certFile, x509.ExtKeyUsageClientAuth)
	if err != nil {
		return nil, err
	}
	cas, err := pool(serverCAFile)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{own},
		RootCAs:      cas,
	}, nil
}

// RequirePeer adds to a configuration that the other side is a program of this realm in one of these roles
// ("spp", "sequencer"), as its certificate's URI says. A station's certificate is no program's and is refused.
func RequirePeer(c *tls.Config, realm identity.Realm, roles ...string) {
	c.VerifyConnection = func(s tls.ConnectionState) error {
		if len(s.PeerCertificates) == 0 {
			return errors.New("the peer shows no certificate")
		}
		peer, err := grant.PeerFromCertificate(s.PeerCertificates[0])
		if err != nil {
			return fmt.Errorf("the peer's certificate: %w", err)
		}
		if peer.Realm != realm || !slices.Contains(roles, peer.Role) {
			return fmt.Errorf("the peer is %s, expected is one of %q in the %s realm", peer, roles, realm)
		}
		return nil
	}
}

// certificate reads a chain and puts the token's key to it, refusing what would only fail at the first handshake.
func certificate(tok *hsm.Token, keyLabel, file string, usage x509.ExtKeyUsage) (tls.Certificate, error) {
	const again = "make a new certificate: custodian token writes the request, custodian certify signs it"
	chain, err := chainFile(file)
	if err != nil {
		return tls.Certificate{}, console.Hint(err, again)
	}
	signer, err := tok.Signer(keyLabel)
	if err != nil {
		if errors.Is(err, hsm.ErrNoKey) {
			err = console.Hint(err, "make the key with custodian token")
		}
		return tls.Certificate{}, err
	}
	leaf := chain[0]
	public, ok := leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	now := time.Now()
	switch {
	case !ok || !public.Equal(signer.Public()):
		return tls.Certificate{}, console.Hint(fmt.Errorf("certificate %q is not for key %q of token %q", file, keyLabel, tok.Info().Label), again)
	case now.Before(leaf.NotBefore):
		return tls.Certificate{}, console.Hint(fmt.Errorf("certificate %q is valid only from %s on", file, leaf.NotBefore.UTC().Format(time.RFC3339)), "check this machine's clock")
	case now.After(leaf.NotAfter):
		return tls.Certificate{}, console.Hint(fmt.Errorf("certificate %q expired at %s", file, leaf.NotAfter.UTC().Format(time.RFC3339)), again)
	case !slices.Contains(leaf.ExtKeyUsage, usage):
		return tls.Certificate{}, console.Hint(fmt.Errorf("certificate %q is of another kind: its extended key usage doesn't allow this", file), again)
	}
	c := tls.Certificate{PrivateKey: signer, Leaf: leaf}
	for _, x := range chain {
		c.Certificate = append(c.Certificate, x.Raw)
	}
	return c, nil
}

// pool reads the CA certificates of a file; each must be a CA's.
func pool(file string) (*x509.CertPool, error) {
	chain, err := chainFile(file)
	if err != nil {
		return nil, console.Hint(err, "name the station CA's certificate: custodian setup writes it as station-ca.pem")
	}
	p := x509.NewCertPool()
	for _, c := range chain {
		if !c.IsCA {
			return nil, console.Hint(fmt.Errorf("certificate %q of %s is not a CA's", c.Subject, file), "name the station CA's certificate: custodian setup writes it as station-ca.pem")
		}
		p.AddCert(c)
	}
	return p, nil
}

// Certificate reads the one certificate of a PEM file.
func Certificate(file string) (*x509.Certificate, error) {
	chain, err := chainFile(file)
	if err == nil && len(chain) != 1 {
		err = fmt.Errorf("read certificate %q: it holds %d, one is expected", file, len(chain))
	}
	if err != nil {
		return nil, err
	}
	return chain[0], nil
}

// chainFile reads the certificates of a PEM file, at least one, and nothing else.
func chainFile(file string) ([]*x509.Certificate, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	defer f.Close() // opened for reading: nothing to lose
	text, err := io.ReadAll(io.LimitReader(f, devicecert.MaxPEM+1))
	if err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	chain, err := devicecert.ParsePEM(text)
	if err != nil {
		return nil, fmt.Errorf("file %q: %w", file, err)
	}
	return chain, nil
}
