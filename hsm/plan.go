package hsm

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/miekg/pkcs11"
)

// maxLabel bounds CKA_LABEL; the standard doesn't.
const maxLabel = 64

// backend is how a token carries out a key derivation.
type backend int

const (
	cbcBackend    backend = iota // KDF 1
	nativeBackend                // KDF 2 by CKM_SP800_108_COUNTER_KDF
	hostBackend                  // KDF 2 by C_Sign, through host memory
)

// kindKey is a kind with the derivation it serves.
type kindKey struct {
	kind    Kind
	backend backend
}

// plan is a kind's template made ready for each call that makes a key. Plans are made
// once and never change.
type plan struct {
	kindKey
	template
	// all are the attributes that a key of this kind has, MODIFIABLE included.
	all []attribute

	generate, derive, unwrap, create []*pkcs11.Attribute
	public                           []*pkcs11.Attribute // of a pair
}

var plans = sync.OnceValue(func() map[kindKey]*plan {
	m := map[kindKey]*plan{}
	for k, t := range templates {
		m[kindKey{k, cbcBackend}] = newPlan(kindKey{k, cbcBackend}, t)
		if k == MasterKey || k == PurposeKey || k == PurposeTwin {
			m[kindKey{k, nativeBackend}] = newPlan(kindKey{k, nativeBackend}, t.replacing(
				only("one KDF for each master version; "+guardStays, ckmSP800108CounterKDF)))
			m[kindKey{k, hostBackend}] = newPlan(kindKey{k, hostBackend}, t.replacing(
				only("KDF 2 through C_Sign, where configured by name; "+guardStays, pkcs11.CKM_AES_CMAC),
				may(pkcs11.CKA_SIGN, "the KDF's CMAC blocks"),
				attribute{pkcs11.CKA_DERIVE, false, "the KDF runs through C_Sign"}))
		}
	}
	return m
})

// replacing gives the template with rows put in place of those of the same types.
func (t template) replacing(rows ...attribute) template {
	kept := slices.DeleteFunc(slices.Clone(t.rows), func(a attribute) bool {
		return slices.ContainsFunc(rows, func(r attribute) bool { return r.typ == a.typ })
	})
	t.rows = append(kept, rows...)
	return t
}

func newPlan(kk kindKey, t template) *plan {
	p := &plan{kindKey: kk, template: t}
	p.all = append(t.common(), t.rows...)
	for _, a := range p.all {
		e := a.encode()
		p.generate = append(p.generate, e)
		if a.typ == pkcs11.CKA_MODIFIABLE {
			continue // C_DeriveKey and C_UnwrapKey refuse it: see fixed
		}
		p.derive = append(p.derive, e)
		p.unwrap = append(p.unwrap, e)
		p.create = append(p.create, e)
	}
	switch t.class {
	case pkcs11.CKO_SECRET_KEY:
		size := pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, t.size)
		p.generate = append(p.generate, size)
		p.derive = append(p.derive, size)
	case pkcs11.CKO_PRIVATE_KEY:
		p.public = t.publicHalf()
	}
	return p
}

// publicHalf is the template of the public key that goes with a private one.
func (t template) publicHalf() []*pkcs11.Attribute {
	rows := []attribute{
		{pkcs11.CKA_CLASS, uint(pkcs11.CKO_PUBLIC_KEY), ""},
		{pkcs11.CKA_KEY_TYPE, t.keyType, ""},
		{pkcs11.CKA_PRIVATE, false, ""},
		{pkcs11.CKA_EC_PARAMS, t.curve(), ""},
		{pkcs11.CKA_VERIFY, t.uses(pkcs11.CKA_SIGN), ""},
		{pkcs11.CKA_ENCRYPT, false, ""},
		{pkcs11.CKA_VERIFY_RECOVER, false, ""},
		{pkcs11.CKA_WRAP, false, ""},
		{pkcs11.CKA_DERIVE, false, ""},
	}
	for _, r := range t.rows {
		if r.typ == pkcs11.CKA_ALLOWED_MECHANISMS || r.typ == pkcs11.CKA_MODIFIABLE {
			rows = append(rows, r)
		}
	}
	list := make([]*pkcs11.Attribute, len(rows))
	for i, r := range rows {
		list[i] = r.encode()
	}
	return list
}

func (t template) curve() []byte {
	if t.keyType == ckkEdwards {
		return ed25519Params
	}
	return p256Params
}

func (t template) generator() uint {
	switch t.keyType {
	case pkcs11.CKK_AES:
		return pkcs11.CKM_AES_KEY_GEN
	case pkcs11.CKK_GENERIC_SECRET:
		return pkcs11.CKM_GENERIC_SECRET_KEY_GEN
	case ckkEdwards:
		return ckmEdwardsKeyPairGen
	default:
		return pkcs11.CKM_EC_KEY_PAIR_GEN
	}
}

// plan checks s and gives its plan for a key that comes about by o; o = 0 asks for a
// key that is there already.
func (t *Token) plan(s Spec, o origin) (*plan, error) {
	kk := kindKey{kind: s.Kind}
	tmpl, ok := templates[s.Kind]
	switch {
	case !ok:
		return nil, fmt.Errorf("%v", s.Kind)
	case o != 0 && tmpl.origins&o == 0:
		return nil, fmt.Errorf("a %s doesn't come about this way", s.Kind)
	case s.Token && !tmpl.lasting:
		return nil, fmt.Errorf("a %s isn't kept in the token: make it a session object", s.Kind)
	case len(s.Label) > maxLabel || strings.ContainsRune(s.Label, 0):
		return nil, fmt.Errorf("label %q: 1 to %d bytes without a zero", s.Label, maxLabel)
	case s.Token && s.Label == "":
		return nil, errors.New("a token object needs a label")
	}
	switch s.KDF {
	case 0, KDF1:
	case KDF2:
		if s.Kind != MasterKey && s.Kind != PurposeKey && s.Kind != PurposeTwin {
			return nil, fmt.Errorf("a %s has no KDF of its own", s.Kind)
		}
		b, err := t.kdf2Backend()
		if err != nil {
			return nil, err
		}
		kk.backend = b
	default:
		return nil, fmt.Errorf("unknown KDF %d", s.KDF)
	}
	return plans()[kk], nil
}

// place gives the attributes that tell an object's place and name.
func (s Spec) place() []*pkcs11.Attribute {
	a := []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_TOKEN, s.Token)}
	if s.Label != "" {
		a = append(a, pkcs11.NewAttribute(pkcs11.CKA_LABEL, s.Label))
	}
	return a
}

// joined appends more attributes without touching the plan's own slice.
func joined(list []*pkcs11.Attribute, more ...*pkcs11.Attribute) []*pkcs11.Attribute {
	return append(slices.Clip(slices.Clone(list)), more...)
}
