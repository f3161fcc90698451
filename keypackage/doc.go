// Package keypackage holds what the SPP sends a device and what the device
// publishes: the manifest that says in clear what a device has, the data
// package that brings it, and the backup data package in which the device
// encrypted it for itself.
//
//	hello (M1)      device → SPP   chip ID, ROM key, fresh point e_D, attested
//	data package    SPP → device   certificate, manifest, keys wrapped under the transfer's KEK
//	backup          device → all   backup code, manifest, keys wrapped under the chip's own key
//
// Everything here is a value: bytes, their one encoding, the messages that are
// authenticated and the contexts that keys are derived under. Keys stay in
// tokens; this package never sees one that is not wrapped. docs/formats.md is
// the normative text and its golden vectors are this package's tests.
//
// The order of authority is: ROM key → certificate → (hash) manifest → (check
// value, public key, commitment) each entry. A device takes what an entry is
// from the manifest, never from a blob.
package keypackage
