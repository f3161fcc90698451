// Package maker is the manufacturer's key ring on the SPP's token: which keys there are, how they come into being
// ([Create]), and the few things they may be asked for ([Open], [Keys]).
//
// # What it guards
//
// The token signs, derives and opens whatever the holder of its PIN asks. This package asks for nothing that it has
// not read: each statement type has a function of its own, which parses what is to be signed and compares its realm;
// a device key is derived only under a context that is the one encoding of a checked identity; a secret is sealed
// only to associated data of the pool. So a caller with a mistake, or one that was fooled, gets an error and not a
// signature over foreign bytes. A caller who holds the PIN and goes past this package is not stopped by it
// (docs/threat-model.md).
//
// Every use of master, purpose, identity-signing and CA keys needs an entry in the audit log, committed before the
// act. That is the caller's part, who has the transaction: this package has no database.
//
// # Which keys
//
// Labels begin with the realm's prefix:
//
//	dev-master-1               master key, version 1
//	dev-purpose-channel-1      purpose key "channel", derived from master key 1
//	dev-identity-signing       its public half is the ROM key
//	dev-device-ca, dev-station-ca
//	dev-device-ca-2            the device CA's next version, and so on (CreateDeviceCA)
//	dev-submission, dev-audit
//	dev-pool-wrap-symmetric, dev-pool-wrap-pair, dev-pool-seal
//	dev-pool-unwrap-symmetric, dev-pool-unwrap-pair      copies that unwrap
//	dev-transport              takes keys from outside
//
// Which KDF a master version uses is fixed when it is born and stands beside it: in a data object that can neither
// be changed nor destroyed, and in the mechanisms that the key allows. Open reads both. [Roles] says of each key of
// the product who may use it and what a thief gains.
//
// # Where keys are used
//
// Signing and purpose keys are used where they lie, as token objects. A session copy would be faster (about 1.4
// times for a signature and twice for a derivation in SoftHSM), but these keys have CKA_MODIFIABLE=false, which
// makes every copy fail, and losing that guard for speed is the wrong trade: a copy may switch usages on.
//
// A device key is derived when the device arrives and kept as a session object until it is locked, by whoever runs
// the assembly (package provisioning): one derivation for a device.
package maker

import (
	"fmt"

	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/identity"
)

// Names of the keys behind the realm's prefix.
const (
	nameIdentitySigning = "identity-signing"
	nameDeviceCA        = "device-ca"
	nameStationCA       = "station-ca"
	nameSubmission      = "submission"
	nameAudit           = "audit"
	namePoolWrap        = "pool-wrap-symmetric"
	namePoolPairWrap    = "pool-wrap-pair"
	namePoolSeal        = "pool-seal"
	namePoolUnwrap      = "pool-unwrap-symmetric"
	namePoolPairUnwrap  = "pool-unwrap-pair"
	nameTransport       = "transport"
)

// fixed are the keys that every SPP token has once, in the order in which Create makes them. One with a from is a
// copy of that one, with the other usage.
var fixed = []struct {
	name string
	kind hsm.Kind
	from string
}{
	{name: nameIdentitySigning, kind: hsm.IdentitySigningKey},
	{name: nameDeviceCA, kind: hsm.CAKey},
	{name: nameStationCA, kind: hsm.CAKey},
	{name: nameSubmission, kind: hsm.SubmissionKey},
	{name: nameAudit, kind: hsm.AuditKey},
	{name: namePoolWrap, kind: hsm.PoolWrapKey},
	{name: namePoolUnwrap, kind: hsm.PoolUnwrapKey, from: namePoolWrap},
	{name: namePoolPairWrap, kind: hsm.PoolPairWrapKey},
	{name: namePoolPairUnwrap, kind: hsm.PoolPairUnwrapKey, from: namePoolPairWrap},
	{name: namePoolSeal, kind: hsm.PoolSealKey},
	{name: nameTransport, kind: hsm.TransportKey},
}

func fixedSpecs(realm identity.Realm) []hsm.Spec {
	var all []hsm.Spec
	for _, f := range fixed {
		all = append(all, hsm.Spec{Kind: f.kind, Label: realm.Prefix() + f.name, Token: true})
	}
	return all
}

// MasterLabel gives the label of a master key: "dev-master-1".
func MasterLabel(realm identity.Realm, version uint32) string {
	return fmt.Sprintf("%smaster-%d", realm.Prefix(), version)
}

// PurposeLabel gives the label of a purpose key: "dev-purpose-channel-1".
func PurposeLabel(realm identity.Realm, purpose string, version uint32) string {
	return fmt.Sprintf("%spurpose-%s-%d", realm.Prefix(), purpose, version)
}

// StationCALabel gives the label of the key that signs certificates of stations and programs.
func StationCALabel(realm identity.Realm) string { return realm.Prefix() + nameStationCA }

// IdentitySigningLabel gives the label of the key whose public half is the ROM key, as audit events name it.
func IdentitySigningLabel(realm identity.Realm) string { return realm.Prefix() + nameIdentitySigning }
