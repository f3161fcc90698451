package chip

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"fmt"
)

// derive is KDF 1 (docs/formats.md): AES-256-CBC with a zero IV over
// SHA-256(context), 32 bytes, as CKM_AES_CBC_ENCRYPT_DATA computes it.
func derive(key, context []byte) ([]byte, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("derive key: %w", err)
	}
	data := sha256.Sum256(context)
	out := make([]byte, len(data))
	cipher.NewCBCEncrypter(block, make([]byte, aes.BlockSize)).CryptBlocks(out, data[:])
	return out, nil
}
