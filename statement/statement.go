// Package statement makes and checks everything Devicekeys signs with an
// elliptic-curve key and a device, the SPP or the registry reads: COSE_Sign1
// (RFC 9052 §4.2) with ES256, in deterministic CBOR, one content type for each
// purpose.
//
// The content type is the `typ` header (RFC 9596) and is signed, so a
// signature made for one purpose never passes for another, whatever the
// payload says. The protected header has exactly three fields (algorithm, key
// id, type), the unprotected one has none: a statement is four byte strings at
// places that depend on nothing but its type and its length, and a boot ROM
// compares them with constants.
package statement

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"github.com/veraison/go-cose"

	"github.com/devicekeys/devicekeys/detcbor"
)

// Type is what a statement is about, as its typ header says it.
type Type string

// The types of statement. Each is signed by one kind of key, named here.
const (
	// IdentityCertificate binds a device's identity to its chip (identity-signing key).
	IdentityCertificate Type = "application/vnd.devicekeys.identity+cwt"
	// Unlock lets one locked chip take one next generation (identity-signing key).
	Unlock Type = "application/vnd.devicekeys.unlock+cbor"
	// Registry tells the registry's clients that a record is scrapped or erased (identity-signing key).
	Registry Type = "application/vnd.devicekeys.registry+cbor"
	// Attestation is a device's first message on the line (attestation key).
	Attestation Type = "application/vnd.devicekeys.attestation+cbor"
	// DeliveryList names the chips of a delivery (the chip maker's key).
	DeliveryList Type = "application/vnd.devicekeys.delivery+cbor"
	// KeyFile says of one file of devices' keys from outside who sends it (the sender's key).
	KeyFile Type = "application/vnd.devicekeys.key-file+cbor"
	// Submission carries entries to the sequencer (submission key).
	Submission Type = "application/vnd.devicekeys.submission+cbor"
	// AuditHead fixes the audit log up to an entry (audit key).
	AuditHead Type = "application/vnd.devicekeys.audit-head+cbor"
)

// MaxSize is the largest statement that Open reads, in bytes, unless the
// caller gives another limit: a delivery list and a submission are longer than
// what a device parses.
const MaxSize = detcbor.MaxArtefact

// signatureSize is r‖s of ECDSA P-256 (RFC 9053 §2.1).
const signatureSize = 64

// Header bytes of the envelope: tag 18 and an array of four (RFC 9052 §4.2).
var envelope = []byte{0xd2, 0x84}

// Errors of Open. Both mean: do not use the payload.
var (
	// ErrForm says that the bytes are no statement of the expected type.
	ErrForm = errors.New("not a statement of the expected type")
	// ErrSignature says that the statement was not signed by the key, or was changed since.
	ErrSignature = errors.New("signature does not verify")
)

// Signer signs with one private key, usually inside a token.
type Signer interface {
	// Public gives the key that Open checks with.
	Public() PublicKey
	// SignDigest signs a SHA-256 digest, 32 bytes, and gives r‖s, 64 bytes.
	SignDigest(ctx context.Context, digest []byte) ([]byte, error)
}

// Sign makes a statement over payload. It verifies what the signer gave
// before it returns: a token that signs wrongly is found here and not by a
// device in the field.
func Sign(ctx context.Context, s Signer, t Type, payload []byte) ([]byte, error) {
	pub := s.Public()
	if pub.IsZero() {
		return nil, fmt.Errorf("sign %s: the signer has no public key", t)
	}
	protected, err := Protected(t, pub)
	if err != nil {
		return nil, fmt.Errorf("sign %s: %w", t, err)
	}
	msg := cose.NewSign1Message()
	if err := msg.Headers.Protected.UnmarshalCBOR(bstr(protected)); err != nil {
		return nil, fmt.Errorf("sign %s: %w", t, err)
	}
	msg.Payload = payload
	if err := msg.Sign(nil, nil, tokenSigner{ctx, s}); err != nil {
		return nil, fmt.Errorf("sign %s: %w", t, err)
	}
	raw := assemble(protected, payload, msg.Signature)
	if _, err := Open(raw, t, pub, len(raw)); err != nil {
		return nil, fmt.Errorf("sign %s: the token's own signature is wrong, stop using it: %w", t, err)
	}
	return raw, nil
}

