package hsm

import (
	"bytes"
	"crypto/ecdh"
	"fmt"

	"github.com/miekg/pkcs11"
)

const (
	pointSize   = 65 // uncompressed P-256: 0x04, X, Y (SEC 1 section 2.3.3)
	ed25519Size = 32
)

// decodePoint takes a public key out of CKA_EC_POINT. The standard wants a DER OCTET
// STRING around it; some modules leave that out. 0x04 begins both forms, so the length
// decides.
func decodePoint(keyType uint, value []byte) ([]byte, error) {
	size := pointSize
	if keyType == ckkEdwards {
		size = ed25519Size
	}
	point := value
	if len(value) == size+2 && value[0] == 0x04 && int(value[1]) == size {
		point = value[2:]
	}
	if len(point) != size {
		return nil, fmt.Errorf("CKA_EC_POINT has %d bytes, and %d or %d are due", len(value), size, size+2)
	}
	if keyType == pkcs11.CKK_EC {
		if err := checkPoint(point); err != nil {
			return nil, err
		}
	}
	return bytes.Clone(point), nil
}

// checkPoint accepts the one canonical form of a point on P-256: 65 bytes,
// uncompressed, on the curve, not infinity. Tokens also take compressed and
// DER-wrapped points, and then two parties would hash different transcripts.
func checkPoint(point []byte) error {
	if len(point) != pointSize || point[0] != 0x04 {
		return fmt.Errorf("the point isn't 65 bytes in uncompressed form: %w", ErrData)
	}
	if _, err := ecdh.P256().NewPublicKey(point); err != nil {
		return fmt.Errorf("the point isn't on P-256: %w", ErrData)
	}
	return nil
}
