// Package channel is the secure channel between a device and its maker: what a
// device's communication key or key pair is for. It survives the loss of the
// device's flash, since keys come back with the backup, and whoever holds the
// device in between can't turn it to another peer.
//
// The device says who it is ([Hello]); the service gets the device's key, lets it
// in or not, and both have a [Conn]: messages in order, whole, secret, and with an
// end that can be told from a cut. Three suites:
//
//   - [SuiteNoise]: Noise_NNpsk2_25519_AESGCM_SHA256 (Noise revision 34). The
//     pre-shared key is an HMAC under the device's key over hello and both ephemeral
//     keys, so the key itself stays in HSM and device token, each handshake has a
//     pre-shared key of its own, and what was recorded stays secret when the device's
//     key gets out later.
//   - [SuiteTLS]: TLS 1.3 with the service's certificate, and an HMAC under the
//     device's key over TLS's exporter (RFC 5705, RFC 8446 §7.5), both ways: for sites
//     that may not use Noise. The device needs the service's CA.
//   - [SuiteCertificate]: mutual TLS 1.3; the device's key pair is in its token, its
//     certificate of the device CA.
//
// # Who learns what
//
// The hello of SuiteNoise travels in clear: who listens learns the identity. In the
// TLS suites it travels inside. Whatever the reason for which a device is not let in,
// it sees the same: of SuiteNoise a second message that doesn't open, made with a
// random pre-shared key, of the others a connection that ends. Only a service that
// has no time, which it knows before it knows the device, says so ([BusyError]).
//
// Bytes on the wire: docs/formats.md. The package needs no HSM; a device's key is
// the function [MAC] on the one side and the interface [Peer] on the other.
package channel
