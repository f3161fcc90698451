package hsm

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/miekg/pkcs11"
)

// PKCS#11 v3.0 numbers that miekg/pkcs11 v1.1.2 doesn't have.
const (
	ckmSP800108CounterKDF = 0x000003AC // CKM_SP800_108_COUNTER_KDF
	ckmEdwardsKeyPairGen  = 0x00001055 // CKM_EC_EDWARDS_KEY_PAIR_GEN
	ckmEdDSA              = 0x00001057 // CKM_EDDSA
	ckkEdwards            = 0x00000040 // CKK_EC_EDWARDS
	ckaDeriveTemplate     = 0x40000213 // CKA_DERIVE_TEMPLATE
	ckUnavailable         = ^uint(0)   // CK_UNAVAILABLE_INFORMATION
	ulongSize             = 8          // this package is for 64-bit systems
	attributeSize         = 3 * ulongSize
)

// Curves by the DER of their object identifiers, as CKA_EC_PARAMS has them.
var (
	p256Params    = []byte{0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07} // 1.2.840.10045.3.1.7
	ed25519Params = []byte{0x06, 0x03, 0x2b, 0x65, 0x70}                               // 1.3.101.112
)

// attribute is one line of a key's template: what it is set to, and why.
type attribute struct {
	typ    uint
	value  any // bool, uint, []byte, mechanisms or nested
	reason string
}

// mechanisms is the value of CKA_ALLOWED_MECHANISMS.
type mechanisms []uint

// nested is the value of CKA_WRAP_TEMPLATE and CKA_UNWRAP_TEMPLATE.
type nested []attribute

// encode gives the attribute as Cryptoki wants it. A nested template holds addresses
// of Go memory, which stays pinned for the life of the process: templates are made once.
func (a attribute) encode() *pkcs11.Attribute {
	switch v := a.value.(type) {
	case mechanisms:
		return pkcs11.NewAttribute(a.typ, encodeMechanisms(v))
	case nested:
		list := make([]*pkcs11.Attribute, len(v))
		for i, n := range v {
			list[i] = n.encode()
		}
		return pkcs11.NewAttribute(a.typ, encodeTemplate(&forever, list))
	default:
		return pkcs11.NewAttribute(a.typ, v)
	}
}

// matches tells whether a value read from the token is what the template asked for.
// Of a nested template it compares the types; matchesInner compares the values, which have
// to be asked for separately.
func (a attribute) matches(got []byte) bool {
	switch v := a.value.(type) {
	case bool:
		// Any non-zero byte is CK_TRUE to some modules.
		return len(got) == 1 && (got[0] != 0) == v
	case nested:
		if len(got) != attributeSize*len(v) {
			return false
		}
		for i := range v {
			if binary.NativeEndian.Uint64(got[attributeSize*i:]) != uint64(v[i].typ) {
				return false
			}
		}
		return true
	case mechanisms:
		return sameMechanisms(v, got)
	default:
		return bytes.Equal(a.encode().Value, got)
	}
}

func (v nested) types() []uint {
	types := make([]uint, len(v))
	for i, a := range v {
		types[i] = a.typ
	}
	return types
}

// matchesInner tells whether the attributes of an attribute array are those of the template.
func (v nested) matchesInner(got []*pkcs11.Attribute) bool {
	if len(got) != len(v) {
		return false
	}
	for i, a := range v {
		if got[i].Type != a.typ || !a.matches(got[i].Value) {
			return false
		}
	}
	return true
}

// sameMechanisms compares as sets: SoftHSM keeps them sorted.
func sameMechanisms(want mechanisms, got []byte) bool {
	if len(got) != ulongSize*len(want) {
		return false
	}
	have := map[uint]bool{}
	for i := range want {
		have[uint(binary.NativeEndian.Uint64(got[ulongSize*i:]))] = true
	}
	for _, m := range want {
		if !have[m] {
			return false
		}
	}
	return true
}

// text is the value as docs/keys.md shows it.
func (a attribute) text() string {
	switch v := a.value.(type) {
	case bool:
		if v {
			return "true"
		}
		return "false"
	case mechanisms:
		names := make([]string, len(v))
		for i, m := range v {
			names[i] = nameOr(mechanismNames, m)
		}
		return "{" + strings.Join(names, ", ") + "}"
	case nested:
		lines := make([]string, len(v))
		for i, n := range v {
			lines[i] = n.name() + " = " + n.text()
		}
		return "{" + strings.Join(lines, ", ") + "}"
	case []byte:
		switch {
		case bytes.Equal(v, p256Params):
			return "P-256"
		case bytes.Equal(v, ed25519Params):
			return "Ed25519"
		}
		return fmt.Sprintf("%x", v)
	case uint:
		switch a.typ {
		case pkcs11.CKA_CLASS:
			return nameOr(classNames, v)
		case pkcs11.CKA_KEY_TYPE:
			return nameOr(keyTypeNames, v)
		}
		return fmt.Sprint(v)
	default:
		return fmt.Sprint(v)
	}
}

