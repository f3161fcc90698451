package hsm

import (
	"errors"
	"fmt"
	"strings"

	"github.com/miekg/pkcs11"
)

// Code is a return value of the module, CKR_..., as it stands in the specification.
// errors.Is answers for the sentinels that a code means by itself ([ErrPIN], [ErrMAC],
// [ErrKeyGone]).
type Code uint

// lacking are the texts that miekg/pkcs11 v1.1.2 doesn't have; it prints an empty one.
var lacking = map[Code]string{
	pkcs11.CKR_ACTION_PROHIBITED:       "CKR_ACTION_PROHIBITED",
	pkcs11.CKR_CURVE_NOT_SUPPORTED:     "CKR_CURVE_NOT_SUPPORTED",
	pkcs11.CKR_LIBRARY_LOAD_FAILED:     "CKR_LIBRARY_LOAD_FAILED",
	pkcs11.CKR_PIN_TOO_WEAK:            "CKR_PIN_TOO_WEAK",
	pkcs11.CKR_PUBLIC_KEY_INVALID:      "CKR_PUBLIC_KEY_INVALID",
	pkcs11.CKR_EXCEEDED_MAX_ITERATIONS: "CKR_EXCEEDED_MAX_ITERATIONS",
	pkcs11.CKR_FIPS_SELF_TEST_FAILED:   "CKR_FIPS_SELF_TEST_FAILED",
}

// advice is the next step, where a code suggests one that isn't plain from its name.
var advice = map[Code]string{
	pkcs11.CKR_ACTION_PROHIBITED:          "the object was made unchangeable, uncopyable or indestructible",
	pkcs11.CKR_MECHANISM_INVALID:          "the key's CKA_ALLOWED_MECHANISMS or the token forbids this mechanism",
	pkcs11.CKR_KEY_FUNCTION_NOT_PERMITTED: "the key's usage attributes forbid this",
	pkcs11.CKR_USER_NOT_LOGGED_IN:         "the login was lost",
	pkcs11.CKR_PIN_LOCKED:                 "too many wrong PINs: the security officer must set a new one",
	pkcs11.CKR_TOKEN_WRITE_PROTECTED:      "the token takes no new objects",
	pkcs11.CKR_KEY_UNEXTRACTABLE:          "the key may not leave its token",
}

// String is the code's name in the specification.
func (c Code) String() string {
	if s, ok := lacking[c]; ok {
		return s
	}
	// miekg keeps its table to itself; its error text is "pkcs11: 0x1: NAME".
	if i := strings.LastIndex(pkcs11.Error(c).Error(), "CKR_"); i >= 0 {
		return pkcs11.Error(c).Error()[i:]
	}
	if c >= pkcs11.CKR_VENDOR_DEFINED {
		return "vendor's own code"
	}
	return "unknown code"
}

// Error gives name, number and, where there is one, the next step.
func (c Code) Error() string {
	if a, ok := advice[c]; ok {
		return fmt.Sprintf("%s (0x%x): %s", c.String(), uint(c), a)
	}
	return fmt.Sprintf("%s (0x%x)", c.String(), uint(c))
}

// Is makes errors.Is(err, ErrPIN) and its like true for the codes that mean it.
func (c Code) Is(target error) bool {
	switch uint(c) {
	case pkcs11.CKR_PIN_INCORRECT, pkcs11.CKR_PIN_INVALID, pkcs11.CKR_PIN_LEN_RANGE,
		pkcs11.CKR_PIN_EXPIRED, pkcs11.CKR_PIN_LOCKED, pkcs11.CKR_PIN_TOO_WEAK,
		pkcs11.CKR_USER_PIN_NOT_INITIALIZED:
		return target == ErrPIN
	case pkcs11.CKR_SIGNATURE_INVALID, pkcs11.CKR_SIGNATURE_LEN_RANGE:
		return target == ErrMAC
	case pkcs11.CKR_OBJECT_HANDLE_INVALID, pkcs11.CKR_KEY_HANDLE_INVALID,
		pkcs11.CKR_WRAPPING_KEY_HANDLE_INVALID, pkcs11.CKR_UNWRAPPING_KEY_HANDLE_INVALID:
		return target == ErrKeyGone
	}
	return false
}

// DataFault tells whether the code says that the data from outside is at fault.
func (c Code) DataFault() bool { return c.class() == DataFault }

// translated turns miekg's error, however wrapped, into a Code.
func translated(err error) error {
	var e pkcs11.Error
	if errors.As(err, &e) {
		return Code(e)
	}
	return err
}

// codeOf is the module's answer inside err, or CKR_OK when it gave none.
func codeOf(err error) Code {
	var c Code
	if errors.As(err, &c) {
		return c
	}
	return pkcs11.CKR_OK
}
