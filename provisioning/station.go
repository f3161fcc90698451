package provisioning

import (
	"context"
	"net/http"
	"time"

	"connectrpc.com/connect"

	"github.com/devicekeys/devicekeys/provisioning/grant"
)

// Station is who calls: what its certificate grants, and for how long.
type Station struct {
	grant.Grant
	NotBefore, NotAfter time.Time // of the certificate; the quota counts devices begun in between
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

// RequireStation lets only stations through. TLS has verified chain and time of
// the certificate when the connection was made; the connection may outlive the
// certificate, so Assembly looks at its end again with every call.
func RequireStation(next http.Handler) http.Handler {
	errors := connect.NewErrorWriter()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s, err := stationOf(r)
		if err != nil {
			// A write that fails has nobody left to tell.
			_ = errors.Write(w, r, rpcError(err))
			return
		}
		next.ServeHTTP(w, r.WithContext(WithStation(r.Context(), s)))
	})
}

func stationOf(r *http.Request) (Station, *Refusal) {
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 || len(r.TLS.PeerCertificates) == 0 {
		return Station{}, refuse(CodeStation, "connect with the station's certificate", "the caller showed no certificate")
	}
	c := r.TLS.PeerCertificates[0]
	g, err := grant.FromCertificate(c)
	if err != nil {
		return Station{}, refuse(CodeStation, "ask the custodian for a station's certificate", "the caller's certificate grants nothing here").because(err)
	}
	return Station{Grant: g, NotBefore: c.NotBefore, NotAfter: c.NotAfter}, nil
}
