package deviceservice

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/devicekeys/devicekeys/channel"
	"github.com/devicekeys/devicekeys/devicecert"
	"github.com/devicekeys/devicekeys/deviceservice/issued"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/statement"
)

// keyWait bounds how long a handshake waits for its turn at the HSM: below the handshake's own limit, so that the
// device's next try comes to a queue that moved.
const keyWait = 3 * time.Second

// releaseTime bounds the destruction of a key whose handshake is over.
const releaseTime = 10 * time.Second

// Keys is what the service's HSM does (package hsm/servicekeys). It is safe for concurrent use. No error carries a key.
type Keys interface {
	// DeviceKey derives a device's key under the context of a checked identity.
	DeviceKey(ctx context.Context, key keypackage.KeyID, context []byte) (keypackage.MACKey, error)
	// Unwrap opens a key that was wrapped to the HSM's transport key under this label.
	Unwrap(ctx context.Context, label string, blob []byte) (keypackage.MACKey, error)
}

// Issued tells what was issued: an issued.Cache. Its errors match issued.ErrNotIssued; every other one means that it
// is not known now.
type Issued interface {
	// Lookup gives what is in the field under an identity, or what was last.
	Lookup(ctx context.Context, id identity.Identity) (issued.Device, error)
}

// WrappedKeys gives keys that wait wrapped: an issued.Cache. Its errors match issued.ErrNoKey.
type WrappedKeys interface {
	// Key gives an entry's key of one generation of a device.
	Key(ctx context.Context, record identity.RecordID, g identity.Generation, entry string) ([]byte, error)
}

// Certificates gives the certificates that the registry lists for the newest generation of a record, DER, and that
// generation. The service checks them itself.
type Certificates interface {
	Certificates(ctx context.Context, record identity.RecordID) (identity.Generation, [][]byte, error)
}

// KeyLabel is the label that a device's key is wrapped to the service under (keypackage.ServiceKeyLabel).
func KeyLabel(record identity.RecordID, g identity.Generation, entry string) string {
	return keypackage.ServiceKeyLabel(record, g, entry)
}

// admission is what one connection's Admit found. One goroutine uses it.
type admission struct {
	hello  channel.Hello
	device issued.Device
	way    Way
}

// check says whether a device that says h of itself is to be let in, without any use of the HSM.
func (s *Service) check(ctx context.Context, h channel.Hello) (issued.Device, Way, error) {
	way := wayOf(h)
	if h.Realm != s.opts.Realm {
		return issued.Device{}, way, refuse(ReasonRealm, nil)
	}
	if h.Identity == nil {
		return issued.Device{}, way, refuse(ReasonUnknown, nil)
	}
	d, err := s.current(ctx, h)
	if err != nil {
		return d, way, err
	}
	if !slices.Contains(s.ways(d.Line), way) {
		return d, way, refuse(ReasonWay, fmt.Errorf("product line %q", d.Line))
	}
	if way != Certificate && !slices.Contains(s.opts.Entries, h.Key.Name) {
		return d, way, refuse(ReasonKey, fmt.Errorf("%q is no key of this service", h.Key.Name))
	}
	// The records say how this device's keys are derived; another version or KDF is none of its keys.
	if way == Derived && (h.Key.KDF != d.KDF || h.Key.Version != d.Master) {
		return d, way, refuse(ReasonKey, fmt.Errorf("%s, but the records have KDF %d of master key %d", h.Key, d.KDF, d.Master))
	}
	return d, way, nil
}

// current says whether the device's generation is the one in the field.
func (s *Service) current(ctx context.Context, h channel.Hello) (issued.Device, error) {
	d, err := s.opts.Issued.Lookup(ctx, h.Identity)
	switch {
	case errors.Is(err, issued.ErrNotIssued):
		return d, refuse(ReasonUnknown, nil)
	case err != nil:
		return d, refuse(ReasonAway, err)
	case d.Realm != s.opts.Realm:
		return d, refuse(ReasonRealm, nil)
	case h.Generation < d.Generation:
		return d, refuse(ReasonSuperseded, nil)
	case h.Generation > d.Generation:
		return d, refuse(ReasonAhead, nil)
	case !d.Active:
		return d, refuse(ReasonInactive, errors.New(d.State))
	}
	return d, nil
}

