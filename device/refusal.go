package device

import "fmt"

// Reason is why a device declines, as a code that never changes.
type Reason string

// The reasons.
const (
	ReasonNotThisChip     Reason = "not-this-chip"    // made for another chip
	ReasonOtherRealm      Reason = "other-realm"      // made in another realm
	ReasonCertificate     Reason = "certificate"      // not signed by the ROM key's owner, or changed since
	ReasonManifest        Reason = "manifest"         // not the one the certificate vouches for
	ReasonIdentity        Reason = "identity"         // the manifest names another identity than the certificate
	ReasonPackage         Reason = "package"          // the data package is malformed
	ReasonBackupCode      Reason = "backup-code"      // does not begin with the backup code
	ReasonBackup          Reason = "backup"           // malformed, or does not open under the chip's key
	ReasonEntry           Reason = "entry"            // a key or secret is not what the manifest vouches for
	ReasonAlgorithm       Reason = "algorithm"        // the chip cannot hold such a key, or none can prove anything
	ReasonPoint           Reason = "point"            // the SPP's point is the device's own
	ReasonNoHello         Reason = "no-hello"         // answers no hello of this device, or one used up
	ReasonOlderGeneration Reason = "older-generation" // below the floor in the chip
	ReasonLocked          Reason = "locked"           // shipped, and no unlock statement came along
	ReasonUnlock          Reason = "unlock"           // the unlock statement is not for this
	ReasonROMKey          Reason = "rom-key"          // none in ROM, or another one
	ReasonModule          Reason = "module"           // a software module is not what its hash says
	ReasonNoFlash         Reason = "no-flash"         // flash is empty
	ReasonTornFlash       Reason = "torn-flash"       // flash holds nothing whole
	ReasonNotBooted       Reason = "not-booted"       // nothing runs that could answer
	ReasonPublished       Reason = "published"        // the SPP's message does not verify
	ReasonProduction      Reason = "production"       // the chip is for development
)

var next = map[Reason]string{
	ReasonNotThisChip:     "take the package or record of this device: it is filed under the device's own record id",
	ReasonOtherRealm:      "use what was made in this chip's realm; nothing passes from one realm to the other",
	ReasonCertificate:     "fetch the record again, or from another mirror; if it stays so, it is not from this device's manufacturer",
	ReasonManifest:        "fetch the record again, or from another mirror; the manufacturer's certificate vouches for another manifest",
	ReasonIdentity:        "fetch the record again; an identity that was changed by hand is never accepted",
	ReasonPackage:         "have the station ask the SPP for the package again",
	ReasonBackupCode:      "give it a backup data package; this is something else, or its first bytes were changed",
	ReasonBackup:          "fetch the record again, or from another mirror",
	ReasonEntry:           "have the station begin again with a new hello; if it stays so, stop the line and tell the key custodians",
	ReasonAlgorithm:       "compare the product line's profile with what its chips can do",
	ReasonPoint:           "have the station begin again with a new hello; somebody sent the device's own point back",
	ReasonNoHello:         "have the station begin again with a new hello",
	ReasonOlderGeneration: "take the newest record of this device from the registry",
	ReasonLocked:          "ask the manufacturer for an unlock statement for this record and its next generation",
	ReasonUnlock:          "ask the manufacturer for an unlock statement for this record and the package's generation",
	ReasonROMKey:          "on the line, write the manufacturer's key into the ROM first; a device with another maker's key belongs elsewhere",
	ReasonModule:          "copy the module again and compare it with the SPP's list",
	ReasonNoFlash:         "restore the device from its record in the registry (device restore)",
	ReasonTornFlash:       "restore the device from its record in the registry (device restore); on the line, begin again",
	ReasonNotBooted:       "boot the device first",
	ReasonPublished:       "have the station ask the SPP to publish again",
	ReasonProduction:      "use a chip made for production",
}

// Refusal is a device's no. Flash and chip are as they were.
type Refusal struct {
	Reason Reason
	Detail string // for people, one sentence without its full stop
	Err    error  // what was found; may be nil
}

func refuse(r Reason, err error, detail string, args ...any) *Refusal {
	return &Refusal{Reason: r, Detail: fmt.Sprintf(detail, args...), Err: err}
}

// Error tells code, detail and cause.
func (r *Refusal) Error() string {
	if r.Err == nil {
		return fmt.Sprintf("the device refuses (%s): %s", r.Reason, r.Detail)
	}
	return fmt.Sprintf("the device refuses (%s): %s: %v", r.Reason, r.Detail, r.Err)
}

// Unwrap gives what was found.
func (r *Refusal) Unwrap() error { return r.Err }

// Refused gives the reason's code.
func (r *Refusal) Refused() string { return string(r.Reason) }

// Next gives the next step.
func (r *Refusal) Next() string { return next[r.Reason] }

// Reasons lists every reason, in the order of this file: for documentation.
func Reasons() []Reason {
	return []Reason{
		ReasonNotThisChip, ReasonOtherRealm, ReasonCertificate, ReasonManifest, ReasonIdentity, ReasonPackage,
		ReasonBackupCode, ReasonBackup, ReasonEntry, ReasonAlgorithm, ReasonPoint, ReasonNoHello,
		ReasonOlderGeneration, ReasonLocked, ReasonUnlock, ReasonROMKey, ReasonModule, ReasonNoFlash,
		ReasonTornFlash, ReasonNotBooted, ReasonPublished, ReasonProduction,
	}
}
