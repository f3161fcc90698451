// Package provisioningrpc is the protocol between station and SPP, generated
// from spp.proto: connect, gRPC and gRPC-Web on one port. The messages carry
// device bytes as they are; what is in them is package keypackage's.
package provisioningrpc
