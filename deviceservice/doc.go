// Package deviceservice is the maker's server that devices in the field speak with: the patent's 190. A device opens a
// secure channel (package channel) with the key that it got in the factory, and asks for services over it.
//
// # Who is let in
//
// A device says who it is (channel.Hello): in suite 1 in clear, else inside TLS, which costs the service a signature
// first. Before anything else is spent on it, in this order:
//
//  1. the source has a place among the connections that have proven nothing (gate), and has not come too often; nor has
//     the identity, or in suite 3 the certificate, once its chain leads to the device CA (the channel's limiter);
//  2. realm, key and way are ones that this service knows;
//  3. the identity was issued, is in the field, and the generation is the current one (package issued): a device that is
//     on the line, quarantined, scrapped or burned, or whose generation was superseded, is refused;
//  4. only then is the HSM used.
//
// The channel's handshake is then the proof that the device holds the key. Whether it is still to be let in is asked again
// before each request, so that a channel that is open for days outlives a quarantine by no more than the cache's age.
//
// # The key, in three ways
//
//   - Derived: from the purpose key in the service's own HSM, under identity, generation and record id as the records
//     have them. The context is built here; what the device says only has to agree with it.
//   - Fetched: a key that was made or imported, and so can't be derived, waits in the records, wrapped to the transport
//     key of the service's HSM.
//   - Certificate: no secret at all. The device shows its X.509 certificate in mutual TLS 1.3; the registry must list it
//     for this record, and the records must have it for this device: nobody signs the registry's list.
//
// Which of them a product line may use is configured. A key lives in the HSM for one handshake: derive, MAC, destroy.
//
// # All refusals alike
//
// A peer that is refused learns nothing of the reason. The channel answers it as it would answer a device, with a key
// that nobody has, and refusal and admission wait until both took the same time (pace), at one place: after the key was
// used, destroyed, and its turn given back, right before the answer. Each suite and way has a pace of its own, so what one
// costs doesn't show in another. The reasons stand in metrics, by their names, and in the log, with the record's short id
// or none; the identity that a peer claims in neither.
//
// # What is spent
//
// One handshake is one key: four PKCS#11 calls (a test counts them). KeysAtOnce bounds how many stand in the
// HSM, from before a key comes there until it is destroyed, and who waits longer than keyWait for a turn is refused; the
// database is asked before. Half as many signatures of TLS come beside them, which wait signWait. MaxHandshakes and
// MaxPerSource bound connections that have proven nothing, MaxChannels open channels, MaxPerDevice those of one
// device: its oldest one is closed for a new one, since a device that lost its network can't close what it forgot.
//
// A panic ends the connection that it happened on, and no other; it is counted, and logged without what it says.
//
// # Threats
//
// Who takes over this program gets no long-term key, but may derive any device's key in the HSM as long as it holds
// the PIN, and so speak as any device to this service, and as this service to any device. The channel's purpose key is
// not the purpose key of other uses, and neither master nor signing keys are in this HSM.
package deviceservice
