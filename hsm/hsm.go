// Package hsm is the one place that speaks PKCS#11. Keys stay inside the token: a
// caller holds a [Key], which is a handle, and asks for what the key may do.
//
// # One module, two libraries
//
// A process has one PKCS#11 module, and two libraries want it: crypto11, which gives
// [crypto.Signer] for TLS and X.509, and miekg/pkcs11, which derives, wraps and agrees.
// After a raw C_Initialize crypto11 refuses to start, and crypto11's Close finalises
// the module for both. So [Load] owns the order: it resolves the token's label to its
// serial, lets crypto11 open first, attaches beside it, and [Module.Close] closes in
// reverse. Nothing else in the process may initialise the module.
//
// # Login once, kept
//
// Cryptoki logs a process in, not a session, and SoftHSM rewrites the token's file at
// every C_Login, not atomically. So a token is logged in to once per process, under a
// file lock shared with other processes, and a session held open keeps the login. A
// module accepts any PIN while somebody else in the process is logged in; therefore a
// salted digest of the PIN that worked is kept in memory and a wrong PIN is refused
// here. A refused PIN is never tried again.
//
// # Sessions
//
// A token has a bounded pool of sessions, and waiting for one is bounded in time. The
// sessions stay open for the token's life, since a session object dies with the session
// that made it (though every session of the token sees it). A session that a failed
// call has left with an operation open is closed and replaced; the keys that were born
// in it then report [ErrKeyGone], and the caller derives them again. A pool is there
// for isolation: SoftHSM gains nothing from threads.
//
// # What a key may do
//
// spec.go has one table: each [Kind] of key with its attributes and a reason beside
// each. CKA_ALLOWED_MECHANISMS stands on every key, because it is the guard that
// neither C_CopyObject nor C_SetAttributeValue can lift. The attributes of keys that
// last are read back and compared, at [Token.Generate] and at every [Token.Find].
//
// What SoftHSM lacks is CKA_DERIVE_TEMPLATE: whoever holds the PIN can derive a
// readable child of a derive key. [Token.Probe] tells which protections a token has.
//
// # Errors
//
// [Classify] tells what to do after an error: the sentinels are few and listed beside
// it. CKR_GENERAL_ERROR is what SoftHSM answers to a tampered blob and also to a broken
// token; where data from outside was involved it counts as the data's fault
// ([ErrData]), unless a test with a key known to be good says that the token is broken.
package hsm