func (s *Service) ways(line string) []Way {
	if w, ok := s.opts.Lines[line]; ok {
		return w
	}
	return s.opts.Ways
}

// admit is the channel's Admit of suites 1 and 2.
func (s *Service) admit(ctx context.Context, a *admission, h channel.Hello) (_ channel.Peer, err error) {
	a.hello = h
	if a.device, a.way, err = s.check(ctx, h); err != nil {
		return nil, err
	}
	if a.way == Certificate {
		return nil, refuse(ReasonWay, errors.New("a certificate belongs to suite 3"))
	}
	return s.key(ctx, a)
}

// key gets the device's key into the HSM, which holds a turn there until it is destroyed. What the database has to say
// comes before the turn: a slow one keeps no other device from the HSM.
func (s *Service) key(ctx context.Context, a *admission) (channel.Peer, error) {
	var blob []byte
	if a.way == Fetched {
		var err error
		if blob, err = s.wrapped(ctx, a); err != nil {
			return nil, err
		}
	}
	if !take(ctx, s.turns, keyWait) {
		return nil, refuse(ReasonBusy, fmt.Errorf("no turn at the HSM within %s", keyWait))
	}
	var p *peer
	defer func() {
		if p == nil { // nobody else gives the turn back
			<-s.turns
		}
	}()
	key, err := s.bring(ctx, a, blob)
	if err != nil {
		return nil, refuse(ReasonHSM, err)
	}
	s.metrics.keys.WithLabelValues(string(a.way)).Inc()
	p = &peer{service: s, key: key}
	return p, nil
}

// take takes a turn within a time, or tells that there was none.
func take(ctx context.Context, turns chan struct{}, within time.Duration) bool {
	select {
	case turns <- struct{}{}:
		return true
	default:
	}
	t := time.NewTimer(within)
	defer t.Stop()
	select {
	case turns <- struct{}{}:
		return true
	case <-t.C:
	case <-ctx.Done():
	}
	return false
}

// wrapped gives the wrapped key that waits in the records.
func (s *Service) wrapped(ctx context.Context, a *admission) ([]byte, error) {
	blob, err := s.opts.WrappedKeys.Key(ctx, a.device.Record, a.device.Generation, a.hello.Key.Name)
	switch {
	case errors.Is(err, issued.ErrNoKey):
		return nil, refuse(ReasonNoKey, err)
	case err != nil: // not told: only who was issued gets this far
		return nil, &Refusal{ReasonAway, err}
	}
	return blob, nil
}

// bring derives the key in the HSM, or unwraps it there.
func (s *Service) bring(ctx context.Context, a *admission, blob []byte) (keypackage.MACKey, error) {
	d := a.device
	if a.way == Fetched {
		return s.opts.Keys.Unwrap(ctx, KeyLabel(d.Record, d.Generation, a.hello.Key.Name), blob)
	}
	id := keypackage.KeyID{Name: a.hello.Key.Name, KDF: d.KDF, Version: d.Master}
	return s.opts.Keys.DeviceKey(ctx, id, keypackage.DeviceKeyContext(s.opts.Realm, id, d.Identity, d.Generation, d.Record))
}

// peer is a device's key in the HSM for one handshake, with a turn there until it is closed. It serves one goroutine.
type peer struct {
	service *Service
	key     keypackage.MACKey
	closed  bool
}

// MAC gives HMAC-SHA-256 under the device's key.
func (p *peer) MAC(ctx context.Context, msg []byte) ([]byte, error) {
	mac, err := p.key.MAC(ctx, msg)
	if err != nil {
		return nil, refuse(ReasonHSM, err)
	}
	return mac, nil
}

