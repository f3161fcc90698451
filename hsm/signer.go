package hsm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"errors"
	"fmt"
	"io"
	"sync"

	pool11 "github.com/thales-e-security/pool" // crypto11's session pool, for its error
)

// Signer returns the key pair labelled label as a [crypto.Signer] for TLS and X.509,
// through crypto11. Only tokens opened as Config.SignToken have it. It is safe for
// concurrent use; a signature waits at most 5 s for a session. Keep it: finding the
// pair takes longer than ten signatures. It outlives the loss of the token: while that
// is away a signature fails at once ([ErrAway]), and afterwards it works again.
func (t *Token) Signer(label string) (crypto.Signer, error) {
	if t.lib.signSlot == nil || t.lib.signSlot != t.slot {
		return nil, fmt.Errorf("hsm: signer %q: token %q isn't the one named SignToken when the module was loaded", label, t.info.Label)
	}
	if label == "" {
		return nil, errors.New("hsm: signer: no label given")
	}
	s := &signer{token: t, label: label}
	if err := t.lib.signers.enter(); err != nil {
		return nil, fmt.Errorf("hsm: find signer %q in token %q: %w", label, t.info.Label, err)
	}
	defer t.lib.signers.leave()
	if _, err := s.current(); err != nil {
		t.lib.recovery.observe(t.slot, err)
		return nil, fmt.Errorf("hsm: find signer %q in token %q: %w", label, t.info.Label, err)
	}
	return s, nil
}

// signer is a pair in crypto11's present context. It counts crypto11's calls and says
// which key failed.
type signer struct {
	token  *Token
	label  string
	public *ecdsa.PublicKey // set when it is found first, and the same from then on

	mu    sync.Mutex
	pair  crypto.Signer
	epoch uint64 // of the context that pair was found in
}

func (s *signer) Public() crypto.PublicKey { return s.public }

// current gives the pair in the present context, finding it where that is a new one. It
// is called between enter and leave.
func (s *signer) current() (crypto.Signer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := &s.token.lib.signers
	if s.pair != nil && s.epoch == g.epoch {
		return s.pair, nil
	}
	lock := s.token.lib.objects.ofSlot(s.token.slot.id)
	lock.RLock()
	found, err := g.ctx.FindKeyPairs(nil, []byte(s.label))
	lock.RUnlock()
	if err != nil {
		return nil, translated(err)
	}
	switch len(found) {
	case 0:
		return nil, ErrNoKey
	case 1:
	default:
		return nil, fmt.Errorf("%d key pairs have this label: run a sweep", len(found))
	}
	pub, ok := found[0].Public().(*ecdsa.PublicKey)
	switch {
	case !ok || pub.Curve != elliptic.P256():
		return nil, errors.New("it isn't a P-256 pair")
	case s.public == nil:
		s.public = pub
	case !s.public.Equal(pub):
		return nil, fmt.Errorf("%w: a different pair has its label now: restore the token from its backup", ErrNoKey)
	}
	s.pair, s.epoch = found[0], g.epoch
	return s.pair, nil
}

// Sign gives an ECDSA signature in DER, over a digest. The token draws its own
// randomness.
func (s *signer) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	sig, err := s.sign(rand, digest, opts)
	if err != nil {
		return nil, fmt.Errorf("hsm: sign with %q in token %q: %w", s.label, s.token.info.Label, err)
	}
	return sig, nil
}

func (s *signer) sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	lib := s.token.lib
	if err := lib.signers.enter(); err != nil {
		return nil, err
	}
	defer lib.signers.leave()
	pair, err := s.current()
	if err != nil {
		lib.recovery.observe(s.token.slot, err)
		return nil, err
	}
	lib.calls[fnSignInit].Add(1)
	sig, err := pair.Sign(rand, digest, opts)
	if errors.Is(err, pool11.ErrTimeout) {
		err = fmt.Errorf("all of crypto11's sessions in use for %v: %w", signWait, ErrBusy)
	}
	if err = lib.count(fnSign, 2, err); err == nil {
		return sig, nil
	}
	if codeOf(err) != 0 {
		// crypto11 keeps the session whatever happened in it.
		lib.signers.worn.Store(true)
		lib.recovery.suspect(s.token.slot)
	}
	return nil, err
}
