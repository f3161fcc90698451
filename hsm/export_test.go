package hsm

import (
	"context"
	"runtime"

	"github.com/miekg/pkcs11"
)

// Seams for the tests outside the package.

var (
	CheckPoint     = checkPoint
	SameMechanisms = func(want []uint, got []byte) bool { return sameMechanisms(want, got) }
	EncodeMechs    = func(m []uint) []byte { return encodeMechanisms(m) }
	KDF1Input      = kdf1Input
	KDF2Input      = kdf2Input
	KDF2Blocks     = kdf2Blocks
	LockFile       = lockFile
	CloseWait      = closeWait
)

const (
	KeyTypeEC      = pkcs11.CKK_EC
	KeyTypeEdwards = ckkEdwards
	CBCEncryptData = pkcs11.CKM_AES_CBC_ENCRYPT_DATA
)

// DecodePoint is decodePoint.
func DecodePoint(keyType uint, b []byte) ([]byte, error) { return decodePoint(keyType, b) }

// MatchBool tells whether got is read back as the boolean want.
func MatchBool(want bool, got []byte) bool {
	return attribute{pkcs11.CKA_SIGN, want, ""}.matches(got)
}

// MatchNested tells whether got is read back as a template {SENSITIVE, EXTRACTABLE}.
func MatchNested(got []byte) bool {
	return attribute{pkcs11.CKA_WRAP_TEMPLATE, nested{sensitive, unextractable}, ""}.matches(got)
}

// CBCParameter and CounterParameter give a mechanism's number and parameter.
func CBCParameter(pin *runtime.Pinner, data []byte) (uint, []byte) {
	m := cbcEncryptData(pin, data)
	return m.Mechanism, m.Parameter
}

func CounterParameter(pin *runtime.Pinner, fixed []byte) (uint, []byte) {
	m := counterKDF(pin, fixed)
	return m.Mechanism, m.Parameter
}

// TemplateBytes encodes {CKA_SENSITIVE = true, CKA_EXTRACTABLE = false}.
func TemplateBytes(pin *runtime.Pinner) []byte {
	return encodeTemplate(pin, []*pkcs11.Attribute{sensitive.encode(), unextractable.encode()})
}

// CodeOf is the module's answer inside err.
func CodeOf(err error) Code { return codeOf(err) }

// TakeSession holds one of the token's sessions until the function it returns is
// called.
func (t *Token) TakeSession(ctx context.Context) (give func(), err error) {
	s, err := t.pool.take(ctx)
	if err != nil {
		return nil, err
	}
	return func() { t.pool.give(s, false) }, nil
}

// Poison leaves an operation open in the session k was born in, as a failure at a bad
// moment would, and has the pool notice it.
func (k *Key) Poison(ctx context.Context) error {
	return k.token.pool.with(ctx, func(s *session) error {
		m := []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_SHA256_HMAC, nil)}
		if err := k.token.lib.ctx.SignInit(s.handle, m, k.at.Load().key); err != nil {
			return translated(err)
		}
		_, err := k.token.lib.sign(s.handle, pkcs11.CKM_SHA256_HMAC, k.at.Load().key, nil)
		return err
	})
}

// ReadValue asks the token for the key's bytes.
func (k *Key) ReadValue(ctx context.Context) (value []byte, err error) {
	err = k.use(ctx, "read the value of "+k.String(), func(s *session, own pkcs11.ObjectHandle) error {
		v, err := k.token.lib.attributes(s.handle, own, pkcs11.CKA_VALUE)
		if err == nil {
			value = v[0]
		}
		return err
	})
	return value, err
}

// SwitchOn tries to set a usage of the key afterwards.
func (k *Key) SwitchOn(ctx context.Context, usage uint) error {
	return k.use(ctx, "change "+k.String(), func(s *session, own pkcs11.ObjectHandle) error {
		return k.token.lib.setAttributes(s.handle, own, []*pkcs11.Attribute{pkcs11.NewAttribute(usage, true)})
	})
}

// SetAllowed tries to set the key's allowed mechanisms afterwards.
func (k *Key) SetAllowed(ctx context.Context, mechanism uint) error {
	return k.use(ctx, "change "+k.String(), func(s *session, own pkcs11.ObjectHandle) error {
		return k.token.lib.setAttributes(s.handle, own, []*pkcs11.Attribute{only("", mechanism).encode()})
	})
}

// GenerateLax makes a token key by s's template, but that its wrap template asks for nothing sensitive: the types are those
// of the kind, one value is not.
func (t *Token) GenerateLax(ctx context.Context, s Spec) error {
	p, err := t.plan(s, generated)
	if err != nil {
		return err
	}
	list := s.place()
	for _, a := range p.generate {
		if a.Type == pkcs11.CKA_WRAP_TEMPLATE {
			a = attribute{a.Type, nested{secretClass, {pkcs11.CKA_SENSITIVE, false, ""}}, ""}.encode()
		}
		list = append(list, a)
	}
	return t.with(ctx, "generate", func(se *session) error {
		_, err := t.lib.generateKey(se.handle, p.generator(), list)
		return err
	})
}

