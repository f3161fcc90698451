// Package devicekeys is the overview of a house: this folder holds no code, only the tests of the whole.
//
// A maker of connected devices gives each one its keys in the factory. Here nobody keeps a copy of them. The device
// itself encrypts what it was given, with a key that never leaves its chip, and that ciphertext is published; whoever
// holds the device can restore it from the public registry, alone, years later. The maker keeps a handful of keys in
// an HSM, from which every symmetric device key can be derived again.
//
// # Values, without I/O
//
//   - identity: IMEI and other identities, chip ID, record id, identity certificate
//   - keypackage: manifest, data package, backup data package
//   - statement: what is signed, by whom, for what; detcbor: the encoding of all of it
//
// # Keys
//
//   - hsm: PKCS#11, the only package that speaks it; keys that stay inside
//   - softhsm: SoftHSM tokens for tests, demos and CI
//   - secret: PINs and passwords that can't be logged by mistake
//
// # The line
//
//   - device: the personal device; device/chip, device/flash
//   - station: the line's side of the conversation
//   - provisioning: the work of the secure processing point; its identity pool, its records
//   - audit: the log of every use of a key that matters, and the checker of the invariants
//
// # The public side
//
//   - registry: entries, client, HTTP; registry/store; registry/sequencer, its only writer
//
// # Around them
//
//   - database: how Postgres is opened and migrated
//   - untested: how a test says what it could not do
//   - cmd: one folder per program; programs parse and wire, nothing imports them
//   - deploy: units, monitoring, the private Postgres of demo and tests
//
// Which may import which is a test: architecture_test.go.
package devicekeys
