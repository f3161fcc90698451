package hsm

import (
	"fmt"

	"github.com/miekg/pkcs11"
)

// twice runs a call that takes data from outside, and runs it once more after an answer
// that might be the data's fault or not: data is refused every time.
func twice(call func() error) error {
	err := call()
	if vague(err) {
		err = call()
	}
	return err
}

// vague tells of the codes that SoftHSM gives for tampered data, and for anything else.
func vague(err error) bool {
	c := codeOf(err)
	return c == pkcs11.CKR_GENERAL_ERROR || c == pkcs11.CKR_FUNCTION_FAILED
}

// blame decides whose fault an error is in a call that took data from outside. Codes
// that name the data say it themselves. CKR_GENERAL_ERROR and CKR_FUNCTION_FAILED are
// what SoftHSM answers to a tampered blob and a wrong tag; they are the data's fault
// unless a key known to be good doesn't work either, or the token key that was used
// can't be read any more.
func (t *Token) blame(s *session, err error, used ...*Key) error {
	if err == nil {
		return nil
	}
	if Classify(err) != DataFault {
		if !vague(err) {
			return err
		}
		if e := t.selfTest(); e != nil {
			return fmt.Errorf("%w (and the self-test says that the token is broken: %w)", err, e)
		}
		for _, k := range used {
			if !k.spec.Token {
				continue
			}
			at := k.at.Load()
			if at == nil {
				continue
			}
			if _, e := t.lib.attributes(s.handle, at.key, pkcs11.CKA_LABEL); e != nil {
				return fmt.Errorf("%w (and %s can't be read any more: %w)", err, k, e)
			}
		}
	}
	return fmt.Errorf("%w: the token is well and answered %w", ErrData, err)
}

// selfTest makes and checks a MAC with a key known to be good, in the anchor session.
func (t *Token) selfTest() error {
	return t.anchored(func(s *session) error {
		if t.testKey == 0 {
			p := plans()[kindKey{kind: ChannelDeviceKey}]
			h, err := t.lib.generateKey(s.handle, p.generator(), joined(p.generate, Spec{Label: "self-test"}.place()...))
			if err != nil {
				return err
			}
			t.testKey = h
		}
		msg := []byte("dk-self-test")
		mac, err := t.lib.sign(s.handle, pkcs11.CKM_SHA256_HMAC, t.testKey, msg)
		if err != nil {
			return err
		}
		return t.lib.verify(s.handle, pkcs11.CKM_SHA256_HMAC, t.testKey, msg, mac)
	})
}
