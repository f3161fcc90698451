package hsm

import (
	"fmt"

	"github.com/miekg/pkcs11"
)

// Kind is a kind of key: what it is for, and so what it may do. The table in this file
// has each kind's attributes.
type Kind int

const (
	// MasterKey is the manufacturer's AES-256 key of one version, from which purpose
	// keys are derived.
	MasterKey Kind = iota + 1
	// PurposeKey is derived from a master key, one for each purpose; device keys are
	// derived from it.
	PurposeKey
	// PurposeTwin is a purpose key on its way to another HSM: derived once more in a
	// ceremony, as a session object that may be wrapped.
	PurposeTwin
	// DeviceKey is a device's symmetric key in the SPP: 32 bytes, HMAC, extractable so
	// that it can be wrapped to the device.
	DeviceKey
	// ChannelDeviceKey is the same key in the service's HSM, where it never leaves.
	ChannelDeviceKey
	// IdentitySigningKey signs identity certificates and statements, EC P-256.
	IdentitySigningKey
	// CAKey signs X.509 certificates.
	CAKey
	// SubmissionKey signs what the SPP submits to the sequencer.
	SubmissionKey
	// AuditKey signs the audit log's heads.
	AuditKey
	// TLSKey is a program's key for TLS.
	TLSKey
	// AttestationKey is a chip's own key, made by the chip maker.
	AttestationKey
	// ChipMakerKey signs the chip maker's delivery list.
	ChipMakerKey
	// CheckpointKey signs the registry log's checkpoints, Ed25519.
	CheckpointKey
	// PoolWrapKey wraps symmetric keys that wait in the pool, PoolUnwrapKey is its copy
	// ([Token.Copy]) that unwraps them.
	PoolWrapKey
	PoolUnwrapKey
	// PoolPairWrapKey wraps EC private keys that wait in the pool, PoolPairUnwrapKey is
	// its copy that unwraps them.
	PoolPairWrapKey
	PoolPairUnwrapKey
	// PoolSealKey seals the other secrets in the pool, AES-256 GCM.
	PoolSealKey
	// DeviceSigningKey is an EC P-256 pair made for a device: extractable, to be wrapped
	// to the pool and to the device. DeviceAgreementKey is the same for key agreement.
	DeviceSigningKey
	DeviceAgreementKey
	// DeviceCipherKey is a device's AES-256 key, made for it and not derived.
	DeviceCipherKey
	// TransportKey takes keys from another HSM or from outside, EC P-256: see package
	// hsm/transport.
	TransportKey
	// EphemeralKey is one side's pair of one key agreement.
	EphemeralKey
	// AgreedKey is the result of the agreement; the transfer keys are derived from it.
	AgreedKey
	// TransferWrapKey and TransferUnwrapKey are the KEK on the SPP's and on the
	// device's side.
	TransferWrapKey
	TransferUnwrapKey
	// TransferSealKey and TransferOpenKey are K_pkg on the SPP's and on the device's
	// side, AES-256 GCM.
	TransferSealKey
	TransferOpenKey
	// ChipKey is a chip's own AES-256 key, made by the chip maker.
	ChipKey
	// ChipWrapKey, ChipUnwrapKey and ChipBootUnwrapKey are three handles of one key
	// derived from the chip key: wrapping the package's keys, unwrapping them to wrap
	// them anew, and unwrapping them at boot as keys that never leave again.
	ChipWrapKey
	ChipUnwrapKey
	ChipBootUnwrapKey
	// ChipSealKey and ChipOpenKey are two handles of the key that seals the backup.
	ChipSealKey
	ChipOpenKey
	// InboundKey is a device key just unwrapped in the device, to be checked and
	// wrapped again under the chip wrap key.
	InboundKey
	// InboundCipherKey is the same for a key of AES type.
	InboundCipherKey
	// InboundSigningKey and InboundAgreementKey are the same for EC P-256 private keys.
	InboundSigningKey
	InboundAgreementKey
	// ResidentKey, ResidentCipherKey, ResidentSigningKey and ResidentAgreementKey are
	// those keys after boot: they work and never leave.
	ResidentKey
	ResidentCipherKey
	ResidentSigningKey
	ResidentAgreementKey
	// CheckKey is a key of AES type unwrapped a second time as a GENERIC_SECRET, for
	// its check value; destroy it then.
	CheckKey

	kindEnd
)

