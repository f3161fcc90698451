package hsm

import (
	"context"
	"fmt"
	"runtime"
	"strings"

	"github.com/miekg/pkcs11"
)

// Protection is one promise of PKCS#11 that the design builds on, and whether this
// token keeps it.
type Protection struct {
	Name   string
	Holds  bool
	Detail string // what the token answered
}

// Report says which protections a token has. SoftHSM 2.6.1 keeps all but the last two.
type Report struct {
	Token       TokenInfo
	Protections []Protection
	// NativeKDF2: the token carries out KDF 2 itself.
	NativeKDF2 bool
}

// Missing lists the names of the protections that the token lacks.
func (r Report) Missing() []string {
	var missing []string
	for _, p := range r.Protections {
		if !p.Holds {
			missing = append(missing, p.Name)
		}
	}
	return missing
}

// Probe tries the protections the design builds on, with session objects made for it
// and destroyed; no key of the token is touched and nothing is written to it. It takes
// some milliseconds.
func (t *Token) Probe(ctx context.Context) (Report, error) {
	r := Report{Token: t.info, NativeKDF2: t.mechanisms[ckmSP800108CounterKDF]}
	err := t.with(ctx, "probe protections", func(s *session) error {
		p := prober{token: t, session: s}
		defer p.clean()
		r.Protections = nil
		for _, trial := range trials {
			if err := ctx.Err(); err != nil {
				return err
			}
			holds, detail, err := trial.try(&p)
			if err != nil {
				return fmt.Errorf("try whether %s: %w", trial.name, err)
			}
			r.Protections = append(r.Protections, Protection{trial.name, holds, detail})
		}
		return nil
	})
	return r, err
}

// prober makes the session objects of one probe.
type prober struct {
	token   *Token
	session *session
	made    []pkcs11.ObjectHandle
}

func (p *prober) clean() {
	for _, h := range p.made {
		_ = p.token.lib.destroyObject(p.session.handle, h, false) // else it dies with the session
	}
}

// trial tries one protection. An error means that the trial itself couldn't be made.
type trial struct {
	name string
	try  func(*prober) (bool, string, error)
}

// key makes a 32-byte session key with these rows; what isn't said is as in the table:
// sensitive, private, not extractable, no usage.
func (p *prober) key(keyType uint, rows ...attribute) (pkcs11.ObjectHandle, error) {
	t := template{class: pkcs11.CKO_SECRET_KEY, keyType: keyType, size: derivedSize, rows: rows}
	h, err := p.token.lib.generateKey(p.session.handle, t.generator(), p.attributes(t))
	if err == nil {
		p.made = append(p.made, h)
	}
	return h, err
}

func (p *prober) attributes(t template) []*pkcs11.Attribute {
	list := append(Spec{}.place(), pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, t.size))
	for _, a := range t.common() {
		if !t.uses(a.typ) {
			list = append(list, a.encode())
		}
	}
	for _, a := range t.rows {
		list = append(list, a.encode())
	}
	return list
}

// refused turns the answer to something that must not work into a verdict.
func refused(err error) (bool, string, error) {
	if err == nil {
		return false, "the token did it", nil
	}
	if Classify(err) != Stop {
		return false, "", err
	}
	return true, strings.TrimSpace(codeOf(err).String()), nil
}

