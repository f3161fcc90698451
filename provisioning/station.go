package provisioning

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/devicekeys/devicekeys/provisioning/grant"
	"github.com/devicekeys/devicekeys/provisioning/profile"
	"github.com/devicekeys/devicekeys/provisioning/records"
)

// Station is who calls: what its certificate grants, and for how long.
type Station struct {
	grant.Grant
	NotBefore, NotAfter time.Time // of the certificate; the quota counts devices begun in between
	Serial              string    // of the certificate, in hexadecimal: for people who look into an incident
}

// admit says whether a station may call at all, and gives the profile of its
// product line. It is asked with every call: a connection may outlive the
// certificate, and a revocation holds from the moment it is written. It costs
// one look at the records.
func (a *Assembly) admit(ctx context.Context, s Station) (profile.Profile, error) {
	if s.Realm != a.realm {
		return profile.Profile{}, refuse(CodeStation, "use a certificate of this realm", "station %q is of realm %s, this SPP of %s", s.Station, s.Realm, a.realm)
	}
	if a.now().After(s.NotAfter) {
		return profile.Profile{}, refuse(CodeExpired, "have the custodian renew the certificate; if it is valid, set the clock of the SPP right",
			"the certificate of station %q expired at %s", s.Station, s.NotAfter.UTC().Format(time.RFC3339))
	}
	switch r, err := a.records.Revoked(ctx, s.Station); {
	case errors.Is(err, records.ErrNotFound):
	case err != nil:
		return profile.Profile{}, err // who can't be asked about is not served
	case !s.NotBefore.After(r.At):
		return profile.Profile{}, refuse(CodeRevoked, "ask the SPP's operator why; a certificate that holds from after the revocation is served again (one holds from five minutes before it is made)",
			"the certificate of station %q was revoked at %s", s.Station, r.At.UTC().Format(time.RFC3339))
	}
	p, ok := a.lines[s.Line]
	if !ok {
		return p, refuse(CodeLine, "use the SPP of this product line, or add its profile to this one", "product line %q is not served here", s.Line)
	}
	return p, nil
}

type stationKey struct{}

// WithStation puts the calling station into a context.
func WithStation(ctx context.Context, s Station) context.Context {
	return context.WithValue(ctx, stationKey{}, s)
}

// StationFrom gives the calling station.
func StationFrom(ctx context.Context) (Station, bool) {
	s, ok := ctx.Value(stationKey{}).(Station)
	return s, ok
}

// requireStation lets only stations through, and counts who is not let through
// as refused in step "connect".
func (a *Assembly) requireStation(next http.Handler) http.Handler {
	errors := connect.NewErrorWriter()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begun := time.Now()
		s, err := a.stations.of(r.TLS)
		if err != nil {
			a.logRefusal(r.Context(), "connect", err)
			a.metrics.step("connect", begun, err)
			// A write that fails has nobody left to tell.
			_ = errors.Write(w, r, rpcError(err))
			return
		}
		next.ServeHTTP(w, r.WithContext(WithStation(r.Context(), s)))
	})
}

// stations reads who is at the other end of a connection.
type stations struct {
	cas *x509.CertPool // nil: TLS has verified
	now func() time.Time

	mu       sync.Mutex                 // guards verified
	verified map[[sha256.Size]byte]bool // certificates that were verified with cas before, by hash
}

// maxVerified bounds the certificates that are remembered as verified: a plant
// has dozens of stations.
const maxVerified = 4096

func (v *stations) of(c *tls.ConnectionState) (Station, *Refusal) {
	if c == nil || len(c.PeerCertificates) == 0 || len(c.VerifiedChains) == 0 && v.verify(c.PeerCertificates) != nil {
		return Station{}, refuse(CodeStation, "connect with the station's certificate", "the caller showed no certificate of the station CA")
	}
	leaf := c.PeerCertificates[0]
	g, err := grant.FromCertificate(leaf)
	if err != nil {
		return Station{}, refuse(CodeStation, "ask the custodian for a station's certificate", "the caller's certificate grants nothing here").because(err)
	}
	return Station{Grant: g, NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter, Serial: leaf.SerialNumber.Text(16)}, nil
}

var errUnverified = errors.New("nobody verified the certificate")

// verify makes sure that a chain ends at a CA of ours, as TLS did before when
// its server is set up as it should be: here nothing rests on that. Each
// certificate is verified once; its end is looked at with every call (admit).
func (v *stations) verify(chain []*x509.Certificate) error {
	if v.cas == nil {
		return errUnverified
	}
	hash := sha256.Sum256(chain[0].Raw)
	v.mu.Lock()
	known := v.verified[hash]
	v.mu.Unlock()
	if known {
		return nil
	}
	if err := grant.Verify(v.cas, chain, v.now()); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.verified == nil || len(v.verified) >= maxVerified {
		v.verified = map[[sha256.Size]byte]bool{}
	}
	v.verified[hash] = true
	return nil
}
