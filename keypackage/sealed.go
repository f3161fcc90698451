package keypackage

import (
	"bytes"
	"fmt"

	"github.com/devicekeys/devicekeys/detcbor"
)

// Sealed is COSE_Encrypt0 (RFC 9052 §5.2) with A256GCM, untagged, as it stands
// inside a package. The key is in a token; see SealedAAD for what the token is
// given as associated data.
type Sealed struct {
	Nonce      [NonceSize]byte
	Ciphertext []byte // with the 16-byte tag at its end
}

// NonceSize and TagSize are AES-GCM's, in bytes.
const (
	NonceSize = 12
	TagSize   = 16
)

// protectedGCM is {1: 3}, the algorithm A256GCM.
var protectedGCM = []byte{0xa1, 0x01, 0x03}

type encrypt0 struct {
	_           struct{} `cbor:",toarray"`
	Protected   []byte
	Unprotected nonceHeader
	Ciphertext  []byte
}

type nonceHeader struct {
	Nonce []byte `cbor:"5,keyasint"`
}

// SealedAAD gives the associated data that AES-GCM is given for an external
// one: Enc_structure, RFC 9052 §5.3.
func SealedAAD(external []byte) []byte {
	return detcbor.Array("Encrypt0", protectedGCM, external)
}

// Encode gives the structure's one encoding.
func (s Sealed) Encode() []byte { return detcbor.Must(s.wire()) }

// ParseSealed reads the one encoding of a sealed structure.
func ParseSealed(b []byte, limit int) (Sealed, error) {
	var w encrypt0
	if err := detcbor.Unmarshal(b, &w, limit); err != nil {
		return Sealed{}, fmt.Errorf("read COSE_Encrypt0: %w", err)
	}
	return fromWire(w)
}

func (s Sealed) wire() encrypt0 {
	return encrypt0{Protected: protectedGCM, Unprotected: nonceHeader{s.Nonce[:]}, Ciphertext: s.Ciphertext}
}

func fromWire(w encrypt0) (Sealed, error) {
	if !bytes.Equal(w.Protected, protectedGCM) || len(w.Unprotected.Nonce) != NonceSize || len(w.Ciphertext) < TagSize {
		return Sealed{}, fmt.Errorf("read COSE_Encrypt0: A256GCM with a nonce of %d bytes and a tag is expected", NonceSize)
	}
	return Sealed{Nonce: [NonceSize]byte(w.Unprotected.Nonce), Ciphertext: w.Ciphertext}, nil
}
