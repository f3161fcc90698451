package raw

import (
	"fmt"

	"github.com/miekg/pkcs11"
)

// Hold keeps a value in a session object that is no key and no secret, until Close: so the module has its bytes as they
// are, in the C heap of this process. A search of memory is tried on that. The loop itself keeps no copy of the value.
func (l *Loop) Hold(value []byte) error {
	l.count("C_CreateObject", 1)
	if _, err := l.ctx.CreateObject(l.session, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_DATA), pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, false), pkcs11.NewAttribute(pkcs11.CKA_VALUE, value),
	}); err != nil {
		return fmt.Errorf("hold %d bytes in a session object: %w", len(value), err)
	}
	return nil
}
