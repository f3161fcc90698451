// Package registryrpc is the protocol between SPP and sequencer, generated from
// sequencer.proto: connect, gRPC and gRPC-Web on one port.
package registryrpc
