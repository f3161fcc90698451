// Package raw makes what one device needs of an HSM straight through miekg/pkcs11: no more
// and no less, from one thread, with nothing around it. It is the bound that the SPP's own
// cost is measured against.
//
// [Needs] is the list, by the function that does the work; the loop in device.go makes those
// calls in the SPP's order, on the same token with the same keys, templates and sizes. What
// else a call takes is miekg's: a C_Sign is made twice, the first time for the size.
//
// A process that uses this package loads the module through it alone: package hsm would
// refuse the module, and this one doesn't know of hsm's sessions.
package raw

import (
	"errors"
	"fmt"
	"strings"

	"github.com/miekg/pkcs11"

	"github.com/devicekeys/devicekeys/secret"
)

// Needs tells how often a device needs each function: the cryptographic work of the
// assembly, from the draw of its secrets to the last proof. Of functions with an Init it is
// the Init that is listed. What is missing in the list, sessions and the destruction of session
// objects, is not what a device needs but what a module wants; random numbers may be drawn for many
// devices at once, and one submission is signed for several.
//
//	C_DeriveKey        the device key; ECDH; KEK and package key of the transfer
//	C_GenerateKeyPair  the transfer's
//	C_SignInit         check value, certificate, message of publication
//	C_VerifyInit       the device's three words: confirmed, restored, locked
//	C_EncryptInit      secrets for the records, secrets for the device
//	C_WrapKey          the device key for the device
func Needs() map[string]int {
	return map[string]int{
		"C_DeriveKey": 4, "C_GenerateKeyPair": 1, "C_SignInit": 3, "C_VerifyInit": 3, "C_EncryptInit": 2, "C_WrapKey": 1,
	}
}

// Config says which token and keys.
type Config struct {
	Module string // file of the PKCS#11 module
	Token  string // label
	PIN    secret.Secret
	// Labels of keys: a purpose key of KDF 1, the key that seals for the pool, and two EC P-256
	// keys. One that is empty is not looked for, and what needs it fails.
	Purpose, Seal, Identity, Submission string
}

// Loop makes the calls. It serves one goroutine.
type Loop struct {
	ctx     *pkcs11.Ctx
	session pkcs11.SessionHandle
	calls   map[string]uint64
	purpose, seal, identity,
	submission pkcs11.ObjectHandle
}

// Open loads the module, logs in and finds the keys. Close ends it.
func Open(c Config) (_ *Loop, err error) {
	l := &Loop{ctx: pkcs11.New(c.Module), calls: map[string]uint64{}}
	if l.ctx == nil {
		return nil, fmt.Errorf("load %q: it is no PKCS#11 module", c.Module)
	}
	if err := l.ctx.Initialize(pkcs11.InitializeWithFlags(pkcs11.CKF_OS_LOCKING_OK)); err != nil {
		l.ctx.Destroy()
		return nil, fmt.Errorf("initialise %q: %w", c.Module, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close())
		}
	}()
	if err := l.login(c); err != nil {
		return nil, err
	}
	for _, k := range []struct {
		handle *pkcs11.ObjectHandle
		class  uint
		label  string
	}{
		{&l.purpose, pkcs11.CKO_SECRET_KEY, c.Purpose}, {&l.seal, pkcs11.CKO_SECRET_KEY, c.Seal},
		{&l.identity, pkcs11.CKO_PRIVATE_KEY, c.Identity}, {&l.submission, pkcs11.CKO_PRIVATE_KEY, c.Submission},
	} {
		if k.label == "" {
			continue
		}
		if *k.handle, err = l.find(k.class, k.label); err != nil {
			return nil, err
		}
	}
	return l, nil
}

func (l *Loop) login(c Config) error {
	slots, err := l.ctx.GetSlotList(true)
	if err != nil {
		return fmt.Errorf("list slots: %w", err)
	}
	for _, slot := range slots {
		info, err := l.ctx.GetTokenInfo(slot)
		if err != nil || strings.TrimRight(info.Label, " ") != c.Token {
			continue
		}
		if l.session, err = l.ctx.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION); err != nil {
			return fmt.Errorf("open a session with token %q: %w", c.Token, err)
		}
		if err := l.ctx.Login(l.session, pkcs11.CKU_USER, string(c.PIN.Bytes())); err != nil {
			return fmt.Errorf("log in to token %q: %w", c.Token, err)
		}
		return nil
	}
	return fmt.Errorf("no token has the label %q: check SOFTHSM2_CONF", c.Token)
}

func (l *Loop) find(class uint, label string) (pkcs11.ObjectHandle, error) {
	err := l.ctx.FindObjectsInit(l.session, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_CLASS, class), pkcs11.NewAttribute(pkcs11.CKA_LABEL, label),
	})
	if err != nil {
		return 0, fmt.Errorf("find key %q: %w", label, err)
	}
	found, _, err := l.ctx.FindObjects(l.session, 2)
	if err := errors.Join(err, l.ctx.FindObjectsFinal(l.session)); err != nil {
		return 0, fmt.Errorf("find key %q: %w", label, err)
	}
	if len(found) != 1 {
		return 0, fmt.Errorf("find key %q: there are %d of it", label, len(found))
	}
	return found[0], nil
}

// Calls tells how often each function was called by Device and Fill, as the module sees
// it: miekg's questions for sizes included.
func (l *Loop) Calls() map[string]uint64 { return l.calls }

// count notes a call, or two of a function that miekg asks for the size first.
func (l *Loop) count(function string, n uint64) { l.calls[function] += n }

// Close ends the session and the module.
func (l *Loop) Close() error {
	err := l.ctx.Finalize() // closes all sessions
	l.ctx.Destroy()
	return err
}

// Fill makes n AES keys that lie in the token and are used by nobody, labelled with a
// number behind prefix.
func (l *Loop) Fill(n int, prefix string, made func()) error {
	for i := range n {
		_, err := l.ctx.GenerateKey(l.session, mechanism(pkcs11.CKM_AES_KEY_GEN), append(keyAttributes(pkcs11.CKK_AES, true),
			pkcs11.NewAttribute(pkcs11.CKA_LABEL, fmt.Sprintf("%s%04d", prefix, i)), pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, keySize)))
		if err != nil {
			return fmt.Errorf("make key %d: %w", i, err)
		}
		l.count("C_GenerateKey", 1)
		made()
	}
	return nil
}
