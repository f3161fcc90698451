package raw

import (
	"encoding/binary"
	"runtime"
	"slices"

	"github.com/miekg/pkcs11"
)

// The templates are those of package hsm's kinds, attribute by attribute: each one costs
// SoftHSM something.

// p256 is the curve's object identifier, DER.
var p256 = []byte{0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07}

// keyAttributes are those of every secret key, with the usages that it has.
func keyAttributes(keyType uint, token bool, usages ...uint) []*pkcs11.Attribute {
	a := []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, keyType),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true), pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true), pkcs11.NewAttribute(pkcs11.CKA_TOKEN, token),
	}
	for _, u := range []uint{pkcs11.CKA_ENCRYPT, pkcs11.CKA_DECRYPT, pkcs11.CKA_SIGN, pkcs11.CKA_VERIFY, pkcs11.CKA_WRAP, pkcs11.CKA_UNWRAP, pkcs11.CKA_DERIVE} {
		a = append(a, pkcs11.NewAttribute(u, slices.Contains(usages, u)))
	}
	return a
}

// sessionKey is a template of a derived key, for one mechanism.
func sessionKey(keyType uint, mechanism uint, extractable bool, usages ...uint) []*pkcs11.Attribute {
	return append(keyAttributes(keyType, false, usages...),
		pkcs11.NewAttribute(pkcs11.CKA_ALLOWED_MECHANISMS, binary.NativeEndian.AppendUint64(nil, uint64(mechanism))),
		pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, extractable), pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, keySize))
}

func deviceKeyTemplate() []*pkcs11.Attribute {
	return sessionKey(pkcs11.CKK_GENERIC_SECRET, pkcs11.CKM_SHA256_HMAC, true, pkcs11.CKA_SIGN, pkcs11.CKA_VERIFY)
}

func agreedTemplate() []*pkcs11.Attribute {
	return sessionKey(pkcs11.CKK_AES, pkcs11.CKM_AES_CBC_ENCRYPT_DATA, false, pkcs11.CKA_DERIVE)
}

func sealTemplate() []*pkcs11.Attribute {
	return sessionKey(pkcs11.CKK_AES, pkcs11.CKM_AES_GCM, false, pkcs11.CKA_ENCRYPT)
}

// wrapTemplate has a template inside: only sensitive keys are wrapped. It holds the address of
// pinned memory.
func wrapTemplate(pin *runtime.Pinner) []*pkcs11.Attribute {
	inner := pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true)
	var nested []byte
	for _, word := range []uint64{uint64(inner.Type), address(pin, inner.Value), uint64(len(inner.Value))} {
		nested = binary.NativeEndian.AppendUint64(nested, word)
	}
	return append(sessionKey(pkcs11.CKK_AES, pkcs11.CKM_AES_KEY_WRAP, false, pkcs11.CKA_WRAP), pkcs11.NewAttribute(pkcs11.CKA_WRAP_TEMPLATE, nested))
}

// pairTemplate gives both halves of the transfer's pair.
func pairTemplate() (public, private []*pkcs11.Attribute) {
	ecdh := pkcs11.NewAttribute(pkcs11.CKA_ALLOWED_MECHANISMS, binary.NativeEndian.AppendUint64(nil, pkcs11.CKM_ECDH1_DERIVE))
	public = []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PUBLIC_KEY), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_EC),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, false), pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, p256), pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false), ecdh,
	}
	for _, u := range []uint{pkcs11.CKA_VERIFY, pkcs11.CKA_ENCRYPT, pkcs11.CKA_VERIFY_RECOVER, pkcs11.CKA_WRAP, pkcs11.CKA_DERIVE} {
		public = append(public, pkcs11.NewAttribute(u, false))
	}
	private = []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_EC),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true), pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true), pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false),
		pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false), ecdh, pkcs11.NewAttribute(pkcs11.CKA_DERIVE, true),
	}
	for _, u := range []uint{pkcs11.CKA_DECRYPT, pkcs11.CKA_SIGN, pkcs11.CKA_SIGN_RECOVER, pkcs11.CKA_UNWRAP} {
		private = append(private, pkcs11.NewAttribute(u, false))
	}
	return public, private
}
