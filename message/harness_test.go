package message_test

import (
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"math/big"
	"testing"

	"github.com/devicekeys/devicekeys/devicecert"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/message"
	"github.com/devicekeys/devicekeys/statement"
)

const (
	dev  = identity.Development
	prod = identity.Production
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// key gives the key of a name: the same name gives the same key.
func key(t testing.TB, name string) *ecdsa.PrivateKey {
	t.Helper()
	d := sha256.Sum256([]byte("message test key " + name))
	k, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), d[:])
	must(t, err)
	return k
}

// software is a key in memory: an Agreer and a statement.Signer whose signatures don't change (RFC 6979).
type software struct {
	private *ecdsa.PrivateKey
	public  statement.PublicKey
	err     error // of Agree
	short   bool  // Agree gives too little
}

func newSoftware(t testing.TB, name string) *software {
	t.Helper()
	k := key(t, name)
	p, err := statement.FromECDSA(&k.PublicKey)
	must(t, err)
	return &software{private: k, public: p}
}

func (s *software) Public() statement.PublicKey { return s.public }

func (s *software) Agree(ctx context.Context, peer []byte) ([]byte, error) {
	if s.err != nil || ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	k, err := s.private.ECDH()
	if err != nil {
		return nil, err
	}
	p, err := ecdh.P256().NewPublicKey(peer)
	if err != nil {
		return nil, err
	}
	secret, err := k.ECDH(p)
	if s.short {
		secret = secret[1:]
	}
	return secret, err
}

func (s *software) SignDigest(_ context.Context, digest []byte) ([]byte, error) {
	der, err := s.private.Sign(nil, digest, crypto.SHA256)
	if err != nil {
		return nil, err
	}
	var sig struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &sig); err != nil {
		return nil, err
	}
	return append(sig.R.FillBytes(make([]byte, 32)), sig.S.FillBytes(make([]byte, 32))...), nil
}

// certify gives a certificate of a public key, by a CA of its own.
func certify(t testing.TB, public statement.PublicKey, realm identity.Realm, u keypackage.Use) devicecert.Certificate {
	t.Helper()
	signer := key(t, "ca")
	ca, err := devicecert.SelfSigned(realm, "Example Devices", signer)
	must(t, err)
	return certifyBy(t, ca, public, realm, u)
}

func certifyBy(t testing.TB, ca *x509.Certificate, public statement.PublicKey, realm identity.Realm, u keypackage.Use) devicecert.Certificate {
	t.Helper()
	authority, err := devicecert.New(ca, key(t, "ca"))
	must(t, err)
	roots, err := devicecert.NewRoots(realm, ca)
	must(t, err)
	record := identity.RecordID{1}
	der, err := authority.Certify(t.Context(), devicecert.Request{Realm: realm, Use: u, Public: public, Record: &record, ProductLine: "phone-a"})
	must(t, err)
	c, err := devicecert.Check(der, roots, devicecert.Want{})
	must(t, err)
	return c
}

// device is a recipient with its key in memory.
func device(t testing.TB, name string) message.Recipient {
	t.Helper()
	s := newSoftware(t, name)
	return message.Recipient{Key: s, Certificate: certify(t, s.public, dev, keypackage.UseAgreement)}
}

func newMessage(t testing.TB, body string) message.Message {
	t.Helper()
	id, err := message.NewID()
	must(t, err)
	return message.Message{ID: id, ContentType: "text/plain", Body: []byte(body)}
}

var everyone = message.Policy{Anonymous: true}
