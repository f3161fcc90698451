package chip

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"fmt"
)

// A P-256 private key is wrapped as its PrivateKeyInfo (RFC 5208) without the
// public key, 67 bytes, padded with zeros to a multiple of eight: 72 bytes, as
// tokens write it.
const (
	privateSize       = 67
	privatePaddedSize = 72
)

// privateHead is all of a PrivateKeyInfo but the 32 bytes of the scalar.
var privateHead = []byte{
	0x30, 0x41, 0x02, 0x01, 0x00, // SEQUENCE, version 0
	0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, // id-ecPublicKey
	0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, // prime256v1
	0x04, 0x27, 0x30, 0x25, 0x02, 0x01, 0x01, 0x04, 0x20, // ECPrivateKey, version 1
}

// parsePrivate reads the 72 bytes that are wrapped. Its error matches ErrData.
func parsePrivate(b []byte) (*ecdsa.PrivateKey, error) {
	if len(b) != privatePaddedSize || !bytes.HasPrefix(b, privateHead) || !bytes.Equal(b[privateSize:], make([]byte, privatePaddedSize-privateSize)) {
		return nil, fmt.Errorf("read private key: %w", ErrData)
	}
	k, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), b[len(privateHead):privateSize])
	if err != nil {
		return nil, fmt.Errorf("read private key: %w", ErrData)
	}
	return k, nil
}
