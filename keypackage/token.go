package keypackage

import (
	"context"

	"github.com/devicekeys/devicekeys/statement"
)

// TransitKey is any key of a device, inside the SPP's HSM on its way to the
// device: it leaves only wrapped. Implementations are safe for concurrent use.
type TransitKey interface {
	// Destroy ends the key's life in the token. Repeating it does no harm.
	Destroy(ctx context.Context) error
}

// MACKey is a symmetric key of a device, inside a token: the SPP's HSM or the
// device's own. It authenticates messages and leaves the token only wrapped.
// Implementations are safe for concurrent use.
type MACKey interface {
	// MAC gives HMAC-SHA-256 of msg, 32 bytes.
	MAC(ctx context.Context, msg []byte) ([]byte, error)
	// Verify checks a MAC inside the token; the right one never exists outside
	// it. An error that matches statement.ErrSignature means: it is wrong.
	Verify(ctx context.Context, msg, mac []byte) error
	// Destroy ends the key's life in the token. Repeating it does no harm.
	Destroy(ctx context.Context) error
}

// Sender is the SPP's side of one transfer: a fresh pair and the secret agreed
// with one device's point, all inside the HSM. It serves one goroutine.
type Sender interface {
	// Point gives e_S.
	Point() statement.PublicKey
	// Bind derives the transfer's keys for a transcript: the KEK, and with
	// secrets also K_pkg. It is called once.
	Bind(ctx context.Context, suite Suite, transcript [32]byte, secrets bool) error
	// Wrap wraps a device key under the KEK: 40 bytes, for a private key 80.
	Wrap(ctx context.Context, key TransitKey) ([]byte, error)
	// Seal encrypts the other secrets under K_pkg, once.
	Seal(ctx context.Context, transcript [32]byte, plaintext []byte) (Sealed, error)
	// Close destroys everything the transfer had in the HSM.
	Close(ctx context.Context) error
}
