package hsm

import (
	"encoding/binary"
	"runtime"
	"unsafe"

	"github.com/miekg/pkcs11"
)

// This file is the only one with raw memory in it. Some mechanism parameters and
// attribute values are C structures with addresses in them, for which miekg has no
// type. miekg copies the outer bytes to C memory; what they point to is Go memory,
// pinned until the call has returned. Every structure here has only fields of the size
// of CK_ULONG (8 bytes: 64-bit Unix; see the assertion below), so there is no padding.

// The build breaks on a system where CK_ULONG and an address aren't both 8 bytes.
const _ = uint(unsafe.Sizeof(uintptr(0)) - ulongSize)

// forever pins what templates point to; they live as long as the process.
var forever runtime.Pinner

// ulongs lays numbers out as consecutive CK_ULONG.
func ulongs(v ...uint64) []byte {
	b := make([]byte, 0, ulongSize*len(v))
	for _, x := range v {
		b = binary.NativeEndian.AppendUint64(b, x)
	}
	return b
}

// address pins b, which isn't empty, and gives its address.
func address(pin *runtime.Pinner, b []byte) uint64 {
	pin.Pin(&b[0])
	return uint64(uintptr(unsafe.Pointer(&b[0])))
}

// cbcEncryptData is CK_AES_CBC_ENCRYPT_DATA_PARAMS {CK_BYTE iv[16]; CK_BYTE_PTR pData;
// CK_ULONG length} with a zero IV. data is a multiple of 16 bytes.
func cbcEncryptData(pin *runtime.Pinner, data []byte) *pkcs11.Mechanism {
	var iv [16]byte
	par := append(iv[:], ulongs(address(pin, data), uint64(len(data)))...)
	return pkcs11.NewMechanism(pkcs11.CKM_AES_CBC_ENCRYPT_DATA, par)
}

// Data field types of CK_PRF_DATA_PARAM, PKCS#11 v3.0 section 2.42.
const (
	sp800108IterationVariable = 1
	sp800108ByteArray         = 4
)

// counterKDF is CK_SP800_108_KDF_PARAMS {prfType; ulNumberOfDataParams; pDataParams;
// ulAdditionalDerivedKeys; pAdditionalDerivedKeys} for counter mode with AES-CMAC: a
// 32-bit big-endian counter, then fixed.
func counterKDF(pin *runtime.Pinner, fixed []byte) *pkcs11.Mechanism {
	// CK_SP800_108_COUNTER_FORMAT {CK_BBOOL bLittleEndian; CK_ULONG ulWidthInBits}: the
	// boolean is padded to eight bytes.
	counter := ulongs(0, 32)
	fields := ulongs(
		sp800108IterationVariable, address(pin, counter), uint64(len(counter)),
		sp800108ByteArray, address(pin, fixed), uint64(len(fixed)),
	)
	return pkcs11.NewMechanism(ckmSP800108CounterKDF, ulongs(pkcs11.CKM_AES_CMAC, 2, address(pin, fields), 0, 0))
}

// encodeTemplate lays attributes out as consecutive CK_ATTRIBUTE {type; pValue;
// ulValueLen}.
func encodeTemplate(pin *runtime.Pinner, list []*pkcs11.Attribute) []byte {
	var b []byte
	for _, a := range list {
		b = append(b, ulongs(uint64(a.Type), address(pin, a.Value), uint64(len(a.Value)))...)
	}
	return b
}

// encodeMechanisms lays mechanisms out as an array of CK_MECHANISM_TYPE.
func encodeMechanisms(list mechanisms) []byte {
	var b []byte
	for _, m := range list {
		b = append(b, ulongs(uint64(m))...)
	}
	return b
}
