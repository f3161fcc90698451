// Package fault breaks things from outside: what the network, a power switch or a
// clumsy hand could do to the parts of a factory, done on purpose, at a chosen
// moment, and repeatably.
//
//	Proxy   stands between two parts and cuts, delays, holds, refuses, or loses
//	        one message and not the others
//	Plan    a list of faults over time, drawn from a seed: the same seed, the same plan
//
// Nothing here knows what it breaks. A Proxy forwards bytes, so it serves TLS and
// Postgres alike; a Plan names targets and kinds, and whoever carries it out knows what
// they mean.
//
// # Bursts
//
// A protocol of requests and answers looks, to who sees only bytes, like this: some go
// one way, then some the other. Bytes one way until the direction turns are a burst.
// [Proxy.Lose] strikes at a burst, in two ways that matter to whoever must
// do everything exactly once:
//
//	the burst never arrives             the effect is lost
//	it arrives, its answer never does   the effect is kept, and the sender doesn't know
//
// Where requests are sent one upon another, as in HTTP/2 with several in flight, a burst
// may hold several, or a part of one; that is a fault as good as any other.
//
// It is for tests and for the torture program. No service imports it.
package fault
