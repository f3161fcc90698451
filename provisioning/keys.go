package provisioning

import (
	"context"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/statement"
)

// Keys is what the assembly asks of the maker's HSM. All methods are safe for
// concurrent use and bounded in time by their context. An error that matches
// statement.ErrSignature or ErrForm, or has a method DataFault() bool that
// gives true, speaks of the data; of others Config.KeyFault says whose they are.
type Keys interface {
	// ROMKey is the public half of the identity-signing key: what a device has
	// in its ROM.
	ROMKey() statement.PublicKey
	// DeviceKey derives one device key from the purpose key that id names. The
	// audit entry that licenses it is committed before the call.
	DeviceKey(ctx context.Context, id keypackage.KeyID, context []byte) (keypackage.MACKey, error)
	// NewSender makes a fresh pair and agrees on a secret with the peer's point.
	NewSender(ctx context.Context, peer statement.PublicKey) (keypackage.Sender, error)
	// SignCertificate signs claims that were stored before.
	SignCertificate(ctx context.Context, claims []byte) (identity.Certificate, error)
	// SignSubmission makes a statement.Submission over its payload.
	SignSubmission(ctx context.Context, payload []byte) ([]byte, error)
	// SealSecret and OpenSecret keep the secrets of devices under way.
	SealSecret(ctx context.Context, aad, plaintext []byte) (keypackage.Sealed, error)
	OpenSecret(ctx context.Context, aad []byte, s keypackage.Sealed) ([]byte, error)
	// Make makes a device's key that is a function of nothing, and gives it wrapped under
	// the pool's keys; Fetch has it in the HSM again, to be wrapped to its device.
	Make(ctx context.Context, alg keypackage.Algorithm) (keypackage.WaitingKey, error)
	Fetch(ctx context.Context, w keypackage.WaitingKey) (keypackage.TransitKey, error)
	// CheckValue gives HMAC-SHA-256 of msg under a symmetric key that waits.
	CheckValue(ctx context.Context, w keypackage.WaitingKey, msg []byte) ([]byte, error)
	// Share wraps a waiting HMAC key to another HSM's transport key.
	Share(ctx context.Context, w keypackage.WaitingKey, to statement.PublicKey, label string) ([]byte, error)
	// Random gives n random bytes of the HSM.
	Random(ctx context.Context, n int) ([]byte, error)
	// SignAuditHead makes a statement.AuditHead over its payload.
	SignAuditHead(ctx context.Context, payload []byte) ([]byte, error)
	// Check tells whether the HSM works, by reading a key; it uses none.
	Check(ctx context.Context) error
}
