package hsm

// #cgo linux LDFLAGS: -ldl
// #cgo noescape dk_sign
// #cgo nocallback dk_sign
// #cgo noescape dk_gcm
// #cgo nocallback dk_gcm
// #cgo noescape dk_wrap
// #cgo nocallback dk_wrap
// #cgo noescape dk_attribute
// #cgo nocallback dk_attribute
// #cgo noescape dk_inner_values
// #cgo nocallback dk_inner_values
// #include <stdlib.h>
// #include "direct.h"
import "C"

import (
	"unsafe"

	"github.com/miekg/pkcs11"
)

// direct calls the few functions of the module that are used for every device and give an
// answer of variable length, with room for an answer whose size is known. miekg/pkcs11
// asks for the size first, which makes two calls of one: a fifth of all calls for a
// device, each a round trip to a network HSM, and SoftHSM wraps a key twice for it. It is
// the same module with the same sessions and handles. All else goes through miekg, and so
// does what an answer of a size that was not foreseen takes.
type direct struct{ functions *C.ck_functions }

// openDirect gives the functions of a module that miekg has loaded. False: it can't be
// asked for them.
func openDirect(path string) (direct, bool) {
	p := C.CString(path)
	defer C.free(unsafe.Pointer(p))
	f := C.dk_open(p)
	return direct{f}, f != nil
}

// answer is what one call gave.
type answer struct {
	begun bool // C_…Init returned CKR_OK, and the operation itself was called
	bytes []byte
	err   error
}

// tooSmall tells that the operation is open still and wants more room.
func (a answer) tooSmall() bool { return a.err == pkcs11.Error(pkcs11.CKR_BUFFER_TOO_SMALL) }

func answered(a C.dk_answer, room []byte) answer {
	out := answer{begun: a.begun != 0}
	switch {
	case a.rv != pkcs11.CKR_OK:
		out.err = pkcs11.Error(a.rv)
	case uint64(a.len) > uint64(len(room)):
		// It says that it wrote past the end, or CK_UNAVAILABLE_INFORMATION.
		out.err = pkcs11.Error(pkcs11.CKR_DEVICE_ERROR)
	default:
		out.bytes = room[:a.len:a.len]
	}
	return out
}

// sign calls C_SignInit and C_Sign with room for n bytes.
func (d direct) sign(s pkcs11.SessionHandle, mechanism uint, k pkcs11.ObjectHandle, msg []byte, n int) answer {
	room := make([]byte, n)
	return answered(C.dk_sign(d.functions, C.ck_ulong(s), C.ck_ulong(mechanism), C.ck_ulong(k), start(msg), length(msg), start(room), length(room)), room)
}

// seal calls C_EncryptInit and C_Encrypt with AES-GCM and a tag of 16 bytes.
func (d direct) seal(s pkcs11.SessionHandle, k pkcs11.ObjectHandle, nonce, aad, plaintext []byte) answer {
	room := make([]byte, len(plaintext)+TagSize)
	return answered(C.dk_gcm(d.functions, 1, C.ck_ulong(s), C.ck_ulong(k), start(nonce), length(nonce), start(aad), length(aad),
		start(plaintext), length(plaintext), start(room), length(room)), room)
}

// open calls C_DecryptInit and C_Decrypt with AES-GCM and a tag of 16 bytes.
func (d direct) open(s pkcs11.SessionHandle, k pkcs11.ObjectHandle, nonce, aad, ciphertext []byte) answer {
	// The plaintext is shorter; some modules ask for room for the tag too.
	room := make([]byte, len(ciphertext))
	return answered(C.dk_gcm(d.functions, 0, C.ck_ulong(s), C.ck_ulong(k), start(nonce), length(nonce), start(aad), length(aad),
		start(ciphertext), length(ciphertext), start(room), length(room)), room)
}

// wrap calls C_WrapKey with room for n bytes.
func (d direct) wrap(s pkcs11.SessionHandle, mechanism uint, kek, key pkcs11.ObjectHandle, n int) answer {
	room := make([]byte, n)
	return answered(C.dk_wrap(d.functions, C.ck_ulong(s), C.ck_ulong(mechanism), C.ck_ulong(kek), C.ck_ulong(key), start(room), length(room)), room)
}

// attribute calls C_GetAttributeValue for one attribute, with room for n bytes.
func (d direct) attribute(s pkcs11.SessionHandle, o pkcs11.ObjectHandle, typ uint, n int) answer {
	room := make([]byte, n)
	return answered(C.dk_attribute(d.functions, C.ck_ulong(s), C.ck_ulong(o), C.ck_ulong(typ), start(room), length(room)), room)
}

// inner calls C_GetAttributeValue for an attribute array that has these types, at most
// maxInner, and gives the attributes with their values.
func (d direct) inner(s pkcs11.SessionHandle, o pkcs11.ObjectHandle, typ uint, types []uint) ([]*pkcs11.Attribute, error) {
	var room [maxInner]C.dk_inner
	n := min(len(types), maxInner)
	for i := range n {
		room[i]._type = C.ck_ulong(types[i])
	}
	a := C.dk_inner_values(d.functions, C.ck_ulong(s), C.ck_ulong(o), C.ck_ulong(typ), &room[0], C.ck_ulong(n))
	if a.rv != pkcs11.CKR_OK {
		return nil, pkcs11.Error(a.rv)
	}
	if uint64(a.len) != uint64(len(types)) || n != len(types) {
		return nil, pkcs11.Error(pkcs11.CKR_DEVICE_ERROR)
	}
	all := make([]*pkcs11.Attribute, n)
	for i := range all {
		r := &room[i]
		if r.len > C.ck_ulong(len(r.value)) { // or CK_UNAVAILABLE_INFORMATION
			return nil, pkcs11.Error(pkcs11.CKR_DEVICE_ERROR)
		}
		all[i] = &pkcs11.Attribute{Type: uint(r._type), Value: C.GoBytes(unsafe.Pointer(&r.value), C.int(r.len))}
	}
	return all, nil
}

// maxInner is how many attributes an attribute array may have.
const maxInner = C.DK_INNER_MAX

// nothing stands for empty data: a module may take a NULL for a missing argument.
var nothing [1]byte

func start(b []byte) *C.ck_byte {
	if len(b) == 0 {
		b = nothing[:]
	}
	return (*C.ck_byte)(unsafe.SliceData(b))
}

func length(b []byte) C.ck_ulong { return C.ck_ulong(len(b)) }
