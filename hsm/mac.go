package hsm

import (
	"context"
	"fmt"

	"github.com/miekg/pkcs11"
)

// MACSize is the size of an HMAC-SHA-256, never cut short.
const MACSize = 32

// MAC gives HMAC-SHA-256 over msg, 32 bytes.
func (k *Key) MAC(ctx context.Context, msg []byte) ([]byte, error) {
	return k.sign(ctx, "MAC", pkcs11.CKM_SHA256_HMAC, msg)
}

// Verify checks an HMAC-SHA-256 inside the token: the right MAC never comes out.
// errors.Is(err, [ErrMAC]) when mac isn't msg's.
func (k *Key) Verify(ctx context.Context, msg, mac []byte) error {
	if len(mac) != MACSize {
		return fmt.Errorf("hsm: verify with %s: %d bytes instead of %d: %w", k, len(mac), MACSize, ErrMAC)
	}
	return k.use(ctx, "verify with "+k.String(), func(s *session, h pkcs11.ObjectHandle) error {
		return k.token.lib.verify(s.handle, pkcs11.CKM_SHA256_HMAC, h, msg, mac)
	})
}

// CMAC gives AES-CMAC over msg, 16 bytes. Only master and purpose keys that serve KDF 2
// through the host may.
func (k *Key) CMAC(ctx context.Context, msg []byte) ([]byte, error) {
	return k.sign(ctx, "CMAC", pkcs11.CKM_AES_CMAC, msg)
}

func (k *Key) sign(ctx context.Context, act string, mechanism uint, msg []byte) ([]byte, error) {
	var b []byte
	err := k.use(ctx, act+" with "+k.String(), func(s *session, h pkcs11.ObjectHandle) (err error) {
		b, err = k.token.lib.sign(s.handle, mechanism, h, msg)
		return err
	})
	return b, err
}
