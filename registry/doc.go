// Package registry is the permanent public database of Devicekeys: what an
// entry is, how its record is sealed, and how entries are read over HTTP.
//
//	entry        [1, realm, type, record id, generation, sealed, statement]
//	leaf         [1, realm, type, record id, generation, SHA-256(sealed)]
//	record       [1, identity certificate, backup data package, [X.509 certificates]]
//	submission   [1, realm, submitter, [entry…]], signed by the SPP's submission key
//
// The registry is public and tells nothing: a record is sealed under a key
// that only the chip ID gives, and filed under the record id, a hash of the
// chip ID. Who mirrors the whole registry learns how many devices there are.
// Who holds a device can find, open and check its record, alone.
//
// Nothing in the registry is believed. A record is good because the identity
// certificate in it was signed by the key in the device's ROM and names this
// chip, realm and generation; scrap and erase entries count only with a
// statement by that same key. What a dishonest registry can do is withhold.
//
// The package is made of values (Entry, Record, Submission), a Client, and a
// Handler that serves entries from a Source. It is free of cgo, as the whole
// reading side is: an owner needs neither an HSM nor a module. Entries get in
// only through the sequencer (package sequencer); they are stored by package
// store, which alone knows SQL.
package registry
