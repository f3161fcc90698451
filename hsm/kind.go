package hsm

import "fmt"

// Kind is a kind of key: what it is for, and so what it may do. The table [templates]
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