// Spec names a key: its kind, its label in the token, and whether it lasts there.
type Spec struct {
	Kind Kind
	// Label is CKA_LABEL, 1 to 64 bytes for a token object; optional for a session
	// object, where it serves only messages.
	Label string
	// Token makes a token object, which lasts; else a session object, which dies with
	// the Token it was made in.
	Token bool
	// Unwrapped says of a token key that it came from another HSM. SoftHSM keeps no check
	// value of such a key, by which [Token.Find] tells a whole key from one that a crash
	// left half written; so whoever unwrapped it has tried it, and says so somewhere.
	// [Token.Sweep] can't tell either, and is not for tokens with such keys.
	Unwrapped bool
	// KDF is the key derivation that a MasterKey or PurposeKey serves; zero is [KDF1].
	// Other kinds don't have one.
	KDF KDF
}

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

// templates is the table. What it doesn't say of a key is added to every kind: see
// common.
var templates = map[Kind]template{
	MasterKey: aes("master key", generated|unwrapped,
		may(pkcs11.CKA_DERIVE, "every purpose key is derived from it"),
		only("one KDF for each master version; as an encryption key it would give away what the KDF hides; "+guardStays, pkcs11.CKM_AES_CBC_ENCRYPT_DATA),
		stays("its bytes are every device's keys; a backup is made of an extractable twin in the ceremony"),
		fixed(noSwitchOn),
	).lasts(),
	PurposeKey: aes("purpose key", derived|unwrapped,
		may(pkcs11.CKA_DERIVE, "device keys are derived from it"),
		only(guardStays, pkcs11.CKM_AES_CBC_ENCRYPT_DATA),
		stays("resident; another HSM gets an extractable twin in the ceremony"),
		fixed(noSwitchOn),
	).lasts(),
	PurposeTwin: aes("purpose key's twin", derived,
		may(pkcs11.CKA_DERIVE, "its check value, for the eyes of two custodians"),
		only(guardStays, pkcs11.CKM_AES_CBC_ENCRYPT_DATA),
		travels("it is wrapped to the other HSM's transport key, then destroyed"),
	),
	DeviceKey: generic("device key", derived|generated|unwrapped,
		may(pkcs11.CKA_SIGN, "its check value, and what the SPP says to the device"),
		may(pkcs11.CKA_VERIFY, "what the device proves, compared inside the token"),
		only("HMAC only: one key can't both MAC and derive", pkcs11.CKM_SHA256_HMAC),
		travels("it is wrapped to the device's token; it lives in a session, minutes"),
	),
	ChannelDeviceKey: generic("device key of the service", derived|unwrapped,
		may(pkcs11.CKA_SIGN, "the session's secret is an HMAC under it"),
		may(pkcs11.CKA_VERIFY, "what the device proves, compared inside the token"),
		only("HMAC only", pkcs11.CKM_SHA256_HMAC),
		stays(neverLeaves),
	),
	IdentitySigningKey: signing("identity-signing key", "certificates and statements, one function for each type"),
	CAKey:              signing("CA key", "X.509 certificates, through crypto11"),
	SubmissionKey:      signing("submission key", "batches for the sequencer"),
	AuditKey:           signing("audit key", "heads of the audit log"),
	TLSKey:             signing("TLS key", "TLS handshakes, through crypto11"),
	AttestationKey:     signing("attestation key", "the device's first message"),
	ChipMakerKey:       signing("chip maker's key", "delivery lists"),
	CheckpointKey: {
		name: "checkpoint key", class: pkcs11.CKO_PRIVATE_KEY, keyType: ckkEdwards, origins: generated, lasting: true,
		rows: []attribute{
			may(pkcs11.CKA_SIGN, "checkpoints of the registry's log; signed notes are Ed25519"),
			only(guardStays, ckmEdDSA),
			stays(neverLeaves),
			fixed(noSwitchOn),
		},
	},
	PoolWrapKey: aes("pool wrap key", generated,
		may(pkcs11.CKA_WRAP, separateEnds),
		only(guardStays, pkcs11.CKM_AES_KEY_WRAP),
		stays("what waits in the pool is as safe as this key"),
		wraps("its class of keys, and none that could be read", secretClass, sensitive),
		unwraps("what comes back is as closed as what went in", secretClass, sensitive),
	).lasts(),
	PoolUnwrapKey: aes("pool unwrap key", copied,
		may(pkcs11.CKA_UNWRAP, separateEnds),
		only(guardStays, pkcs11.CKM_AES_KEY_WRAP),
		stays("what waits in the pool is as safe as this key"),
		unwraps("what comes back is as closed as what went in", secretClass, sensitive),
	).lasts().copyOf(PoolWrapKey),
	PoolPairWrapKey: aes("pool pair wrap key", generated,
		may(pkcs11.CKA_WRAP, separateEnds),
		only(guardStays, pkcs11.CKM_AES_KEY_WRAP),
		stays("what waits in the pool is as safe as this key"),
		wraps("its class of keys, and none that could be read", privateClass, sensitive),
		unwraps("what comes back is as closed as what went in", privateClass, sensitive),
	).lasts(),
	PoolPairUnwrapKey: aes("pool pair unwrap key", copied,
		may(pkcs11.CKA_UNWRAP, separateEnds),
		only(guardStays, pkcs11.CKM_AES_KEY_WRAP),
		stays("what waits in the pool is as safe as this key"),
		unwraps("what comes back is as closed as what went in", privateClass, sensitive),
	).lasts().copyOf(PoolPairWrapKey),
	PoolSealKey: aes("pool seal key", generated,
		may(pkcs11.CKA_ENCRYPT, "secrets that came from outside, into the pool"),
		may(pkcs11.CKA_DECRYPT, "and out of it, for the device's package"),
		only(guardStays, pkcs11.CKM_AES_GCM),
		stays("what waits in the pool is as safe as this key"),
	).lasts(),
	DeviceSigningKey: pair("device signing key", generated|unwrapped,
		may(pkcs11.CKA_SIGN, "proves that the pair fits together"),
		only(guardStays, pkcs11.CKM_ECDSA),
		travels("it is wrapped to the pool and to the device's token"),
	),
	DeviceAgreementKey: pair("device agreement key", generated|unwrapped,
		may(pkcs11.CKA_DERIVE, "shows that the pair fits together; the device agrees with it"),
		only(guardStays, pkcs11.CKM_ECDH1_DERIVE),
		travels("it is wrapped to the pool and to the device's token"),
	),
	DeviceCipherKey: aes("device cipher key", generated|unwrapped,
		only("nothing uses it before the device has it; a list can't be empty", pkcs11.CKM_AES_GCM),
		travels("it is wrapped to the pool and to the device's token"),
	),
	TransportKey: pair("transport key", generated,
		may(pkcs11.CKA_DERIVE, "an agreement for each key that comes in"),
		only(guardStays, pkcs11.CKM_ECDH1_DERIVE),
		stays("what was wrapped to it anywhere is as safe as this key"),
		fixed(noSwitchOn),
	).lasts(),
	EphemeralKey: pair("ephemeral key", generated,
		may(pkcs11.CKA_DERIVE, "one agreement, then it is destroyed"),
		only(guardStays, pkcs11.CKM_ECDH1_DERIVE),
		stays(neverLeaves),
	),
	AgreedKey: aes("agreed key", agreed,
		may(pkcs11.CKA_DERIVE, "the raw ECDH result is no key yet: the transfer keys are derived from it"),
		only(guardStays, pkcs11.CKM_AES_CBC_ENCRYPT_DATA),
		stays(neverLeaves),
	),
	TransferWrapKey: aes("transfer wrap key", derived,
		may(pkcs11.CKA_WRAP, separateEnds),
		only(guardStays, pkcs11.CKM_AES_KEY_WRAP),
		stays(neverLeaves),
		wraps("a readable key is none of ours", sensitive),
	),
	TransferUnwrapKey: aes("transfer unwrap key", derived,
		may(pkcs11.CKA_UNWRAP, separateEnds),
		only(guardStays, pkcs11.CKM_AES_KEY_WRAP),
		stays(neverLeaves),
		unwraps("a blob can't become a readable key", sensitive),
	),
	TransferSealKey: aes("transfer seal key", derived,
		may(pkcs11.CKA_ENCRYPT, "the SPP's side seals, once"),
		only(guardStays, pkcs11.CKM_AES_GCM),
		stays(neverLeaves),
	),
	TransferOpenKey: aes("transfer open key", derived,
		may(pkcs11.CKA_DECRYPT, "the device's side opens"),
		only(guardStays, pkcs11.CKM_AES_GCM),
		stays(neverLeaves),
	),
	ChipKey: aes("chip key", generated,
		may(pkcs11.CKA_DERIVE, "a wrap and a seal key for each set of claims"),
		only(guardStays, pkcs11.CKM_AES_CBC_ENCRYPT_DATA),
		stays("it is what makes the published backup useless elsewhere"),
		fixed(noSwitchOn),
	).lasts(),
	ChipWrapKey: aes("chip wrap key", derived,
		may(pkcs11.CKA_WRAP, separateEnds),
		only(guardStays, pkcs11.CKM_AES_KEY_WRAP),
		stays(neverLeaves),
		wraps("a readable key is none of ours", sensitive),
	),
	ChipUnwrapKey: aes("chip unwrap key", derived,
		may(pkcs11.CKA_UNWRAP, separateEnds),
		only(guardStays, pkcs11.CKM_AES_KEY_WRAP),
		stays(neverLeaves),
		unwraps("a blob can't become a readable key", sensitive),
	),
	ChipBootUnwrapKey: aes("chip unwrap key at boot", derived,
		may(pkcs11.CKA_UNWRAP, separateEnds),
		only(guardStays, pkcs11.CKM_AES_KEY_WRAP),
		stays(neverLeaves),
		unwraps("what is unwrapped at boot never leaves again", sensitive, unextractable),
	),
	ChipSealKey: aes("chip seal key", derived,
		may(pkcs11.CKA_ENCRYPT, "seals the backup, once for each set of claims"),
		only(guardStays, pkcs11.CKM_AES_GCM),
		stays(neverLeaves),
	),
	ChipOpenKey: aes("chip open key", derived,
		may(pkcs11.CKA_DECRYPT, "opens the backup at boot and restore"),
		only(guardStays, pkcs11.CKM_AES_GCM),
		stays(neverLeaves),
	),
	InboundKey: generic("inbound key", unwrapped,
		may(pkcs11.CKA_SIGN, "its check value, and the confirmation"),
		may(pkcs11.CKA_VERIFY, "what the SPP says to the device"),
		only("HMAC only", pkcs11.CKM_SHA256_HMAC),
		travels("it is wrapped again, under the chip wrap key"),
	),
	InboundCipherKey: aes("inbound cipher key", unwrapped,
		only("nothing uses it before boot; a list can't be empty", pkcs11.CKM_AES_GCM),
		travels("it is wrapped again, under the chip wrap key"),
	),
	InboundSigningKey: pair("inbound signing key", unwrapped,
		may(pkcs11.CKA_SIGN, "shows that it belongs to the manifest's public key"),
		only(guardStays, pkcs11.CKM_ECDSA),
		travels("it is wrapped again, under the chip wrap key"),
	),
	InboundAgreementKey: pair("inbound agreement key", unwrapped,
		may(pkcs11.CKA_DERIVE, "shows that it belongs to the manifest's public key"),
		only(guardStays, pkcs11.CKM_ECDH1_DERIVE),
		travels("it is wrapped again, under the chip wrap key"),
	),
	ResidentKey: generic("resident key", unwrapped|derived,
		may(pkcs11.CKA_SIGN, "the device's MACs"),
		may(pkcs11.CKA_VERIFY, "its peer's MACs, compared inside the token"),
		only("HMAC only", pkcs11.CKM_SHA256_HMAC),
		stays(neverLeaves),
	),
	ResidentCipherKey: aes("resident cipher key", unwrapped,
		may(pkcs11.CKA_ENCRYPT, "what the device protects with it"),
		may(pkcs11.CKA_DECRYPT, "and reads again"),
		only(guardStays, pkcs11.CKM_AES_GCM),
		stays(neverLeaves),
	),
	ResidentSigningKey: pair("resident signing key", unwrapped,
		may(pkcs11.CKA_SIGN, "the device's signatures"),
		only(guardStays, pkcs11.CKM_ECDSA),
		stays(neverLeaves),
	),
	ResidentAgreementKey: pair("resident agreement key", unwrapped,
		may(pkcs11.CKA_DERIVE, "the messages that the device is sent"),
		only(guardStays, pkcs11.CKM_ECDH1_DERIVE),
		stays(neverLeaves),
	),
	CheckKey: generic("check key", unwrapped,
		may(pkcs11.CKA_SIGN, "the check value of a key of AES type, which can't HMAC itself"),
		only("HMAC only", pkcs11.CKM_SHA256_HMAC),
		stays("it is destroyed as soon as it has served"),
	),
}

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

// String is the kind's name in messages and documents.
func (k Kind) String() string {
	if t, ok := templates[k]; ok {
		return t.name
	}
	return fmt.Sprintf("key of unknown kind %d", int(k))
}

// Kinds lists all kinds in the order of their declaration.
func Kinds() []Kind {
	all := make([]Kind, 0, int(kindEnd)-1)
	for k := MasterKey; k < kindEnd; k++ {
		all = append(all, k)
	}
	return all
}

// AttributeReason is a line of a kind's template as documents show it.
type AttributeReason struct {
	Attribute string // CKA_ name
	Value     string
	Reason    string
}

// Table is the kind's template with the reason for each attribute, its own rows first.
func (k Kind) Table() []AttributeReason {
	t, ok := templates[k]
	if !ok {
		return nil
	}
	var table []AttributeReason
	for _, a := range append(append([]attribute{}, t.rows...), t.common()...) {
		table = append(table, AttributeReason{a.name(), a.text(), a.reason})
	}
	return table
}
