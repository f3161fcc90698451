package hsm

import "github.com/miekg/pkcs11"

// origin is a way in which a key of some kind comes into being.
type origin int

const (
	generated origin = 1 << iota
	derived          // by a KDF from another key
	agreed           // by ECDH
	unwrapped
	copied // from a key of the kind's twin
)

// template is one kind's entry in the table.
type template struct {
	name    string
	class   uint
	keyType uint
	size    uint // bytes of a secret key's value
	origins origin
	// lasting: it may be a token object.
	lasting bool
	twin    Kind // copied from this kind
	rows    []attribute
}

// The rows that several kinds share, with their reasons.

func may(usage uint, reason string) attribute { return attribute{usage, true, reason} }

func only(reason string, m ...uint) attribute {
	return attribute{pkcs11.CKA_ALLOWED_MECHANISMS, mechanisms(m), reason}
}

func stays(reason string) attribute { return attribute{pkcs11.CKA_EXTRACTABLE, false, reason} }

func travels(reason string) attribute { return attribute{pkcs11.CKA_EXTRACTABLE, true, reason} }

// fixed is for keys that are never copied: a copy of such a key can't change even its
// place. C_DeriveKey and C_UnwrapKey refuse it, so there it comes with the copy into
// the token.
func fixed(reason string) attribute { return attribute{pkcs11.CKA_MODIFIABLE, false, reason} }

const (
	neverLeaves  = "nothing needs it elsewhere; C_WrapKey refuses it"
	noSwitchOn   = "else a later C_SetAttributeValue could switch a usage on"
	guardStays   = "the guard that neither copy nor change can lift"
	separateEnds = "wrapping and unwrapping are different handles, so that the code of one can't do the other"
)

// wraps and unwraps are the templates of the keys that may pass through a wrapping key.
func wraps(reason string, rows ...attribute) attribute {
	return attribute{pkcs11.CKA_WRAP_TEMPLATE, nested(rows), reason}
}

func unwraps(reason string, rows ...attribute) attribute {
	return attribute{pkcs11.CKA_UNWRAP_TEMPLATE, nested(rows), reason}
}

var (
	sensitive     = attribute{pkcs11.CKA_SENSITIVE, true, ""}
	unextractable = attribute{pkcs11.CKA_EXTRACTABLE, false, ""}
	secretClass   = attribute{pkcs11.CKA_CLASS, uint(pkcs11.CKO_SECRET_KEY), ""}
	privateClass  = attribute{pkcs11.CKA_CLASS, uint(pkcs11.CKO_PRIVATE_KEY), ""}
)

func aes(name string, o origin, rows ...attribute) template {
	return template{name: name, class: pkcs11.CKO_SECRET_KEY, keyType: pkcs11.CKK_AES, size: 32, origins: o, rows: rows}
}

func generic(name string, o origin, rows ...attribute) template {
	t := aes(name, o, rows...)
	t.keyType = pkcs11.CKK_GENERIC_SECRET
	return t
}

func pair(name string, o origin, rows ...attribute) template {
	return template{name: name, class: pkcs11.CKO_PRIVATE_KEY, keyType: pkcs11.CKK_EC, origins: o, rows: rows}
}

// signing is a long-term P-256 key that signs digests and does nothing else.
func signing(name, what string) template {
	t := pair(name, generated,
		may(pkcs11.CKA_SIGN, what),
		only(guardStays, pkcs11.CKM_ECDSA),
		stays(neverLeaves),
		fixed(noSwitchOn),
	)
	t.lasting = true
	return t
}

func (t template) lasts() template { t.lasting = true; return t }

func (t template) copyOf(k Kind) template { t.twin = k; return t }

// usages are all of a class's usage attributes; those a kind may not use are set to
// false, since SoftHSM's default is true for most.
var usages = map[uint][]uint{
	pkcs11.CKO_SECRET_KEY: {pkcs11.CKA_ENCRYPT, pkcs11.CKA_DECRYPT, pkcs11.CKA_SIGN, pkcs11.CKA_VERIFY,
		pkcs11.CKA_WRAP, pkcs11.CKA_UNWRAP, pkcs11.CKA_DERIVE},
	pkcs11.CKO_PRIVATE_KEY: {pkcs11.CKA_DECRYPT, pkcs11.CKA_SIGN, pkcs11.CKA_SIGN_RECOVER,
		pkcs11.CKA_UNWRAP, pkcs11.CKA_DERIVE},
}

// common gives the rows that every kind has besides its own.
func (t template) common() []attribute {
	rows := []attribute{
		{pkcs11.CKA_CLASS, t.class, "what it is"},
		{pkcs11.CKA_KEY_TYPE, t.keyType, "what it is"},
		{pkcs11.CKA_PRIVATE, true, "seen only after login"},
		{pkcs11.CKA_SENSITIVE, true, "its value is never shown; the one attribute that no kind may lack"},
	}
	for _, u := range usages[t.class] {
		if !t.uses(u) {
			rows = append(rows, attribute{u, false, "not its work; a token's default may be true"})
		}
	}
	return rows
}

func (t template) uses(usage uint) bool {
	for _, r := range t.rows {
		if r.typ == usage {
			return true
		}
	}
	return false
}

func (t template) is(typ uint, value bool) bool {
	for _, r := range t.rows {
		if b, ok := r.value.(bool); ok && r.typ == typ {
			return b == value
		}
	}
	return false
}