// Verify checks a MAC inside the HSM.
func (p *peer) Verify(ctx context.Context, msg, mac []byte) error {
	err := p.key.Verify(ctx, msg, mac)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, statement.ErrSignature):
		return refuse(ReasonProof, err)
	}
	return refuse(ReasonHSM, err)
}

// Close destroys the key, also when ctx is over, and gives the turn back. Repeating it does no harm.
func (p *peer) Close(ctx context.Context) error {
	if p.closed {
		return nil
	}
	p.closed = true
	defer func() { <-p.service.turns }()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTime)
	defer cancel()
	if err := p.key.Destroy(ctx); err != nil {
		return refuse(ReasonHSM, err)
	}
	return nil
}

// admitCertificate is the channel's AdmitCertificate: the certificate is of the device CA, the maker's records have it for
// the device, and the registry lists it for the current generation of the record. Neither list is enough: nobody signs the
// registry's, and what is in no registry was never given to its device. The certificate comes first, so who has none costs
// no lookup.
func (s *Service) admitCertificate(ctx context.Context, a *admission, h channel.Hello, c *x509.Certificate) (err error) {
	a.hello = h
	if a.way = wayOf(h); a.way != Certificate {
		return refuse(ReasonWay, errors.New("a certificate belongs to suite 3"))
	}
	if c == nil {
		return refuse(ReasonStranger, errors.New("no certificate was shown"))
	}
	cert, err := devicecert.Check(c.Raw, s.opts.Roots, devicecert.Want{At: time.Now(), Use: keypackage.UseSignature})
	switch {
	case errors.Is(err, devicecert.ErrForm), errors.Is(err, devicecert.ErrIssuer):
		return refuse(ReasonStranger, err)
	case err != nil:
		return refuse(ReasonCert, err)
	}
	if a.device, a.way, err = s.check(ctx, h); err != nil {
		return err
	}
	if err := s.checkCertificate(cert, a.device); err != nil {
		return refuse(ReasonCert, err)
	}
	g, all, err := s.opts.Certificates.Certificates(ctx, a.device.Record)
	switch {
	case err != nil && cert.Record == nil: // whose certificate it is isn't known: told, that would tell who was issued
		return &Refusal{ReasonAway, fmt.Errorf("read the registry's certificates: %w", err)}
	case err != nil:
		return refuse(ReasonAway, fmt.Errorf("read the registry's certificates: %w", err))
	case g != a.device.Generation:
		return refuse(ReasonCert, fmt.Errorf("the registry lists generation %d, the records have %d", g, a.device.Generation))
	case !slices.ContainsFunc(all, func(der []byte) bool { return bytes.Equal(der, c.Raw) }):
		return refuse(ReasonCert, errors.New("the registry does not list it for this record"))
	}
	return nil
}

// checkCertificate asks for no other device's name, nor another product line's, and that it is one of those that the
// records have for the device: one that was made in advance names no record.
func (s *Service) checkCertificate(cert devicecert.Certificate, d issued.Device) error {
	switch {
	case cert.Record != nil && *cert.Record != d.Record:
		return fmt.Errorf("%w: it names record %s", devicecert.ErrOther, cert.Record.Short())
	case cert.Identity != nil && cert.Identity != d.Identity: // the identity stays out of the log
		return fmt.Errorf("%w: it names another identity", devicecert.ErrOther)
	case cert.ProductLine != d.Line:
		return fmt.Errorf("%w: it names product line %q, the records have %q", devicecert.ErrOther, cert.ProductLine, d.Line)
	case !d.Certificates.Has(cert.X509.Raw):
		return fmt.Errorf("%w: it is none of those that the records have for record %s", devicecert.ErrOther, d.Record.Short())
	}
	return nil
}

// source gives the address that a connection counts for.
func source(addr interface{ String() string }) netip.Addr {
	p, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		return netip.Addr{}
	}
	return p.Addr().Unmap().WithZone("")
}
