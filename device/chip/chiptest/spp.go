// Package chiptest is what tests of chips and devices share: one suite that
// every chip must pass, and a secure processing point in plain Go.
//
// The software SPP computes everything a second time with the standard library
// alone (KDF 1, RFC 3394, AES-GCM, HMAC, ECDSA), so that a token chip's
// arithmetic is checked against an independent one. Its keys are in memory;
// nothing but tests may use it.
package chiptest

import (
	"context"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"testing"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/statement"
)

// SPP is a manufacturer's secure processing point, in memory. It is the
// identity-signing key too, as a statement.Signer.
type SPP struct {
	Realm identity.Realm
	statement.SoftwareKey
}

// NewSPP makes one with a fresh identity-signing key.
func NewSPP(t testing.TB, realm identity.Realm) *SPP {
	t.Helper()
	k, err := statement.GenerateSoftwareKey()
	check(t, err)
	return &SPP{Realm: realm, SoftwareKey: k}
}

// ROMKey gives the key that goes into ROMs.
func (s *SPP) ROMKey() statement.PublicKey { return s.Public() }

// TestIMEI gives an identity of the range reserved for tests.
func TestIMEI(t testing.TB, serial int) identity.IMEI {
	t.Helper()
	i, err := identity.TAC("00440200").IMEI(serial)
	check(t, err)
	return i
}

// ParseHello takes a hello as it travels and gives M1, as the SPP does after
// it looked up the attestation key (zero: the message must be unattested).
func ParseHello(t testing.TB, raw []byte, attestation statement.PublicKey) []byte {
	t.Helper()
	if attestation.IsZero() {
		return raw
	}
	m1, err := statement.Open(raw, statement.Attestation, attestation, keypackage.MaxHello)
	check(t, err)
	return m1
}

// Assemble answers a hello (M1) with a package.
func (s *SPP) Assemble(t testing.TB, m1 []byte, o Order) Assembly {
	t.Helper()
	hello, err := keypackage.ParseHello(m1)
	check(t, err)
	if o.Identity == nil {
		o.Identity = TestIMEI(t, 1)
	}
	if o.Subject == nil {
		o.Subject = o.Identity
	}
	if o.Generation == 0 {
		o.Generation = 1
	}
	if o.Items == nil {
		o.Items = []Item{Channel()}
	}
	if o.Realm == 0 {
		o.Realm = s.Realm
	}
	if o.ChipID.IsZero() {
		o.ChipID = hello.ChipID
	}
	a := Assembly{Items: o.Items}
	a.Manifest = s.manifest(t, o)
	a.RawManifest, err = a.Manifest.Encode()
	check(t, err)
	claims := identity.Claims{
		Subject: o.Subject, IssuedAt: 1_700_000_000, ChipID: o.ChipID, Realm: o.Realm,
		Generation: o.Generation, Manifest: sha256.Sum256(a.RawManifest),
	}
	if o.Claims != nil {
		o.Claims(&claims)
	}
	raw, err := claims.Encode()
	check(t, err)
	a.Certificate, err = identity.SignCertificate(context.Background(), s, raw)
	check(t, err)
	s.seal(t, &a, m1, hello, o)
	return a
}

// manifest vouches for each item, drawing what was not given.
func (s *SPP) manifest(t testing.TB, o Order) keypackage.Manifest {
	m := keypackage.Manifest{Realm: o.Realm, Identity: o.Identity, ChipID: o.ChipID, Generation: o.Generation}
	for i := range o.Items {
		item := &o.Items[i]
		e := keypackage.Entry{Kind: item.Kind, Key: keypackage.KeyID{Name: item.Name}, Algorithm: item.Algorithm, Clear: item.Clear}
		if item.Value == nil {
			item.Value = Random(32)
		}
		switch e.Form() {
		case keypackage.FormKey:
			if item.Kind == keypackage.Communication {
				e.Key.KDF, e.Key.Version = 1, 1
			}
			e.Vouch = MAC(item.Value, keypackage.CheckMessage(m, e.Key))
		case keypackage.FormPair:
			k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			check(t, err)
			item.pair = k
			e.Vouch, err = k.PublicKey.Bytes()
			check(t, err)
		case keypackage.FormSecret:
			item.random = [32]byte(Random(32))
			c := keypackage.Commitment(item.random, item.Value)
			e.Vouch = c[:]
		case keypackage.FormClear:
			e.Vouch = item.Value
		}
		m.Entries = append(m.Entries, e)
	}
	if o.Manifest != nil {
		o.Manifest(&m)
	}
	return m
}

// seal carries out the SPP's side of the transfer.
func (s *SPP) seal(t testing.TB, a *Assembly, m1 []byte, hello keypackage.Hello, o Order) {
	own, err := ecdh.P256().GenerateKey(rand.Reader)
	check(t, err)
	peer, err := ecdh.P256().NewPublicKey(hello.Point.Point())
	check(t, err)
	agreed, err := own.ECDH(peer)
	check(t, err)
	a.Point, err = statement.ParsePoint(own.PublicKey().Bytes())
	check(t, err)
	a.Transcript = keypackage.Transcript(m1, a.Point.Point(), a.Certificate.ClaimsBytes())
	kek := KDF1(t, agreed, keypackage.TransferContext(hello.Suite, keypackage.TransferKEK, a.Transcript))
	var secrets []keypackage.Secret
	for _, item := range a.Items {
		e := keypackage.Entry{Kind: item.Kind, Algorithm: item.Algorithm, Clear: item.Clear}
		switch e.Form() {
		case keypackage.FormKey:
			a.Wrapped = append(a.Wrapped, Wrap(t, kek, item.Value))
		case keypackage.FormPair:
			a.Wrapped = append(a.Wrapped, Wrap(t, kek, PrivateKeyInfo(t, item.pair)))
		case keypackage.FormSecret:
			secrets = append(secrets, keypackage.Secret{Random: item.random[:], Value: item.Value})
		}
	}
	if secrets != nil {
		plain, err := keypackage.EncodeSecrets(secrets)
		check(t, err)
		key := KDF1(t, agreed, keypackage.TransferContext(hello.Suite, keypackage.TransferPackage, a.Transcript))
		a.Secrets = Seal(t, key, keypackage.PackageAAD(a.Transcript), plain)
	}
	p := keypackage.DataPackage{Point: a.Point, Certificate: a.Certificate.Bytes(), Manifest: a.RawManifest, Wrapped: a.Wrapped, Secrets: a.Secrets}
	if o.Point != nil {
		p.Point = *o.Point
	}
	if o.Package != nil {
		o.Package(&p)
	}
	a.Package, err = p.Encode()
	check(t, err)
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
