package hsm

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"

	"github.com/miekg/pkcs11"
)

// Sweep looks for what a crash leaves in the token (keys without a value, public keys
// without their private half), destroys it and names what it destroyed. A secret or
// private key is destroyed only when its attributes say that it has no value and using
// it fails too. Run it when nothing else makes keys in the token: a key being made in
// another process looks the same for some milliseconds.
//
// What can't be judged or destroyed is named in the error, together with the names of
// what was destroyed before. Calling Sweep again is safe.
func (t *Token) Sweep(ctx context.Context) ([]string, error) {
	var swept []string
	err := t.with(ctx, "sweep", func(s *session) error {
		swept = nil
		var errs []error
		for _, class := range []uint{pkcs11.CKO_SECRET_KEY, pkcs11.CKO_PRIVATE_KEY, pkcs11.CKO_PUBLIC_KEY} {
			found, err := t.find(s, []*pkcs11.Attribute{
				pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_CLASS, class),
			})
			if err != nil {
				return errors.Join(append(errs, err)...)
			}
			for _, h := range found {
				remains, err := t.remains(s, class, h)
				if err == nil && !remains {
					continue
				}
				name := t.nameOf(s, class, h)
				if err == nil {
					// A crash here leaves the rest for the next sweep.
					err = t.lib.destroyObject(s.handle, h, true)
				}
				if err != nil {
					errs = append(errs, fmt.Errorf("%s: %w", name, err))
					continue
				}
				swept = append(swept, name)
			}
		}
		return errors.Join(errs...)
	})
	return swept, err
}

// nameOf names an object in messages.
func (t *Token) nameOf(s *session, class uint, h pkcs11.ObjectHandle) string {
	label := "without label"
	if v, err := t.lib.attributes(s.handle, h, pkcs11.CKA_LABEL); err == nil && len(v[0]) > 0 {
		label = fmt.Sprintf("%q", v[0])
	}
	switch class {
	case pkcs11.CKO_SECRET_KEY:
		return "secret key " + label
	case pkcs11.CKO_PRIVATE_KEY:
		return "private key " + label
	default:
		return "public key " + label
	}
}

// remains tells whether an object is what a crash left.
func (t *Token) remains(s *session, class uint, h pkcs11.ObjectHandle) (bool, error) {
	whole, err := t.whole(s, class, h)
	if err != nil {
		return false, err
	}
	if class == pkcs11.CKO_PUBLIC_KEY {
		if !whole {
			return true, nil
		}
		return t.widowed(s, h)
	}
	if whole {
		return false, nil
	}
	works, err := t.works(s, h)
	return !works, err
}

// widowed tells whether a public key of ours (its CKA_ID comes of its label) has no
// private half: the public half is written first and destroyed last. A public key that
// somebody imported has another CKA_ID and is left alone.
func (t *Token) widowed(s *session, h pkcs11.ObjectHandle) (bool, error) {
	v, err := t.lib.attributes(s.handle, h, pkcs11.CKA_ID, pkcs11.CKA_LABEL)
	if err != nil || len(v[1]) == 0 || !bytes.Equal(v[0], pairID(string(v[1])).Value) {
		return false, err
	}
	found, err := t.find(s, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_ID, v[0]),
	})
	return len(found) == 0, err
}

// errUnjudged: the object has the look of a half-written key, but no use of it can be
// tried.
var errUnjudged = errors.New("looks half written, and nothing can be tried with it: look at it by hand")

// works tries the first thing the key's attributes allow. It is asked only about keys
// whose attributes say that they hold no value. An error means that it can't tell.
func (t *Token) works(s *session, h pkcs11.ObjectHandle) (bool, error) {
	usage, err := t.firstUsage(s, h)
	if err != nil {
		return false, err
	}
	switch usage.typ {
	case pkcs11.CKA_SIGN:
		msg := make([]byte, DigestSize)
		_, err = t.lib.sign(s.handle, usage.mechanism, h, msg)
	case pkcs11.CKA_ENCRYPT:
		_, err = t.lib.encrypt(s.handle, h, make([]byte, NonceSize), []byte("dk-sweep"), []byte("dk-sweep"))
	case pkcs11.CKA_DERIVE:
		var pin runtime.Pinner
		defer pin.Unpin()
		p := plans()[kindKey{kind: ChannelDeviceKey}]
		var child pkcs11.ObjectHandle
		child, err = t.lib.deriveKey(s.handle, cbcEncryptData(&pin, kdf1Input([]byte("dk-sweep"))), h, joined(p.derive, Spec{}.place()...))
		if err == nil {
			err = t.lib.destroyObject(s.handle, child, false)
		}
	default:
		return false, errUnjudged
	}
	switch {
	case err == nil:
		return true, nil
	case Classify(err) == Retry, Classify(err) == NewSession:
		return false, err
	}
	// The key fails. Is it the key, or the token?
	return false, t.selfTest()
}

// usage is something a key may do.
type usage struct {
	typ       uint // CKA_SIGN, CKA_ENCRYPT or CKA_DERIVE; 0: none of them
	mechanism uint
}

func (t *Token) firstUsage(s *session, h pkcs11.ObjectHandle) (usage, error) {
	var allowed []byte
	v, err := t.lib.attributes(s.handle, h, pkcs11.CKA_ALLOWED_MECHANISMS)
	if err == nil {
		allowed = v[0]
	} else if Classify(err) != Stop {
		return usage{}, err
	}
	if len(allowed) < ulongSize {
		return usage{}, nil // without a list any mechanism might be meant
	}
	u := usage{mechanism: uint(binary.NativeEndian.Uint64(allowed))}
	for _, typ := range []uint{pkcs11.CKA_SIGN, pkcs11.CKA_ENCRYPT, pkcs11.CKA_DERIVE} {
		v, err := t.lib.attributes(s.handle, h, typ)
		if err != nil {
			if Classify(err) != Stop {
				return usage{}, err
			}
			continue // not an attribute of this class
		}
		if len(v[0]) == 1 && v[0][0] != 0 {
			u.typ = typ
			return u, nil
		}
	}
	return u, nil
}
