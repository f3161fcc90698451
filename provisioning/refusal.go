package provisioning

import (
	"fmt"
	"time"
)

// Code names why a call was refused. Codes are stable: programs compare them,
// metrics count them.
type Code string

// The codes, by what they ask of the caller.
const (
	// The request itself is wrong; the same one is refused again.
	CodeMalformed    Code = "malformed"      // bytes that are no hello, backup, record id, …
	CodeChipIDLength Code = "chip-id-length" // not the product line's
	CodeBackupCode   Code = "backup-code"    // does not begin with the backup code
	CodeManifest     Code = "manifest"       // the backup holds another manifest

	// The station or the chip may not.
	CodeStation      Code = "station"         // no certificate that grants anything here
	CodeExpired      Code = "station-expired" // the station's certificate is past its end
	CodeRevoked      Code = "station-revoked" // an operator revoked it
	CodeLine         Code = "line"            // the SPP does not serve this product line
	CodeTACRange     Code = "tac-range"       // the pool has identities, none in the station's range
	CodeUnlistedChip Code = "unlisted-chip"   // no delivery list names the chip
	CodeAttestation  Code = "attestation"     // not signed by the chip's attestation key
	CodeUnattested   Code = "unattested"      // the line takes attested chips only, or this chip is listed
	CodeContested    Code = "contested"       // two delivery lists claim the chip
	CodeMAC          Code = "mac"             // not made with the device's key

	// The device or its chip is not in the state for this call.
	CodeOtherRealm   Code = "other-realm"
	CodeROMKey       Code = "rom-key"
	CodeUnknown      Code = "unknown-device"
	CodeState        Code = "state"         // the call is not due
	CodeActive       Code = "active"        // the chip has its identity; only a next generation replaces it
	CodeOutOfUse     Code = "out-of-use"    // scrapped or quarantined
	CodeTransferLost Code = "transfer-lost" // an unattested chip's only transfer
	CodeChallenge    Code = "challenge"     // not one of ours, or too old
	CodeSetAside     Code = "set-aside"     // the sequencer refused the entry
	CodeProfile      Code = "profile"       // the product line's profile, or a file that it names
	CodePoolKey      Code = "pool-key"      // a key that waited in the pool is another's, or was changed
	CodeConflict     Code = "conflict"      // the call was made before, with other content

	// Something ran out.
	CodePoolEmpty Code = "pool-empty"
	CodeQuota     Code = "quota"

	// Something is away; the same request may succeed later.
	CodeBusy        Code = "busy"        // another call for this device is under way
	CodePublication Code = "publication" // the registry has not acknowledged yet
	CodeDatabase    Code = "database"
	CodeHSM         Code = "hsm"
	CodeStopping    Code = "stopping"
	CodeTimeout     Code = "timeout"
	CodeInternal    Code = "internal"
)

// Refusal is the answer to a call that was not carried out. Its text names
// what is wrong without chip IDs, MACs or secrets: it travels to the station.
// Errors of Assembly's methods are Refusals (errors.As).
type Refusal struct {
	code  Code
	next  string
	retry time.Duration
	text  string
	err   error // the cause, for the log only
}

// Error gives what is wrong.
func (r *Refusal) Error() string { return r.text }

// Unwrap gives the cause. It is not for the station's eyes.
func (r *Refusal) Unwrap() error { return r.err }

// Code gives the reason as a stable word.
func (r *Refusal) Code() Code { return r.code }

// Refused gives the reason's code, as programs' exit codes ask for it.
func (r *Refusal) Refused() string { return string(r.code) }

// Next gives what a person does about it.
func (r *Refusal) Next() string { return r.next }

// Retry gives after what time the same request may succeed; 0 where it won't
// until somebody has done something.
func (r *Refusal) Retry() time.Duration { return r.retry }

func refuse(code Code, next, format string, args ...any) *Refusal {
	return &Refusal{code: code, next: next, text: fmt.Sprintf(format, args...)}
}

// because adds the cause, for the log.
func (r *Refusal) because(err error) *Refusal {
	r.err = err
	return r
}

// after marks the refusal as temporary.
func (r *Refusal) after(d time.Duration) *Refusal {
	r.retry = d
	return r
}