// DestroyHalf destroys a token pair's private half only, as a crash would.
func (k *Key) DestroyHalf(ctx context.Context) error {
	return k.use(ctx, "destroy half of "+k.String(), func(s *session, own pkcs11.ObjectHandle) error {
		return k.token.lib.destroyObject(s.handle, own, true)
	})
}

// RawUse tries an operation with the key, whatever its kind, straight in the token.
func (k *Key) RawUse(ctx context.Context, operation string) error {
	return k.use(ctx, operation, func(s *session, own pkcs11.ObjectHandle) error {
		lib, mac := &k.token.lib.cryptoki, uint(pkcs11.CKM_SHA256_HMAC)
		var err error
		switch operation {
		case "HMAC":
			_, err = lib.sign(s.handle, mac, own, []byte("x"))
		case "CMAC":
			_, err = lib.sign(s.handle, pkcs11.CKM_AES_CMAC, own, []byte("x"))
		case "ECDSA":
			_, err = lib.sign(s.handle, pkcs11.CKM_ECDSA, own, make([]byte, 32))
		case "EdDSA":
			_, err = lib.sign(s.handle, ckmEdDSA, own, make([]byte, 32))
		case "encrypt":
			_, err = lib.encrypt(s.handle, own, make([]byte, NonceSize), []byte("x"), []byte("x"))
		case "encrypt CBC":
			m := []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_CBC, make([]byte, 16))}
			if err = translated(lib.ctx.EncryptInit(s.handle, m, own)); err == nil {
				_, err = lib.ctx.Encrypt(s.handle, make([]byte, 16))
				err = translated(err)
			}
		case "decrypt":
			// GCM of nothing under the zero nonce can't be right: a refusal of the use
			// comes from C_DecryptInit, a refusal of the data says that the use is allowed.
			_, err = lib.decrypt(s.handle, own, make([]byte, NonceSize), []byte("x"), make([]byte, TagSize))
			if codeOf(err) == pkcs11.CKR_GENERAL_ERROR {
				err = nil
			}
		case "derive":
			var pin runtime.Pinner
			defer pin.Unpin()
			var h pkcs11.ObjectHandle
			h, err = lib.deriveKey(s.handle, cbcEncryptData(&pin, make([]byte, 32)), own, joined(plans()[kindKey{kind: DeviceKey}].derive, Spec{}.place()...))
			if err == nil {
				err = lib.destroyObject(s.handle, h, true)
			}
		case "wrap":
			p := plans()[kindKey{kind: DeviceKey}]
			if k.spec.Kind == PoolPairWrapKey {
				p = plans()[kindKey{kind: DeviceSigningKey}]
			}
			var made *Key
			made, err = k.token.generate(s, Spec{Kind: p.kind}, p)
			if err != nil {
				return err
			}
			_, err = lib.wrapKey(s.handle, pkcs11.CKM_AES_KEY_WRAP, own, made.at.Load().key)
			if e := lib.destroyObject(s.handle, made.at.Load().key, true); err == nil {
				err = e
			}
		case "unwrap":
			_, err = lib.unwrapKey(s.handle, pkcs11.CKM_AES_KEY_WRAP, own, make([]byte, 40), joined(plans()[kindKey{kind: CheckKey}].unwrap, Spec{}.place()...))
			switch codeOf(err) { // past the usage check; the blob or the template is refused
			case pkcs11.CKR_GENERAL_ERROR, pkcs11.CKR_TEMPLATE_INCONSISTENT:
				err = nil
			}
		}
		return err
	})
}

// MACInto is MAC, with room for so many bytes at first.
func (k *Key) MACInto(ctx context.Context, msg []byte, room int) (mac []byte, err error) {
	err = k.use(ctx, "MAC", func(s *session, own pkcs11.ObjectHandle) error {
		mac, err = k.token.lib.signInto(s.handle, pkcs11.CKM_SHA256_HMAC, own, msg, room)
		return err
	})
	return mac, err
}

// WrapInto is Wrap, with room for so many bytes at first.
func (t *Token) WrapInto(ctx context.Context, kek, key *Key, room int) (blob []byte, err error) {
	err = kek.use(ctx, "wrap", func(s *session, own pkcs11.ObjectHandle) error {
		what, err := key.object(s)
		if err != nil {
			return err
		}
		blob, err = t.lib.wrapInto(s.handle, pkcs11.CKM_AES_KEY_WRAP, own, what, room)
		return err
	})
	return blob, err
}

// HalfToken makes a token without user PIN, as a crash inside InitToken leaves it. It
// doesn't ask whether the label is in use.
func (m *Module) HalfToken(label string, soPIN []byte) error {
	m.lib.mu.Lock()
	defer m.lib.mu.Unlock()
	if _, err := m.lib.scan(); err != nil {
		return err
	}
	for _, sl := range m.lib.slots {
		if !sl.info.Initialised {
			if err := m.lib.initToken(sl.id, soPIN, label); err != nil {
				return err
			}
			return m.lib.refresh(sl)
		}
	}
	return ErrNoToken
}
