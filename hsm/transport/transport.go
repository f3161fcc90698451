// Package transport brings keys into an HSM: from another HSM, or from outside. Each HSM
// has a transport key, an EC P-256 pair; whoever sends makes a fresh pair, agrees, and
// wraps:
//
//	KEK  = KDF 1 under the agreed secret over ["dk-transport", 1, realm, recipient, e, label]
//	blob = [1, realm, SHA-256(recipient), e, label, AES-KW(KEK, key)]
//
// A secret that is no key travels the same way, encrypted instead of wrapped. The HSM opens it,
// and gives it to the process, which seals it again at once:
//
//	K    = KDF 1 under the agreed secret over a = ["dk-transport-secret", 1, realm, recipient, e, label]
//	blob = [2, realm, SHA-256(recipient), e, label, COSE_Encrypt0(K, a, secret)]
//
// The label says what is sent and is bound to it: what was sent as one thing opens as no
// other. It's not said who sent it: whoever knows the public half can send. So people
// compare check values, and a pair is compared with its public half.
package transport

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/statement"
)

// Limits of a blob, in bytes.
const (
	MaxLabel = keypackage.MaxTransportLabel
	MaxBlob  = keypackage.MaxTransportBlob
)

// ErrOther says that a blob isn't meant for this transport key, realm or label.
var ErrOther = errors.New("the blob is meant for something else")

// Label gives the label of a realm's transport key: "dev-transport".
func Label(realm identity.Realm) string { return realm.Prefix() + "transport" }

// Spec gives what the transport key of a token is.
func Spec(realm identity.Realm) hsm.Spec {
	return hsm.Spec{Kind: hsm.TransportKey, Label: Label(realm), Token: true}
}

func kekContext(realm identity.Realm, recipient, point []byte, label string) []byte {
	return detcbor.Array("dk-transport", 1, realm, recipient, point, label)
}

// Wrap wraps key, a session object that may leave tok, to a transport key. The fresh pair
// and what is derived are session objects, and gone when Wrap returns.
func Wrap(ctx context.Context, tok *hsm.Token, realm identity.Realm, to statement.PublicKey, label string, key *hsm.Key) (blob []byte, err error) {
	if err := keypackage.CheckTransportLabel(label); err != nil {
		return nil, fmt.Errorf("wrap for transport: %w", err)
	}
	own, err := tok.Generate(ctx, hsm.Spec{Kind: hsm.EphemeralKey})
	if err != nil {
		return nil, fmt.Errorf("wrap for transport: %w", err)
	}
	defer func() {
		if err = errors.Join(err, destroy(ctx, own)); err != nil {
			blob = nil
		}
	}()
	kek, gone, err := agree(ctx, tok, own, to.Point(), kekContext(realm, to.Point(), own.Public(), label), hsm.TransferWrapKey)
	if err != nil {
		return nil, fmt.Errorf("wrap for transport: %w", err)
	}
	defer func() { err = errors.Join(err, gone()) }()
	wrapped, err := tok.Wrap(ctx, kek, key)
	if err != nil {
		return nil, fmt.Errorf("wrap for transport: %w", err)
	}
	return encode(realm, to, own.Public(), label, wrapped), nil
}

// WrapSoftware wraps a key that lies in this process's memory: 32 bytes of a symmetric key,
// or a P-256 private key as PKCS #8. It's for senders without an HSM.
func WrapSoftware(realm identity.Realm, to statement.PublicKey, label string, key []byte) ([]byte, error) {
	if err := keypackage.CheckTransportLabel(label); err != nil {
		return nil, fmt.Errorf("wrap for transport: %w", err)
	}
	kek, e, err := agreeSoftware(to, func(e []byte) []byte { return kekContext(realm, to.Point(), e, label) })
	if err != nil {
		return nil, fmt.Errorf("wrap for transport: %w", err)
	}
	defer clear(kek)
	padded := append([]byte(nil), key...)
	for len(padded)%8 != 0 { // a DER item says itself where it ends
		padded = append(padded, 0)
	}
	defer clear(padded)
	wrapped, err := wrapKey(kek, padded)
	if err != nil {
		return nil, err
	}
	return encode(realm, to, e, label, wrapped), nil
}

func encode(realm identity.Realm, to statement.PublicKey, e []byte, label string, wrapped []byte) []byte {
	return keypackage.TransportBlob{Realm: realm, Recipient: sha256.Sum256(to.Point()), Point: e, Label: label, Wrapped: wrapped}.Encode()
}

