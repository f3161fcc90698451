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
// module accepts any PIN while somebody else in the process is logged in; therefore the
// PIN that worked is kept in memory and a wrong one is refused here. A refused PIN is
// never tried again.
//
// # A token that is lost
//
// A token goes away: an HSM restarts, a card is pulled, SoftHSM's directory vanishes. A
// call that meets this fails, and sets off a look at the token: the token is asked, not a
// session. If it is well, nothing happens; what data from outside can cause never gets
// that far. If it isn't, it is shut: from then on every call is answered at once by
// [ErrAway], and one goroutine tries to open it again, with growing pauses between its
// tries (recovery.go). Where the token answers, its own sessions and login are made anew.
// Where it doesn't, the whole module is, in the order of the start, unless another token
// of the process is well (reopen.go). A PIN that is refused then is the end: every call
// is answered by [ErrPIN] until the program is restarted.
//
// A [Key] of the token outlives this: it is found again by its full template at its next
// use, all its attributes compared. So does a signer of [Token.Signer], for which crypto11
// is configured anew. Session keys are gone ([ErrKeyGone]).
//
// To a login that was lost, and to a directory that vanished, private objects look as if
// there had never been any. So the package believes that nothing was found only of a token
// that answers and a session that is logged in.
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
// templates.go has one table: each [Kind] of key with its attributes and a reason beside
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
