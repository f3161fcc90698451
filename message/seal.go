package message

import (
	"context"
	"crypto/ecdh"
	"crypto/hpke"
	"errors"
	"fmt"

	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/devicecert"
	"github.com/devicekeys/devicekeys/statement"
)

// Seal encrypts a message to the key of a certificate that devicecert.Check gave:
// any other is refused. Whose it is the caller has made sure of: by the record or
// identity that it names, or by the device's manifest (Certificate.Of); and that
// the device still is in use, by the registry. A sender that is not nil signs it. Two calls give different
// bytes: the encapsulated key is drawn by crypto/hpke, in this process, and
// dies with the call.
func Seal(ctx context.Context, to devicecert.Certificate, m Message, sender statement.Signer) ([]byte, error) {
	raw, err := seal(ctx, to, m, sender)
	if err != nil {
		return nil, fmt.Errorf("seal message: %w", err)
	}
	return raw, nil
}

func seal(ctx context.Context, to devicecert.Certificate, m Message, sender statement.Signer) ([]byte, error) {
	if err := checkCertificate(to); err != nil {
		return nil, err
	}
	if err := m.check(); err != nil {
		return nil, err
	}
	plain := plainWire{Version: version, Signed: anonymous}
	var err error
	if plain.Bytes, err = m.encode(to); err != nil {
		return nil, err
	}
	if sender != nil {
		plain.Signed = signed
		if plain.Bytes, err = statement.Sign(ctx, sender, Statement, plain.Bytes); err != nil {
			return nil, err
		}
	}
	plaintext, err := detcbor.Marshal(plain)
	if err != nil {
		return nil, err
	}
	public, err := hpke.DHKEM(ecdh.P256()).NewPublicKey(to.Public.Point())
	if err != nil {
		return nil, err
	}
	enc, context, err := hpke.NewSender(public, hpke.HKDFSHA256(), hpke.AES256GCM(), info(to))
	if err != nil {
		return nil, err
	}
	id := KeyIDOf(to.Public)
	ciphertext, err := context.Seal(aad(SuiteP256, id, enc), plaintext)
	if err != nil {
		return nil, err
	}
	raw, err := detcbor.Marshal(envelope{Version: version, Suite: uint(SuiteP256), KeyID: id[:], Enc: enc, Ciphertext: ciphertext})
	if err != nil {
		return nil, err
	}
	if len(raw) > MaxSize {
		return nil, errors.New("it is longer than what a device reads")
	}
	return raw, nil
}