// ReadLabel gives what a blob says it holds. Nothing in it is proven.
func ReadLabel(blob []byte) (string, error) {
	w, err := keypackage.ParseTransportBlob(blob)
	return w.Label, err
}

// Unwrap unwraps what was sent to own, a token's transport key, under label, as a key of s.
// ErrOther: it was sent to another key, for another realm or under another label; hsm.ErrData:
// it was changed. With an error no key stays: if what was derived can't be destroyed, what was
// unwrapped goes too.
func Unwrap(ctx context.Context, tok *hsm.Token, own *hsm.Key, realm identity.Realm, label string, blob []byte, s hsm.Spec) (key *hsm.Key, err error) {
	w, err := keypackage.ParseTransportBlob(blob)
	if err != nil {
		return nil, err
	}
	if w.Realm != realm || w.Recipient != sha256.Sum256(own.Public()) || w.Label != label {
		return nil, fmt.Errorf("unwrap what was sent as %q in realm %s: %w", w.Label, w.Realm, ErrOther)
	}
	kek, gone, err := agree(ctx, tok, own, w.Point, kekContext(realm, own.Public(), w.Point, label), hsm.TransferUnwrapKey)
	if err != nil {
		return nil, fmt.Errorf("unwrap what was sent: %w", err)
	}
	defer func() {
		if err = errors.Join(err, gone()); err != nil && key != nil {
			err, key = errors.Join(err, destroy(ctx, key)), nil // nobody else knows of it
		}
	}()
	key, err = tok.Unwrap(ctx, kek, w.Wrapped, s)
	if err != nil {
		return nil, fmt.Errorf("unwrap what was sent: %w", err)
	}
	return key, nil
}

// agree derives, as a key of kind, what own and the peer whose point it is have in common under
// context. Both are session objects; gone destroys the key and the agreed secret, and the caller
// calls it. With an error nothing is left to destroy.
func agree(ctx context.Context, tok *hsm.Token, own *hsm.Key, point, context []byte, kind hsm.Kind) (key *hsm.Key, gone func() error, err error) {
	agreed, err := tok.Agree(ctx, own, point, hsm.Spec{Kind: hsm.AgreedKey})
	if err != nil {
		return nil, nil, err
	}
	if key, err = tok.Derive(ctx, agreed, hsm.KDF1, context, hsm.Spec{Kind: kind}); err != nil {
		return nil, nil, errors.Join(err, destroy(ctx, agreed))
	}
	return key, func() error { return destroy(ctx, agreed, key) }, nil
}

// agreeSoftware makes a fresh pair and gives the key that it has in common with to under a
// context, which the caller clears, and the pair's point, which the context is built of.
func agreeSoftware(to statement.PublicKey, context func(e []byte) []byte) (key, e []byte, err error) {
	point, err := ecdh.P256().NewPublicKey(to.Point())
	if err != nil {
		return nil, nil, err
	}
	own, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	agreed, err := own.ECDH(point)
	if err != nil {
		return nil, nil, err
	}
	defer clear(agreed)
	e = own.PublicKey().Bytes()
	key, err = kdf1(agreed, context(e))
	return key, e, err
}

// destroy destroys keys, also when ctx is over; one that stays ends with its session.
func destroy(ctx context.Context, keys ...*hsm.Key) (err error) {
	for _, k := range keys {
		err = errors.Join(err, k.Destroy(context.WithoutCancel(ctx)))
	}
	return err
}

// kdf1 is KDF 1 in software: AES-256-CBC with a zero IV over SHA-256 of the context.
func kdf1(key, context []byte) ([]byte, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(context)
	out := make([]byte, len(sum))
	cipher.NewCBCEncrypter(block, make([]byte, aes.BlockSize)).CryptBlocks(out, sum[:])
	return out, nil
}

// wrapKey is AES Key Wrap in software (RFC 3394 §2.2.1).
func wrapKey(kek, key []byte) ([]byte, error) {
	block, err := aes.NewCipher(kek)
	if err != nil {
		return nil, err
	}
	n := len(key) / 8
	out := append([]byte{0xa6, 0xa6, 0xa6, 0xa6, 0xa6, 0xa6, 0xa6, 0xa6}, key...)
	var b [aes.BlockSize]byte
	for j := range 6 {
		for i := 1; i <= n; i++ {
			copy(b[:8], out[:8])
			copy(b[8:], out[8*i:])
			block.Encrypt(b[:], b[:])
			binary.BigEndian.PutUint64(out, binary.BigEndian.Uint64(b[:8])^uint64(n*j+i))
			copy(out[8*i:], b[8:])
		}
	}
	return out, nil
}
