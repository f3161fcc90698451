// Package outage has tests only: package hsm, and hsm/maker above it, on a token that
// fails. The module is SoftHSM's behind the shim of package softhsm. They stand apart
// from the tests of hsm because a process has one module, and here it is made to fail for
// everybody in the process: nothing runs in parallel.
package outage
