package hsm

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"

	"github.com/miekg/pkcs11"
)

// KDF is a key derivation function by its number, which stands in every context it is
// used with. It is fixed for each master version.
type KDF uint8

const (
	// KDF1 is AES-256-CBC with a zero IV over SHA-256 of the context, 32 bytes
	// (CKM_AES_CBC_ENCRYPT_DATA). It stays inside every token that has the mechanism.
	// It isn't approved by NIST, and makes AES-256 or 32-byte keys only.
	KDF1 KDF = 1
	// KDF2 is SP 800-108r1 counter mode with CMAC-AES-256: a 32-bit counter, then
	// Label ‖ 0x00 ‖ Context ‖ L, with Label "dk-kdf" and L = 256 in 32 bits. Native where
	// the token has CKM_SP800_108_COUNTER_KDF; through C_Sign where Options.KDF2Host
	// allows it, the same bytes by another way.
	KDF2 KDF = 2
)

// String is the KDF's name in messages.
func (k KDF) String() string { return fmt.Sprintf("KDF %d", uint8(k)) }

const (
	// kdf2Label is the Label of SP 800-108; the context says what the key is for.
	kdf2Label = "dk-kdf"
	// derivedSize is the size of every derived key in bytes: both functions' keys are
	// 256 bits.
	derivedSize = 32
	// maxContext bounds a context; the longest of ours is a few hundred bytes.
	maxContext = 4096
)

// kdf2Backend tells how this token carries out KDF 2.
func (t *Token) kdf2Backend() (backend, error) {
	switch {
	case t.mechanisms[ckmSP800108CounterKDF]:
		return nativeBackend, nil
	case t.kdf2Host:
		return hostBackend, nil
	}
	return 0, errors.New("this token has no CKM_SP800_108_COUNTER_KDF: use KDF 1, or a token that has it, or switch on KDF 2 through the host by name and accept that derived keys pass through this process's memory")
}

// kdf1Input is what KDF 1 encrypts: fixed length, so that no context is another's
// prefix.
func kdf1Input(context []byte) []byte {
	sum := sha256.Sum256(context)
	return sum[:]
}

// kdf2Input is SP 800-108's fixed input data.
func kdf2Input(label string, context []byte) []byte {
	b := append([]byte(label), 0)
	b = append(b, context...)
	return binary.BigEndian.AppendUint32(b, derivedSize*8)
}

// kdf2Blocks runs counter mode over a PRF of 16 bytes.
func kdf2Blocks(prf func([]byte) ([]byte, error), fixed []byte) ([]byte, error) {
	var out []byte
	for i := uint32(1); len(out) < derivedSize; i++ {
		block, err := prf(append(binary.BigEndian.AppendUint32(nil, i), fixed...))
		if err != nil {
			return nil, err
		}
		out = append(out, block...)
	}
	return out[:derivedSize], nil
}

// deriveIn makes the key of p from base in session s, with place as its place and name.
func (t *Token) deriveIn(s *session, base *Key, from pkcs11.ObjectHandle, kdf KDF, context []byte, p *plan, place []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
	var pin runtime.Pinner
	defer pin.Unpin() // after the call, not before
	switch {
	case kdf == KDF1:
		return t.lib.deriveKey(s.handle, cbcEncryptData(&pin, kdf1Input(context)), from, joined(p.derive, place...))
	case base.plan.backend == nativeBackend:
		return t.lib.deriveKey(s.handle, counterKDF(&pin, kdf2Input(kdf2Label, context)), from, joined(p.derive, place...))
	}
	value, err := kdf2Blocks(func(b []byte) ([]byte, error) {
		return t.lib.sign(s.handle, pkcs11.CKM_AES_CMAC, from, b)
	}, kdf2Input(kdf2Label, context))
	if err != nil {
		return 0, err
	}
	defer clear(value)
	t.lib.hostDerivations.Add(1)
	return t.lib.createObject(s.handle, joined(p.create, append(place, pkcs11.NewAttribute(pkcs11.CKA_VALUE, value))...))
}
