// Package interop has no code of its own: its tests let programs that nobody here wrote say whether they agree with
// this house.
//
//	openssl      computes both KDFs, check values, the transfer's ECDH and key wrap, and verifies what the token signed
//	pkcs11-tool  lists a token of each kind, SPP's to chip's, and tries to get a key out of it, with the PIN in its hand
//	psql         tries as each role what the role may not do
//	grpc-go      and curl speak to the port of a real SPP, as a station, as a stranger and with nonsense
//
// What they are given is what docs/formats.md says and never the house's own result, so that two things have to be
// right for a test to pass. Each attempt that must fail has a control beside it that must succeed: a key that may
// leave, a statement that the role may run, a call that is answered.
//
// Known master keys are brought into the token by the custodian's program of a test build (tag devicekeys_import);
// what then derives from them is the ordinary build.
//
// A program that isn't installed is a test that is skipped, with the Debian package's name, and that fails where
// CI=true. The gRPC client is built from a folder below testdata against versions of its own
// (testdata/grpc.mod), like the tools: it chooses no version for the programs.
package interop
