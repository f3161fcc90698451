// Package sequencer is the only way into the registry: a service that takes
// submissions from secure processing points, and the client they use.
//
//	SPP ──mutual TLS──▶ Submit ──▶ queue ──▶ one loop ──▶ one transaction per batch
//	     signed submission   checks          judges against what stands
//
// Two things are checked of a submission: that the TLS certificate is an SPP's
// of this realm, and that the submission key signed what it says. Then each
// entry stands for itself. One that is malformed, contradicts what stands, or
// ends a record without a statement by the identity-signing key is refused,
// and the others go on.
//
// The loop gathers what arrives within a few milliseconds, at most a thousand
// entries, and commits it at once; what arrives meanwhile makes the next
// batch. A hundred entries don't wait for more than is there already. The sooner
// the disk, the smaller the batches, and nobody waits for a timer under load.
//
// An entry is acknowledged when it is durable, with its place in the registry.
// Submitting the same bytes again gets the same answer, so a submitter that
// heard nothing simply repeats. Where the sequencer itself hears nothing, i.e.
// the connection broke during a commit, it reads what became of it before it
// writes anything else (store.Writer.Settle), and acknowledges by what it
// finds. It never guesses.
//
// Of two sequencers at work on one registry, one finds the head moved and
// stops for good: that is a mistake in the deployment that repetition would hide.
// A database that is down is not: submitters are told to come back, and the
// loop goes on when it answers again.
package sequencer
