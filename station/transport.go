package station

import (
	"crypto/tls"
	"net"
	"net/http"
	"time"
)

// Bounds of a connection; those of whole calls are the Client's.
const (
	dialTimeout      = 5 * time.Second
	handshakeTimeout = 10 * time.Second
	idleTimeout      = 90 * time.Second
	// quietTimeout and pingTimeout find a connection that is dead without a
	// word, such as a pulled cable: without them every attempt would go into it
	// until the system gives it up, a quarter of an hour later.
	quietTimeout = 5 * time.Second
	pingTimeout  = 5 * time.Second
)

// NewTransport gives a transport to the SPP for a line of so many hands: HTTP/2
// where the SPP has it.
func NewTransport(c *tls.Config, hands int) *http.Transport {
	return &http.Transport{
		TLSClientConfig: distrust(c), ForceAttemptHTTP2: true, MaxIdleConnsPerHost: hands,
		DialContext:         (&net.Dialer{Timeout: dialTimeout}).DialContext,
		TLSHandshakeTimeout: handshakeTimeout, IdleConnTimeout: idleTimeout,
		HTTP2: &http.HTTP2Config{SendPingTimeout: quietTimeout, PingTimeout: pingTimeout},
	}
}

// distrust marks what the configuration's own check refuses as a matter of
// certificates, so that the call ends there (ErrTrust) and is not repeated.
func distrust(c *tls.Config) *tls.Config {
	verify := c.VerifyConnection
	if verify == nil {
		return c
	}
	c = c.Clone()
	c.VerifyConnection = func(s tls.ConnectionState) error {
		if err := verify(s); err != nil {
			return &tls.CertificateVerificationError{UnverifiedCertificates: s.PeerCertificates, Err: err}
		}
		return nil
	}
	return c
}
