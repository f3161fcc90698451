package maker

import "github.com/devicekeys/devicekeys/hsm"

// Role says of one kind of key what its attributes can't: where it lives, who may use it, and what somebody gains
// who gets at it. docs/keys.md is made from it and from hsm.Kind.Table.
type Role struct {
	Kind   hsm.Kind
	Where  string // which token, and for how long
	Labels string // behind the realm's prefix; empty for session keys
	Users  string // who may use it, for what
	Thief  string // what one gains who can use it without leave; where it differs, who learns its bytes
	// Audited: each use has an entry in the audit log, committed before the act.
	Audited bool
	// Backup: it must survive its HSM, so in production it is born in a ceremony and never inside for good.
	Backup bool
}

const (
	spp      = "SPP's token, lasting"
	sppWhile = "SPP's token, session object"
	chip     = "chip's token, lasting"
	chipOnce = "chip's token, session object"

	// fetched is what the unwrapping half of a pool wrap key gives away.
	fetched = "with the databases and the pool seal key: the keys waiting there, and their bytes. A key is fetched to be wrapped to its device, so it may leave the token: who holds the PIN can wrap it to a key or point of his own"
)

// Roles gives every kind of key of the product, in the order of hsm.Kinds.
func Roles() []Role {
	return []Role{
		{Kind: hsm.MasterKey, Where: spp, Labels: "master-<version>", Audited: true, Backup: true,
			Users: "the ceremony alone, to derive purpose keys; nothing on the line uses it",
			Thief: "every symmetric key of every device of that version, past and future, for whoever also knows identities and chip IDs. There is no way back but new devices"},
		{Kind: hsm.PurposeKey, Where: spp + "; the channel's one also in the device service's token", Labels: "purpose-<purpose>-<version>", Audited: true,
			Users: "the assembly, to derive a device key under a checked identity; the device service likewise",
			Thief: "every device key of that purpose and version; other purposes stay closed. Who holds the PIN can derive readable ones, since SoftHSM has no CKA_DERIVE_TEMPLATE"},
		{Kind: hsm.PurposeTwin, Where: sppWhile + ", in a ceremony", Audited: true,
			Users: "the custodian, to bring the channel's purpose key to the device service",
			Thief: "every device key of that purpose and version, as with the purpose key itself"},
		{Kind: hsm.DeviceKey, Where: sppWhile + ", while the device is on the line",
			Users: "the assembly: check value, proofs of the line, wrapping to the device",
			Thief: "one device's channel: its MACs can be made and checked"},
		{Kind: hsm.ChannelDeviceKey, Where: "device service's token, session object",
			Users: "the device service, for one device's channel",
			Thief: "one device's channel, while the session lasts"},
		{Kind: hsm.IdentitySigningKey, Where: spp, Labels: nameIdentitySigning, Audited: true, Backup: true,
			Users: "the assembly (identity certificates), an operator (unlock statements), the publisher (scrap and erase statements), each through a function that parses what it signs",
			Thief: "certificates for any chip and identity, unlocked devices, records declared scrapped. No key of a device: symmetric keys can't be derived with it. Its public half is in every ROM, so it can't be replaced in devices already made"},
		{Kind: hsm.CAKey, Where: spp, Labels: nameDeviceCA + ", " + nameDeviceCA + "-<version from 2>, " + nameStationCA, Audited: true, Backup: true,
			Users: "station CA: the custodian, to certify stations and programs. Device CA: the SPP, to certify devices' public keys while they are on the line, made in advance or imported; the custodian, for its own certificate",
			Thief: "station CA: stations with any grant, so identities used up and packages for listed chips, which open in those chips only. Device CA: X.509 certificates for keys that no device has"},
		{Kind: hsm.SubmissionKey, Where: spp, Labels: nameSubmission,
			Users: "the publisher, for batches to the sequencer",
			Thief: "entries in the public registry that no device made; with no certificate in them that verifies, devices and clients refuse them. With a TLS key of the SPP too; the sequencer asks for both"},
		{Kind: hsm.AuditKey, Where: spp, Labels: nameAudit,
			Users: "the SPP, for heads of the audit log",
			Thief: "with write access to the database as well: a rewritten audit log whose heads verify. Heads kept elsewhere show it"},
		{Kind: hsm.TLSKey, Where: "each program's own token, lasting", Labels: "tls-<program>",
			Users: "that program's TLS, through crypto11",
			Thief: "the program's or station's place on the network until its certificate expires: a station's with its grant and quota"},
		{Kind: hsm.AttestationKey, Where: chip, Labels: "attestation-key",
			Users: "the device, for its first message on the line",
			Thief: "this chip's place on the line: the keys meant for it, if that comes before the chip itself"},
		{Kind: hsm.ChipMakerKey, Where: "chip maker's token, lasting", Labels: "chip-maker-key",
			Users: "the chip maker, for delivery lists",
			Thief: "chips of one's own in a delivery: whoever runs a line would build devices whose keys one reads"},
		{Kind: hsm.CheckpointKey, Where: "sequencer's token, lasting", Labels: "checkpoint",
			Users: "the sequencer, for checkpoints of the registry's log",
			Thief: "two versions of the registry for two readers, until somebody compares checkpoints"},
		{Kind: hsm.PoolWrapKey, Where: spp, Labels: namePoolWrap,
			Users: "the SPP, to wrap symmetric keys that wait: made in advance, made on the spot, imported",
			Thief: "nothing by itself: it only wraps, what is in the token and may leave. With its unwrapping half: see there"},
		{Kind: hsm.PoolUnwrapKey, Where: "SPP's token, copy of the pool wrap key", Labels: namePoolUnwrap,
			Users: "the assembly, to fetch symmetric keys that waited, and to wrap communication keys to the device service",
			Thief: fetched},
		{Kind: hsm.PoolPairWrapKey, Where: spp, Labels: namePoolPairWrap,
			Users: "the SPP, to wrap private keys that wait: made in advance, made on the spot, imported",
			Thief: "nothing by itself: it only wraps, what is in the token and may leave. With its unwrapping half: see there"},
		{Kind: hsm.PoolPairUnwrapKey, Where: "SPP's token, copy of the pool pair wrap key", Labels: namePoolPairUnwrap,
			Users: "the assembly, to fetch private keys that waited",
			Thief: fetched},
		{Kind: hsm.PoolSealKey, Where: spp, Labels: namePoolSeal,
			Users: "the SPP, for SIM-lock codes and other secrets of devices under way or that wait in the pool, and for the wrapped keys that wait there or in a device's row",
			Thief: "with the databases: the secrets of devices that are not yet published, and the keys waiting there, still wrapped under the pool wrap keys. What is published was deleted"},
		{Kind: hsm.DeviceSigningKey, Where: sppWhile + ", between birth and wrapping",
			Users: "the assembly, which generates a device's pair and wraps it",
			Thief: "one device's signatures"},
		{Kind: hsm.DeviceAgreementKey, Where: sppWhile + ", between birth and wrapping",
			Users: "the assembly, which generates a device's pair and wraps it",
			Thief: "one device's messages, read"},
		{Kind: hsm.DeviceCipherKey, Where: sppWhile + ", between birth and wrapping",
			Users: "the assembly, which makes a device's key and wraps it",
			Thief: "nothing by itself: it only waits. Its bytes: what one device encrypts under it"},
		{Kind: hsm.TransportKey, Where: spp + "; one in the device service's token", Labels: nameTransport,
			Users: "the SPP, for keys and secrets of devices that come from outside; the device service, for what the ceremony sends it",
			Thief: "with what was sent: those keys, and their bytes. What it agrees on may be derived as a readable secret in a token without CKA_DERIVE_TEMPLATE, SoftHSM among them, and what it unwraps may be told to be extractable"},
		{Kind: hsm.EphemeralKey, Where: "SPP's and chip's tokens, session object, for one agreement",
			Users: "both sides of a transfer, once",
			Thief: "the keys of one transfer, if its messages were recorded"},
		{Kind: hsm.AgreedKey, Where: "SPP's and chip's tokens, session object, until the transfer keys are derived",
			Users: "both sides of a transfer, to derive its keys",
			Thief: "the keys of one transfer"},
		{Kind: hsm.TransferWrapKey, Where: sppWhile + ", for one transfer",
			Users: "the assembly, to wrap one device's keys",
			Thief: "nothing by itself: it only wraps. Its bytes: one device's keys, if the package was recorded"},
		{Kind: hsm.TransferUnwrapKey, Where: chipOnce + ", for one transfer",
			Users: "the device, to take its keys",
			Thief: "this device's keys, as closed token keys"},
		{Kind: hsm.TransferSealKey, Where: sppWhile + ", for one transfer",
			Users: "the assembly, to seal one device's other secrets, once",
			Thief: "nothing by itself: it only seals. Its bytes: one device's other secrets, if the package was recorded"},
		{Kind: hsm.TransferOpenKey, Where: chipOnce + ", for one transfer; SPP's token, session object, for one secret from outside",
			Users: "the device, to open its other secrets; the SPP, to open a secret that is sent to its transport key",
			Thief: "this device's other secrets; on the SPP's token one device's secret, if it was recorded on its way"},
		{Kind: hsm.ChipKey, Where: chip, Labels: "chip-key",
			Users: "the device, to derive a wrap and a seal key for each set of claims",
			Thief: "this device's backups, opened; no other device's"},
		{Kind: hsm.ChipWrapKey, Where: chipOnce + ", while a package is accepted",
			Users: "the device, to wrap its keys into the backup",
			Thief: "nothing by itself: it only wraps"},
		{Kind: hsm.ChipUnwrapKey, Where: chipOnce + ", while a backup is checked",
			Users: "the device, to check its backup before it is written",
			Thief: "this device's keys, as closed token keys that may be wrapped again"},
		{Kind: hsm.ChipBootUnwrapKey, Where: chipOnce + ", at boot",
			Users: "the device, to unwrap its keys at boot",
			Thief: "this device's keys, as token keys that never leave"},
		{Kind: hsm.ChipSealKey, Where: chipOnce + ", while a package is accepted",
			Users: "the device, to seal its backup, once for each set of claims",
			Thief: "nothing by itself: it only seals"},
		{Kind: hsm.ChipOpenKey, Where: chipOnce + ", at boot and restore",
			Users: "the device, to open its backup",
			Thief: "this device's other secrets, with the published record"},
		{Kind: hsm.InboundKey, Where: chipOnce + ", while a package is accepted",
			Users: "the device, to check a key and wrap it for itself",
			Thief: "one device's key, to use and to wrap"},
		{Kind: hsm.InboundCipherKey, Where: chipOnce + ", while a package is accepted",
			Users: "the device, to wrap it for itself; it encrypts nothing here",
			Thief: "one device's key, to wrap"},
		{Kind: hsm.InboundSigningKey, Where: chipOnce + ", while a package is accepted",
			Users: "the device, to check a private key and wrap it for itself",
			Thief: "one device's signatures"},
		{Kind: hsm.InboundAgreementKey, Where: chipOnce + ", while a package is accepted",
			Users: "the device, to check a private key and wrap it for itself",
			Thief: "one device's messages, read"},
		{Kind: hsm.ResidentKey, Where: chipOnce + ", from boot on",
			Users: "the device's software",
			Thief: "this device's MACs, while one controls it; never the bytes"},
		{Kind: hsm.ResidentCipherKey, Where: chipOnce + ", from boot on",
			Users: "the device's software",
			Thief: "what this key protects, while one controls the device; never the bytes"},
		{Kind: hsm.ResidentSigningKey, Where: chipOnce + ", from boot on",
			Users: "the device's software",
			Thief: "this device's signatures, while one controls it; never the bytes"},
		{Kind: hsm.ResidentAgreementKey, Where: chipOnce + ", from boot on",
			Users: "the device's software, for messages; each one's shared secret leaves the token, the key never",
			Thief: "this device's messages, while one controls it; never the bytes"},
		{Kind: hsm.CheckKey, Where: "SPP's and chip's tokens, session object, for one check value",
			Users: "the assembly, to make the check value of a symmetric key that waited; the device, to check a key of AES type",
			Thief: "MACs under a key that is used for no MACs"},
	}
}
