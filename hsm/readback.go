package hsm

import (
	"errors"
	"fmt"
	"strings"

	"github.com/miekg/pkcs11"
)

// readBack compares what the token made of a template with the template, and names
// every difference. A token may ignore an attribute it doesn't know, and a key without
// its guard must not go into use.
func (t *Token) readBack(s *session, h pkcs11.ObjectHandle, want []attribute) error {
	types := make([]uint, len(want))
	for i, a := range want {
		types[i] = a.typ
	}
	got, err := t.lib.attributes(s.handle, h, types...)
	if err != nil && Classify(err) != Stop {
		return err
	}
	var wrong []string
	for i, a := range want {
		var value []byte
		if err == nil {
			value = got[i]
		} else {
			// One attribute spoils the whole answer: ask for each, to name it.
			one, e := t.lib.attributes(s.handle, h, a.typ)
			if e != nil {
				wrong = append(wrong, fmt.Sprintf("%s: %v", a.name(), e))
				continue
			}
			value = one[0]
		}
		if v, ok := a.value.(nested); ok && a.matches(value) {
			inner, e := t.lib.inner(s.handle, h, a.typ, v.types())
			switch {
			case e != nil && Classify(e) != Stop:
				return e
			case e != nil:
				wrong = append(wrong, fmt.Sprintf("the values of %s: %v", a.name(), e))
			case !v.matchesInner(inner):
				wrong = append(wrong, fmt.Sprintf("%s isn't %s", a.name(), a.text()))
			}
			continue
		}
		if !a.matches(value) {
			wrong = append(wrong, fmt.Sprintf("%s isn't %s", a.name(), a.text()))
		}
	}
	if wrong == nil {
		return nil
	}
	return fmt.Errorf("%w: %s", errUnlikeTemplate, strings.Join(wrong, "; "))
}

// errUnlikeTemplate: the token holds something else than the template says.
var errUnlikeTemplate = errors.New("its attributes aren't those of its kind")

// readBackOnce reads back the attributes of a session key, once for each kind in this
// token: that shows whether the token honours the template, and the hot path stays
// without C_GetAttributeValue.
func (t *Token) readBackOnce(s *session, p *plan, h pkcs11.ObjectHandle) error {
	if _, done := t.verified.Load(p.kindKey); done {
		return nil
	}
	want := make([]attribute, 0, len(p.all))
	for _, a := range p.all {
		if a.typ != pkcs11.CKA_MODIFIABLE { // came with the copy into the token, or not at all
			want = append(want, a)
		}
	}
	if err := t.readBack(s, h, want); err != nil {
		return err
	}
	t.verified.Store(p.kindKey, struct{}{})
	return nil
}

// lasting gives what is read back of a token object: the kind's rows, its place, and
// what the token says of its past. A key that came from elsewhere has no such past.
func (p *plan) lasting(s Spec, local bool) []attribute {
	want := append([]attribute{{pkcs11.CKA_TOKEN, true, ""}, {pkcs11.CKA_LABEL, []byte(s.Label), ""}}, p.all...)
	if local {
		want = append(want, attribute{pkcs11.CKA_LOCAL, true, ""}, attribute{pkcs11.CKA_ALWAYS_SENSITIVE, true, ""})
		if p.is(pkcs11.CKA_EXTRACTABLE, false) {
			want = append(want, attribute{pkcs11.CKA_NEVER_EXTRACTABLE, true, ""})
		}
	}
	return want
}
