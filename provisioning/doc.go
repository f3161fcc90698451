// Package provisioning is the secure processing point's (SPP's) work: it takes
// one device from chip to shipped (the patent's steps 2 to 9).
//
//	Begin     hello in, data package out: an identity is reserved, keys are derived, claims signed
//	Confirm   the device's backup in, a challenge out
//	Restored  the proof that the device came back from that backup, after its flash was erased
//	Publish   the entry stands in the registry; out goes the message that locks the device
//	Locked    the device is locked: it ships
//
// [Assembly] is the domain: it knows devices, grants and refusals, and nothing
// of RPC. [NewHandler] is a thin layer around it, for stations over mutual TLS.
// What Assembly needs stands beside it as interfaces, each with its promise:
// [Keys] (the HSM), [Pool], [Records], [Sequencer], [AuditLog].
//
// # Written before it is done
//
// Each step is committed before its effect leaves the SPP, so a crash anywhere
// leaves a row that says how to go on, and the station's repetition goes on
// from there. The same request gets the same answer; a different one is a
// conflict, never a second effect.
//
//	pool: identity reserved   a crash here: the next Begin of this chip gets the same identity
//	records: reserved         with drawn secrets, sealed, issue time and the audit entry: licensed
//	records: claims           the same claims are signed from now on
//	records: packaged         then the package is sent
//	records: confirmed        with backup and challenge, then the challenge is sent
//	records: restored         with proof and registry entry: now it waits in the outbox
//	registry: durable         the sequencer's word
//	records: published        then the pool forgets the identity and its key material
//	records: shipped
//
// The SPP may be several processes on the same databases: what a row says
// decides, and who finds that another was faster reads it again.
//
// # When something is not as it should be
//
// A request that differs from one that was answered, or that another device's
// bytes came with, is refused and kept as an incident with what was expected and
// what came. A record is set apart by the SPP alone only where two holders of one
// key are proven, and never a device in the field. A station that is over its
// quota, expired or revoked is told so with every call.
//
// What is away is no reason to forget: entries wait in the outbox until the
// registry takes them; the HSM is left alone while it fails (breaker, guard), and
// stations are told when to ask again. What nobody went on with for a
// reservation's life is burned, never returned, and only while the clocks of all
// three machines agree.
//
// A stop begins no device and serves those in flight to their end, for a
// bounded time; a kill at any moment loses nothing.
//
// # No entry, no act
//
// Deriving a device's keys and signing its claims is licensed by an entry of
// the audit log that was committed before: in the transaction that reserves the
// device, and, when keys are needed again later, by one of its own. In the good
// case keys are derived once: their handles wait in a bounded cache from Begin
// to Locked.
//
// # What a thief gains
//
// Whoever has a station's certificate can begin listed chips within its grant,
// which shows in records and quota, and learns no key: packages open inside
// chips only. Whoever controls the SPP's process has its HSM session while it
// lasts: the audit log and the HSM's own log tell what was done with it.
package provisioning
