package keypackage

import (
	"crypto/sha256"

	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/identity"
)

// Every string that is hashed, derived under, authenticated or bound stands in
// this file. Each begins with a label of its own and a version, so that no two
// purposes ever share bytes. Inside an array that does not name the type of an
// identity, the identity is its URN, which does.

// keyBits is the length of every derived key.
const keyBits = 256

// PurposeContext is what a purpose key is derived from its master key under.
func PurposeContext(realm identity.Realm, kdf uint8, version uint32, purpose string) []byte {
	return detcbor.Array("dk-purpose", 1, realm, kdf, version, purpose, keyBits)
}

// DeviceKeyContext is what a device key is derived from its purpose key under:
// a function of the identity as the patent has it, and bound to the chip
// (through the record id) and the generation, so that an identity moved to
// another board gets another key.
func DeviceKeyContext(realm identity.Realm, key KeyID, id identity.Identity, generation identity.Generation, record identity.RecordID) []byte {
	return detcbor.Array("dk-kdf", 1, realm, key.KDF, key.Version, key.Name, keyBits, id.Type(), id.Value(), generation, record[:])
}

// CheckMessage is what a symmetric key is used on to give its check value.
func CheckMessage(m Manifest, key KeyID) []byte {
	return detcbor.Array("dk-check", 1, m.Realm, key, m.ChipID.Bytes(), m.Identity.URN(), m.Generation)
}

// ChipKeyUse names one of the two keys that a chip derives for one set of claims.
type ChipKeyUse string

// The uses of the keys derived from a chip key.
const (
	ChipWrap ChipKeyUse = "wrap" // AES-KW of keys
	ChipSeal ChipKeyUse = "seal" // AES-GCM of the package
)

// ChipContext is what a chip wrap or chip seal key is derived from the chip
// key under. Claims differ in every generation, so no chip key meets two
// packages.
func ChipContext(realm identity.Realm, use ChipKeyUse, claims [sha256.Size]byte) []byte {
	return detcbor.Array("dk-chip", 1, realm, string(use), claims[:])
}

// TransferKeyUse names one of the two keys of a transfer.
type TransferKeyUse string

// The uses of the keys derived from a transfer's agreed secret.
const (
	TransferKEK     TransferKeyUse = "kek" // AES-KW of keys
	TransferPackage TransferKeyUse = "pkg" // AES-GCM of other secrets, used once
)

// Transcript is T: SHA-256 over the device's hello, the SPP's point and the
// claims.
func Transcript(hello, pointS, claims []byte) [sha256.Size]byte {
	return sha256.Sum256(detcbor.Array(hello, pointS, claims))
}

// TransferContext is what a transfer's keys are derived from the agreed secret under.
func TransferContext(suite Suite, use TransferKeyUse, transcript [sha256.Size]byte) []byte {
	return detcbor.Array("dk-transfer", 1, suite, string(use), transcript[:])
}

// PackageAAD is bound to the secrets of a data package.
func PackageAAD(transcript [sha256.Size]byte) []byte {
	return detcbor.Array("dk-package", 1, transcript[:])
}

// BackupAAD is bound to the ciphertext of a backup: the backup code, so that a
// flipped one fails instead of being read as something else, and the claims.
func BackupAAD(claims [sha256.Size]byte) []byte {
	return detcbor.Array("dk-backup", 1, BackupCode[:], claims[:])
}

// PoolAAD is bound to a secret that waits, sealed, in the identity pool or in
// the records. Batch is the pool batch's number, entry the entry's name.
func PoolAAD(realm identity.Realm, batch int64, id identity.Identity, entry string) []byte {
	return detcbor.Array("dk-pool", 1, realm, batch, id.URN(), entry)
}

// TransportSecretContext is what the key of a secret on its way to an HSM is
// derived from the agreed secret under, and what is bound to the ciphertext.
// Recipient and point are the two uncompressed points.
func TransportSecretContext(realm identity.Realm, recipient, point []byte, label string) []byte {
	return detcbor.Array("dk-transport-secret", 1, realm, recipient, point, label)
}

// DeviceKeyLabel is the label under which a device's key is sent to the maker.
func DeviceKeyLabel(id identity.Identity, entry string) string {
	return "device " + id.URN() + " " + entry
}

// DeviceSecretLabel is the label under which a device's secret that is no key is
// sent to the maker; a key's begins otherwise.
func DeviceSecretLabel(id identity.Identity, entry string) string {
	return "secret " + id.URN() + " " + entry
}

// ConfirmMessage is authenticated by the device after it wrote its flash.
func ConfirmMessage(transcript, backup [sha256.Size]byte) []byte {
	return detcbor.Array("dk-confirm", 1, transcript[:], backup[:])
}

// RestoredMessage is authenticated by the device after it was restored from
// its backup; the challenge is the SPP's answer to the confirmation.
func RestoredMessage(claims, backup [sha256.Size]byte, challenge [32]byte) []byte {
	return detcbor.Array("dk-restored", 1, claims[:], backup[:], challenge[:])
}

// PublishedMessage is authenticated by the SPP: it raises the device's floor
// and locks it.
func PublishedMessage(claims [sha256.Size]byte) []byte {
	return detcbor.Array("dk-published", 1, claims[:])
}

// LockedMessage is authenticated by the device once it is locked.
func LockedMessage(claims [sha256.Size]byte) []byte {
	return detcbor.Array("dk-locked", 1, claims[:])
}

// AliveMessage is authenticated by a booted device on a challenge: the fresh
// proof that it holds its keys.
func AliveMessage(claims [sha256.Size]byte, challenge [32]byte) []byte {
	return detcbor.Array("dk-alive", 1, claims[:], challenge[:])
}