func (a attribute) name() string { return nameOr(attributeNames, a.typ) }

func nameOr(names map[uint]string, n uint) string {
	if s, ok := names[n]; ok {
		return s
	}
	return fmt.Sprintf("0x%x", n)
}

var attributeNames = map[uint]string{
	pkcs11.CKA_CLASS: "CKA_CLASS", pkcs11.CKA_KEY_TYPE: "CKA_KEY_TYPE", pkcs11.CKA_TOKEN: "CKA_TOKEN",
	pkcs11.CKA_PRIVATE: "CKA_PRIVATE", pkcs11.CKA_LABEL: "CKA_LABEL", pkcs11.CKA_ID: "CKA_ID",
	pkcs11.CKA_SENSITIVE: "CKA_SENSITIVE", pkcs11.CKA_EXTRACTABLE: "CKA_EXTRACTABLE",
	pkcs11.CKA_ENCRYPT: "CKA_ENCRYPT", pkcs11.CKA_DECRYPT: "CKA_DECRYPT", pkcs11.CKA_SIGN: "CKA_SIGN",
	pkcs11.CKA_SIGN_RECOVER: "CKA_SIGN_RECOVER", pkcs11.CKA_VERIFY: "CKA_VERIFY",
	pkcs11.CKA_VERIFY_RECOVER: "CKA_VERIFY_RECOVER", pkcs11.CKA_WRAP: "CKA_WRAP",
	pkcs11.CKA_UNWRAP: "CKA_UNWRAP", pkcs11.CKA_DERIVE: "CKA_DERIVE",
	pkcs11.CKA_MODIFIABLE: "CKA_MODIFIABLE", pkcs11.CKA_COPYABLE: "CKA_COPYABLE", pkcs11.CKA_DESTROYABLE: "CKA_DESTROYABLE",
	pkcs11.CKA_ALLOWED_MECHANISMS: "CKA_ALLOWED_MECHANISMS",
	pkcs11.CKA_WRAP_TEMPLATE:      "CKA_WRAP_TEMPLATE", pkcs11.CKA_UNWRAP_TEMPLATE: "CKA_UNWRAP_TEMPLATE",
	pkcs11.CKA_VALUE_LEN: "CKA_VALUE_LEN", pkcs11.CKA_EC_PARAMS: "CKA_EC_PARAMS", pkcs11.CKA_EC_POINT: "CKA_EC_POINT",
	pkcs11.CKA_LOCAL: "CKA_LOCAL", pkcs11.CKA_ALWAYS_SENSITIVE: "CKA_ALWAYS_SENSITIVE",
	pkcs11.CKA_NEVER_EXTRACTABLE: "CKA_NEVER_EXTRACTABLE", pkcs11.CKA_CHECK_VALUE: "CKA_CHECK_VALUE",
	pkcs11.CKA_APPLICATION: "CKA_APPLICATION", pkcs11.CKA_VALUE: "CKA_VALUE", ckaDeriveTemplate: "CKA_DERIVE_TEMPLATE",
}

var mechanismNames = map[uint]string{
	pkcs11.CKM_AES_CBC_ENCRYPT_DATA: "AES_CBC_ENCRYPT_DATA", pkcs11.CKM_AES_CMAC: "AES_CMAC",
	pkcs11.CKM_AES_KEY_WRAP: "AES_KEY_WRAP", pkcs11.CKM_AES_GCM: "AES_GCM",
	pkcs11.CKM_SHA256_HMAC: "SHA256_HMAC", pkcs11.CKM_ECDSA: "ECDSA", pkcs11.CKM_ECDH1_DERIVE: "ECDH1_DERIVE",
	pkcs11.CKM_AES_KEY_GEN: "AES_KEY_GEN", pkcs11.CKM_GENERIC_SECRET_KEY_GEN: "GENERIC_SECRET_KEY_GEN",
	pkcs11.CKM_EC_KEY_PAIR_GEN: "EC_KEY_PAIR_GEN", ckmEdwardsKeyPairGen: "EC_EDWARDS_KEY_PAIR_GEN",
	ckmEdDSA: "EDDSA", ckmSP800108CounterKDF: "SP800_108_COUNTER_KDF",
}

var classNames = map[uint]string{
	pkcs11.CKO_SECRET_KEY: "SECRET_KEY", pkcs11.CKO_PRIVATE_KEY: "PRIVATE_KEY",
	pkcs11.CKO_PUBLIC_KEY: "PUBLIC_KEY", pkcs11.CKO_DATA: "DATA",
}

var keyTypeNames = map[uint]string{
	pkcs11.CKK_AES: "AES", pkcs11.CKK_GENERIC_SECRET: "GENERIC_SECRET", pkcs11.CKK_EC: "EC", ckkEdwards: "EC_EDWARDS",
}
