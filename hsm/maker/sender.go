package maker

import (
	"context"
	"errors"
	"fmt"

	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/statement"
)

// NewSender begins one transfer to the device whose fresh point is peer: it makes a pair of its own, agrees, and
// destroys the private half at once. All of it is session objects; Close destroys what is left.
func (k *Keys) NewSender(ctx context.Context, peer statement.PublicKey) (keypackage.Sender, error) {
	if peer.IsZero() {
		return nil, errors.New("begin transfer: the device's point is missing")
	}
	own, err := k.tok.Generate(ctx, hsm.Spec{Kind: hsm.EphemeralKey})
	if err != nil {
		return nil, fmt.Errorf("begin transfer: %w", err)
	}
	point, err := statement.ParsePoint(own.Public())
	var agreed *hsm.Key
	if err == nil {
		agreed, err = k.tok.Agree(ctx, own, peer.Point(), hsm.Spec{Kind: hsm.AgreedKey})
	}
	// One pair, one agreement: the private half has done its work, or will never do it.
	s := &sender{keys: k, point: point, agreed: agreed}
	if err := errors.Join(err, destroy(context.WithoutCancel(ctx), own)); err != nil {
		return nil, errors.Join(fmt.Errorf("begin transfer: %w", err), s.Close(ctx))
	}
	return s, nil
}

// sender is one transfer. It serves one goroutine.
type sender struct {
	keys       *Keys
	point      statement.PublicKey
	transcript [32]byte
	agreed     *hsm.Key // until Bind
	kek        *hsm.Key // from Bind on
	seal       *hsm.Key // from Bind on, until it has sealed; nil without secrets
}

// Point gives e_S.
func (s *sender) Point() statement.PublicKey { return s.point }

// Bind derives the KEK, and with secrets K_pkg, for the transcript, and destroys the agreed key, which derives
// nothing else. After a failure the sender is only closed.
func (s *sender) Bind(ctx context.Context, suite keypackage.Suite, transcript [32]byte, secrets bool) error {
	if s.agreed == nil {
		return errors.New("bind transfer: it was bound or closed before; begin a new one")
	}
	if !suite.Valid() {
		return fmt.Errorf("bind transfer: %s is not known", suite)
	}
	agreed := s.agreed
	s.agreed = nil
	derive := func(use keypackage.TransferKeyUse, kind hsm.Kind) (*hsm.Key, error) {
		return s.keys.tok.Derive(ctx, agreed, hsm.KDF1, keypackage.TransferContext(suite, use, transcript), hsm.Spec{Kind: kind})
	}
	var err error
	s.kek, err = derive(keypackage.TransferKEK, hsm.TransferWrapKey)
	if err == nil && secrets {
		s.seal, err = derive(keypackage.TransferPackage, hsm.TransferSealKey)
	}
	if err = errors.Join(err, destroy(context.WithoutCancel(ctx), agreed)); err != nil {
		return errors.Join(fmt.Errorf("bind transfer: %w", err), s.Close(ctx))
	}
	s.transcript = transcript
	return nil
}

// Wrap wraps a key that Keys.DeviceKey or Keys.Fetch gave: 40 bytes, of a pair 80.
func (s *sender) Wrap(ctx context.Context, key keypackage.TransitKey) ([]byte, error) {
	if s.kek == nil {
		return nil, errors.New("wrap device key: the transfer is not bound")
	}
	var what *hsm.Key
	size := keypackage.SymmetricSize + 8
	switch k := key.(type) {
	case *deviceKey:
		if k.keys == s.keys {
			what = k.key
		}
	case *transitKey:
		if k.keys == s.keys {
			what, size = k.key, keypackage.Entry{Algorithm: k.algorithm}.WrappedSize()
		}
	}
	if what == nil {
		return nil, fmt.Errorf("wrap device key: a %T is no device key of this token", key)
	}
	return s.keys.wrap(ctx, s.kek, what, size)
}

// wrap wraps a key and makes sure that the result is as long as it has to be.
func (k *Keys) wrap(ctx context.Context, kek, key *hsm.Key, size int) ([]byte, error) {
	blob, err := k.tok.Wrap(ctx, kek, key)
	if err != nil {
		return nil, fmt.Errorf("wrap device key: %w", err)
	}
	if len(blob) != size {
		return nil, fmt.Errorf("wrap device key: the token gave %d bytes, RFC 3394 gives %d: stop using it", len(blob), size)
	}
	return blob, nil
}

// Seal encrypts the other secrets under K_pkg and destroys it: it is used once.
func (s *sender) Seal(ctx context.Context, transcript [32]byte, plaintext []byte) (keypackage.Sealed, error) {
	switch {
	case s.seal == nil:
		return keypackage.Sealed{}, errors.New("seal secrets: the transfer is bound without secrets, or has sealed them already")
	case transcript != s.transcript:
		return keypackage.Sealed{}, errors.New("seal secrets: the transcript is not the one that the transfer is bound to")
	case len(plaintext) == 0 || len(plaintext) > keypackage.MaxPackage:
		return keypackage.Sealed{}, fmt.Errorf("seal secrets of %d bytes: 1 to %d are allowed", len(plaintext), keypackage.MaxPackage)
	}
	key := s.seal
	s.seal = nil
	nonce, ciphertext, err := key.Seal(ctx, keypackage.SealedAAD(keypackage.PackageAAD(transcript)), plaintext)
	if err = errors.Join(err, destroy(context.WithoutCancel(ctx), key)); err != nil {
		return keypackage.Sealed{}, fmt.Errorf("seal secrets: %w", err)
	}
	return sealed(nonce, ciphertext)
}

// Close destroys everything that the transfer still has in the token, also when ctx is over. Repeating it does no
// harm. What fails to be destroyed dies with the token's sessions.
func (s *sender) Close(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	var errs []error
	for _, key := range []**hsm.Key{&s.agreed, &s.kek, &s.seal} {
		if *key != nil {
			errs = append(errs, destroy(ctx, *key))
			*key = nil
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close transfer: %w", err)
	}
	return nil
}