// Open checks that raw is a statement of type t signed by key, at most limit
// bytes long, in its one encoding, and gives the payload.
func Open(raw []byte, t Type, key PublicKey, limit int) ([]byte, error) {
	env, err := parse(raw, t, key, limit)
	if err != nil {
		return nil, err
	}
	public, err := key.ecdsa()
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", t, err)
	}
	verifier, err := cose.NewVerifier(cose.AlgorithmES256, public)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", t, err)
	}
	msg := cose.NewSign1Message()
	if err := msg.Headers.Protected.UnmarshalCBOR(bstr(env.Protected)); err != nil {
		return nil, fmt.Errorf("open %s: %w", t, ErrForm)
	}
	msg.Payload, msg.Signature = env.Payload, env.Signature
	if err := msg.Verify(nil, verifier); err != nil {
		return nil, fmt.Errorf("open %s: %w", t, ErrSignature)
	}
	return env.Payload, nil
}

// Unverified gives the payload of a statement of type t without checking who
// signed it: to learn from a message whose key to look up. Whoever calls it
// calls Open before acting.
func Unverified(raw []byte, t Type, limit int) (payload []byte, keyID KeyID, err error) {
	env, err := decode(raw, t, limit)
	if err != nil {
		return nil, keyID, err
	}
	var h header
	if err := detcbor.Unmarshal(env.Protected, &h, len(env.Protected)); err != nil || len(h.KeyID) != len(keyID) || h.Type != string(t) || h.Algorithm != es256 {
		return nil, keyID, fmt.Errorf("open %s: %w: its header is another one", t, ErrForm)
	}
	copy(keyID[:], h.KeyID)
	return env.Payload, keyID, nil
}

// Protected gives the protected header of a statement: constant for a type
// and a key, so that a ROM can compare it.
func Protected(t Type, key PublicKey) ([]byte, error) {
	id := key.ID()
	return detcbor.Marshal(header{Algorithm: es256, KeyID: id[:], Type: string(t)})
}

// ToBeSigned gives the bytes that are hashed and signed (Sig_structure,
// RFC 9052 §4.4): what `openssl dgst -sha256 -verify` reads.
func ToBeSigned(t Type, key PublicKey, payload []byte) ([]byte, error) {
	protected, err := Protected(t, key)
	if err != nil {
		return nil, err
	}
	return detcbor.Array("Signature1", protected, []byte{}, payload), nil
}

const es256 = -7 // RFC 9053 §2.1

type header struct {
	Algorithm int    `cbor:"1,keyasint"`
	KeyID     []byte `cbor:"4,keyasint"`
	Type      string `cbor:"16,keyasint"`
}

type sign1 struct {
	_           struct{} `cbor:",toarray"`
	Protected   []byte
	Unprotected map[int]int // always empty
	Payload     []byte
	Signature   []byte
}

func decode(raw []byte, t Type, limit int) (sign1, error) {
	var env sign1
	if len(raw) > limit {
		return env, fmt.Errorf("open %s: %w: %d bytes, at most %d are read", t, ErrForm, len(raw), limit)
	}
	if !bytes.HasPrefix(raw, envelope) {
		return env, fmt.Errorf("open %s: %w: it does not begin with d284", t, ErrForm)
	}
	if err := detcbor.Unmarshal(raw[1:], &env, limit); err != nil {
		return env, fmt.Errorf("open %s: %w: %w", t, ErrForm, err)
	}
	if env.Unprotected == nil || len(env.Unprotected) != 0 || env.Payload == nil || len(env.Signature) != signatureSize {
		return env, fmt.Errorf("open %s: %w: unprotected header, payload or length of signature", t, ErrForm)
	}
	return env, nil
}

func parse(raw []byte, t Type, key PublicKey, limit int) (sign1, error) {
	if key.IsZero() {
		return sign1{}, fmt.Errorf("open %s: no key to check it with", t)
	}
	env, err := decode(raw, t, limit)
	if err != nil {
		return env, err
	}
	want, err := Protected(t, key)
	if err != nil {
		return env, err
	}
	if !bytes.Equal(env.Protected, want) {
		return env, fmt.Errorf("open %s: %w: it is of another type or by another key", t, ErrForm)
	}
	return env, nil
}

func assemble(protected, payload, signature []byte) []byte {
	raw := bytes.Clone(envelope)
	raw = append(raw, bstr(protected)...)
	raw = append(raw, 0xa0)
	raw = append(raw, bstr(payload)...)
	return append(raw, bstr(signature)...)
}

func bstr(b []byte) []byte { return append(detcbor.Head(2, uint64(len(b))), b...) }

// tokenSigner lets go-cose sign with a key in a token.
type tokenSigner struct {
	ctx context.Context
	s   Signer
}

func (tokenSigner) Algorithm() cose.Algorithm { return cose.AlgorithmES256 }

func (ts tokenSigner) Sign(_ io.Reader, content []byte) ([]byte, error) {
	digest := sha256.Sum256(content)
	return ts.s.SignDigest(ts.ctx, digest[:])
}
