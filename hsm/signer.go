package hsm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"errors"
	"fmt"
	"io"

	pool11 "github.com/thales-e-security/pool" // crypto11's session pool, for its error
)

// Signer returns the key pair labelled label as a [crypto.Signer] for TLS and X.509,
// through crypto11. Only tokens opened as Config.SignToken have it. It is safe for
// concurrent use; a signature waits at most 5 s for a session. Keep it: finding the
// pair takes longer than ten signatures.
func (t *Token) Signer(label string) (crypto.Signer, error) {
	if t.lib.signing == nil || t.lib.signSlot != t.slot {
		return nil, fmt.Errorf("hsm: signer %q: token %q isn't the one named SignToken when the module was loaded", label, t.info.Label)
	}
	if label == "" {
		return nil, errors.New("hsm: signer: no label given")
	}
	found, err := t.lib.signing.FindKeyPairs(nil, []byte(label))
	if err != nil {
		return nil, fmt.Errorf("hsm: find signer %q in token %q: %w", label, t.info.Label, translated(err))
	}
	switch len(found) {
	case 0:
		return nil, fmt.Errorf("hsm: find signer %q in token %q: %w", label, t.info.Label, ErrNoKey)
	case 1:
	default:
		return nil, fmt.Errorf("hsm: find signer %q in token %q: %d key pairs have this label: run a sweep", label, t.info.Label, len(found))
	}
	pub, ok := found[0].Public().(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() {
		return nil, fmt.Errorf("hsm: signer %q in token %q isn't a P-256 pair", label, t.info.Label)
	}
	return &signer{token: t, label: label, pair: found[0]}, nil
}

// signer counts crypto11's calls and says which key failed.
type signer struct {
	token *Token
	label string
	pair  crypto.Signer
}

func (s *signer) Public() crypto.PublicKey { return s.pair.Public() }

// Sign gives an ECDSA signature in DER, over a digest. The token draws its own
// randomness.
func (s *signer) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	lib := s.token.lib
	lib.calls[fnSignInit].Add(1)
	sig, err := s.pair.Sign(rand, digest, opts)
	if errors.Is(err, pool11.ErrTimeout) {
		err = fmt.Errorf("all of crypto11's sessions in use for %v: %w", signWait, ErrBusy)
	}
	if err = lib.count(fnSign, 2, err); err != nil {
		return nil, fmt.Errorf("hsm: sign with %q in token %q: %w", s.label, s.token.info.Label, err)
	}
	return sig, nil
}
