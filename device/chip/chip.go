// Package chip is the one part of a personal device that nobody can read: it
// holds the chip ID, the chip key and the attestation key, which the chip
// maker put there, and the few things that are written once and for ever: the
// ROM key, the lock and the generation floor.
//
// A [Chip] does what the device asks and decides nothing: what a package is
// worth, in which order it is checked, and when flash is written is the
// business of package device. What a chip does see to is that keys stay inside
// and that no key is handed out that its manifest does not vouch for.
//
// Two implementations:
//
//   - [Token], a PKCS#11 token slot of its own: the chip of every device that
//     means it, on a development bench in SoftHSM.
//   - [Software], pure Go in this process's memory, for generating load. It
//     protects nothing and says so; production refuses it.
//
// Package chiptest has the one suite that both must pass.
//
// # Keys of a package
//
//	agreed secret ─KDF 1─> KEK ──unwraps──> keys of the data package
//	              └KDF 1─> K_pkg ─opens──> its other secrets
//	chip key ─────KDF 1─> chip wrap key ─wraps─> the same keys, for the backup
//	              └KDF 1─> chip seal key ─seals─> the backup's contents
//
// Wrapping and unwrapping, sealing and opening use keys derived separately,
// each good for its own direction only: the handle that unwraps after a boot
// carries a template by which what it unwraps can never leave again.
package chip

import (
	"context"
	"errors"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/statement"
)

// Errors that tell whose fault it is. Every other error of a chip means that
// the chip itself failed.
var (
	// ErrData says that bytes from outside are at fault: a wrapped key does
	// not unwrap, a sealed content does not open.
	ErrData = errors.New("does not open under this chip's keys")
	// ErrVouch says that a key unwrapped, but is not the one its manifest
	// entry vouches for.
	ErrVouch = errors.New("key is not the one that the manifest vouches for")
	// ErrPoint says that the peer's point is the chip's own, or no point of P-256.
	ErrPoint = errors.New("the peer's point is this chip's own, or none")
	// ErrUsed says that an exchange, transfer or key was used up or closed.
	ErrUsed = errors.New("used up")
	// ErrWritten says that something write-once holds another value already.
	ErrWritten = errors.New("already written with another value")
	// ErrAlgorithm says that the chip cannot hold keys of this algorithm.
	ErrAlgorithm = errors.New("the chip has no keys of this algorithm")
)

// Description tells what a chip is made of.
type Description struct {
	Software     bool   // no protection at all: load generation only
	Manufacturer string // the token's, as it names itself; "SoftHSM project" is for development
	Label        string // the token's; "" for a software chip
}

// Fuses is what a chip remembers for ever, whatever happens to its flash.
type Fuses struct {
	Locked bool                // takes another package only with an unlock statement
	Floor  identity.Generation // lowest generation that may run; 0 before the first was published
}

// Chip is one device's chip. Its methods may be called from several
// goroutines; what they return serves one.
type Chip interface {
	// Describe tells what the chip is made of.
	Describe() Description
	// Realm gives the realm the chip was made for.
	Realm() identity.Realm
	// ID gives the chip ID. A chip that has none, several, or one that is
	// malformed cannot be opened.
	ID() identity.ChipID
	// Attester signs with the attestation key, whose public half stands in
	// the chip maker's delivery list.
	Attester() statement.Signer

	// Exchange makes a fresh pair for one transfer.
	Exchange(ctx context.Context) (Exchange, error)
	// Protect derives the keys that encrypt a package of these claims (their
	// SHA-256) for this chip. Call it only for a package that was verified.
	Protect(ctx context.Context, claims [32]byte) (Protection, error)
	// Recover derives the keys that decrypt what Protect's encrypted.
	Recover(ctx context.Context, claims [32]byte) (Recovery, error)

	// ROMKey gives the key in ROM, the zero value before it was written.
	ROMKey(ctx context.Context) (statement.PublicKey, error)
	// WriteROMKey writes it once. The same key again is fine; another one
	// matches ErrWritten. A crash leaves it written or not.
	WriteROMKey(ctx context.Context, key statement.PublicKey) error
	// Fuses reads lock and floor, from the chip and not from memory.
	Fuses(ctx context.Context) (Fuses, error)
	// RaiseFloor sets the floor, durably, unless it is as high already; it
	// never lowers it. A crash leaves the old floor or the new one.
	RaiseFloor(ctx context.Context, floor identity.Generation) error
	// Lock locks the chip, durably and for ever. A crash leaves it locked or not.
	Lock(ctx context.Context) error

	// Close ends every session with the chip and with it every key that was
	// derived or unwrapped.
	Close(ctx context.Context) error
}