var trials = []trial{
	{"a sensitive key's value is hidden", func(p *prober) (bool, string, error) {
		h, err := p.key(pkcs11.CKK_AES, travels(""), only("", pkcs11.CKM_AES_GCM))
		if err != nil {
			return false, "", err
		}
		_, err = p.token.lib.attributes(p.session.handle, h, pkcs11.CKA_VALUE)
		return refused(err)
	}},
	{"a key that isn't extractable can't be wrapped", func(p *prober) (bool, string, error) {
		return p.wrap(attribute{}, stays(""))
	}},
	{"extractable can't be switched on", func(p *prober) (bool, string, error) {
		h, err := p.key(pkcs11.CKK_AES, stays(""), only("", pkcs11.CKM_AES_GCM))
		if err != nil {
			return false, "", err
		}
		on := []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, true)}
		if err := p.token.lib.setAttributes(p.session.handle, h, on); err == nil {
			return false, "by C_SetAttributeValue", nil
		}
		c, err := p.token.lib.copyObject(p.session.handle, h, on)
		if err == nil {
			p.made = append(p.made, c)
			return false, "by C_CopyObject", nil
		}
		return refused(err)
	}},
	{"allowed mechanisms are honoured", func(p *prober) (bool, string, error) {
		h, err := p.key(pkcs11.CKK_AES, stays(""), may(pkcs11.CKA_SIGN, ""), only("", pkcs11.CKM_AES_GCM))
		if err != nil {
			return false, "", err
		}
		_, err = p.token.lib.sign(p.session.handle, pkcs11.CKM_AES_CMAC, h, []byte("dk-probe"))
		return refused(err)
	}},
	{"allowed mechanisms can't be changed", func(p *prober) (bool, string, error) {
		h, err := p.key(pkcs11.CKK_AES, stays(""), only("", pkcs11.CKM_AES_GCM))
		if err != nil {
			return false, "", err
		}
		change := []*pkcs11.Attribute{only("", pkcs11.CKM_AES_CMAC).encode()}
		if err := p.token.lib.setAttributes(p.session.handle, h, change); err == nil {
			return false, "by C_SetAttributeValue", nil
		}
		c, err := p.token.lib.copyObject(p.session.handle, h, change)
		if err == nil {
			p.made = append(p.made, c)
			return false, "by C_CopyObject", nil
		}
		return refused(err)
	}},
	{"a wrap template is honoured", func(p *prober) (bool, string, error) {
		return p.wrap(wraps("", privateClass), travels(""))
	}},
	{"an unwrap template is honoured", func(p *prober) (bool, string, error) {
		h, err := p.key(pkcs11.CKK_AES, stays(""), may(pkcs11.CKA_WRAP, ""), may(pkcs11.CKA_UNWRAP, ""),
			only("", pkcs11.CKM_AES_KEY_WRAP), unwraps("", sensitive, unextractable))
		if err != nil {
			return false, "", err
		}
		k, err := p.key(pkcs11.CKK_AES, travels(""), only("", pkcs11.CKM_AES_GCM))
		if err != nil {
			return false, "", err
		}
		blob, err := p.token.lib.wrapKey(p.session.handle, pkcs11.CKM_AES_KEY_WRAP, h, k)
		if err != nil {
			return false, "", err
		}
		back, err := p.token.lib.unwrapKey(p.session.handle, pkcs11.CKM_AES_KEY_WRAP, h, blob,
			joined(plans()[kindKey{kind: InboundCipherKey}].unwrap, Spec{}.place()...))
		if err == nil {
			p.made = append(p.made, back)
		}
		return refused(err)
	}},
	{"an unchangeable key can't be changed", func(p *prober) (bool, string, error) {
		h, err := p.key(pkcs11.CKK_AES, stays(""), only("", pkcs11.CKM_AES_GCM), fixed(""))
		if err != nil {
			return false, "", err
		}
		return refused(p.token.lib.setAttributes(p.session.handle, h, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_ENCRYPT, true)}))
	}},
	{"a derive template is known", func(p *prober) (bool, string, error) {
		_, err := p.deriver(attribute{ckaDeriveTemplate, nested{sensitive}, ""})
		if err != nil {
			return false, codeOf(err).String(), nil
		}
		return true, "accepted", nil
	}},
	{"a derive key makes no readable child", func(p *prober) (bool, string, error) {
		h, err := p.deriver(attribute{ckaDeriveTemplate, nested{sensitive}, ""})
		if err != nil {
			if h, err = p.deriver(); err != nil {
				return false, "", err
			}
		}
		var pin runtime.Pinner
		defer pin.Unpin()
		child, err := p.token.lib.deriveKey(p.session.handle, cbcEncryptData(&pin, kdf1Input([]byte("dk-probe"))), h,
			p.attributes(template{class: pkcs11.CKO_SECRET_KEY, keyType: pkcs11.CKK_AES, size: derivedSize,
				rows: []attribute{{pkcs11.CKA_SENSITIVE, false, ""}, travels("")}}))
		if err == nil {
			p.made = append(p.made, child)
		}
		return refused(err)
	}},
}

// wrap tries to wrap a key with the row given under one with the other row (its type 0
// for none).
func (p *prober) wrap(kekRow, keyRow attribute) (bool, string, error) {
	rows := []attribute{stays(""), may(pkcs11.CKA_WRAP, ""), only("", pkcs11.CKM_AES_KEY_WRAP)}
	if kekRow.typ != 0 {
		rows = append(rows, kekRow)
	}
	kek, err := p.key(pkcs11.CKK_AES, rows...)
	if err != nil {
		return false, "", err
	}
	k, err := p.key(pkcs11.CKK_AES, keyRow, only("", pkcs11.CKM_AES_GCM))
	if err != nil {
		return false, "", err
	}
	_, err = p.token.lib.wrapKey(p.session.handle, pkcs11.CKM_AES_KEY_WRAP, kek, k)
	return refused(err)
}

func (p *prober) deriver(more ...attribute) (pkcs11.ObjectHandle, error) {
	return p.key(pkcs11.CKK_AES, append([]attribute{stays(""), may(pkcs11.CKA_DERIVE, ""), only("", pkcs11.CKM_AES_CBC_ENCRYPT_DATA)}, more...)...)
}
