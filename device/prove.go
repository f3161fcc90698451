package device

import (
	"context"
	"crypto/sha256"

	"github.com/devicekeys/devicekeys/device/chip"
	"github.com/devicekeys/devicekeys/keypackage"
)

// proving gives the index of the key that answers for the device: the one of
// Manifest.Proving, or, on a line with pairs only, the first signing key.
func proving(m keypackage.Manifest) (index int, ok bool) {
	if i, ok := m.Proving(); ok {
		return i, true
	}
	for i, e := range m.Entries {
		if e.Form() == keypackage.FormPair && e.Algorithm == keypackage.ES256 {
			return i, true
		}
	}
	return 0, false
}

// prove authenticates a message with the proving key: HMAC-SHA-256, 32 bytes,
// or ECDSA r‖s over the message's SHA-256, 64 bytes.
func prove(ctx context.Context, m keypackage.Manifest, keys map[int]chip.Key, message []byte) ([]byte, error) {
	i, ok := proving(m)
	if !ok {
		return nil, refuse(ReasonAlgorithm, nil, "it has no key that could prove anything")
	}
	if m.Entries[i].Algorithm == keypackage.HMACSHA256 {
		return keys[i].MAC(ctx, message)
	}
	digest := sha256.Sum256(message)
	return keys[i].Sign(ctx, digest[:])
}