// Exchange is the device's side of one transfer: a fresh pair whose private
// half is in the chip.
type Exchange interface {
	// Point gives e_D.
	Point() statement.PublicKey
	// Agree computes the shared secret with the SPP's point and derives the
	// transfer's keys for a suite and a transcript: the KEK and, with secrets,
	// K_pkg. It uses the exchange up whatever its result, so that no pair
	// serves twice: a second call matches ErrUsed. A peer's point equal to
	// the own one matches ErrPoint.
	Agree(ctx context.Context, peer statement.PublicKey, suite keypackage.Suite, transcript [32]byte, secrets bool) (Transfer, error)
	// Close destroys the pair. Repeating it does no harm.
	Close(ctx context.Context) error
}

// Transfer takes the content of one data package into the chip.
type Transfer interface {
	// Unwrap unwraps the key of entry index of the manifest, by the entry's
	// template and not by what the blob says, and checks it against what
	// vouches for it: ErrData, ErrVouch. The key can leave the chip again only
	// wrapped by a Protection.
	Unwrap(ctx context.Context, m keypackage.Manifest, index int, blob []byte) (Key, error)
	// Open decrypts the other secrets: ErrData.
	Open(ctx context.Context, transcript [32]byte, s keypackage.Sealed) ([]byte, error)
	// Close destroys the transfer's keys, but not what was unwrapped.
	Close(ctx context.Context) error
}

// Protection encrypts one verified package for this chip alone.
type Protection interface {
	// Wrap wraps a key that a Transfer of this chip unwrapped.
	Wrap(ctx context.Context, k Key) ([]byte, error)
	// Seal encrypts the backup's contents, bound to backup code and claims
	// (keypackage.BackupAAD), once.
	Seal(ctx context.Context, contents []byte) (keypackage.Sealed, error)
	// Close destroys the derived keys.
	Close(ctx context.Context) error
}

// Recovery decrypts what a Protection of this chip and the same claims
// encrypted.
type Recovery interface {
	// Open decrypts a backup's contents: ErrData.
	Open(ctx context.Context, s keypackage.Sealed) ([]byte, error)
	// Unwrap unwraps and checks the key of entry index of the manifest:
	// ErrData, ErrVouch. The key never leaves the chip again.
	Unwrap(ctx context.Context, m keypackage.Manifest, index int, blob []byte) (Key, error)
	// Close destroys the derived keys, but not what was unwrapped.
	Close(ctx context.Context) error
}

// Key is a key of a package, in the chip, checked against its manifest entry.
type Key interface {
	// MACKey works for HMAC-SHA-256 keys; others match ErrAlgorithm.
	keypackage.MACKey
	// Sign signs a SHA-256 digest with an ES256 key and gives r‖s; other keys
	// match ErrAlgorithm.
	Sign(ctx context.Context, digest []byte) ([]byte, error)
	// Agree gives the result of ECDH between a key that a Recovery unwrapped and
	// the peer's point (65 bytes): 32 bytes, the secret of one message or session,
	// which the caller clears. Other keys match ErrAlgorithm, a point that is
	// none, or the key's own, ErrPoint.
	Agree(ctx context.Context, peer []byte) ([]byte, error)
}
