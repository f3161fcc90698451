package station

import (
	"errors"
	"fmt"
	"time"
)

// Step is one step of assembly as the station sees it.
type Step string

// The steps, in their order.
const (
	StepLoad    Step = "load"    // software modules and ROM key into the device
	StepBegin   Step = "begin"   // hello to the SPP, data package back
	StepAccept  Step = "accept"  // the device verifies, encrypts, writes flash
	StepConfirm Step = "confirm" // backup to the SPP
	StepRestore Step = "restore" // flash erased, restored from the backup, booted, proof to the SPP
	StepPublish Step = "publish" // record and registry entry
	StepLock    Step = "lock"    // floor raised, device locked, shipped
)

// Steps lists the steps in their order.
func Steps() []Step {
	return []Step{StepLoad, StepBegin, StepAccept, StepConfirm, StepRestore, StepPublish, StepLock}
}

// Patent gives the numbers of the step in the patent's figure 1; the restore
// before shipment is this product's own.
func (s Step) Patent() string {
	switch s {
	case StepLoad:
		return "1–2"
	case StepBegin:
		return "3–4"
	case StepAccept:
		return "5"
	case StepConfirm:
		return "6"
	case StepRestore:
		return "figure 2"
	case StepPublish:
		return "7–8"
	case StepLock:
		return "9"
	}
	return ""
}

// StepError says at which step a device stopped.
type StepError struct {
	Device string // the fixture's name of it
	Step   Step
	Err    error
}

// Error names device, step and cause.
func (e *StepError) Error() string { return fmt.Sprintf("device %s: %s: %v", e.Device, e.Step, e.Err) }

// Unwrap gives the cause.
func (e *StepError) Unwrap() error { return e.Err }

// Outcome is what became of one device.
type Outcome struct {
	Device     string                 `json:"device"`
	Record     string                 `json:"record,omitempty"` // record id, once the device was switched on
	Generation uint32                 `json:"generation,omitempty"`
	Sequence   int64                  `json:"sequence"` // place of its entry in the registry; -1 where this run did not publish it
	Shipped    bool                   `json:"shipped"`
	Parked     bool                   `json:"parked,omitempty"`  // it waits for the registry; another run goes on
	Resumed    bool                   `json:"resumed,omitempty"` // taken up where an earlier run stopped
	Error      string                 `json:"error,omitempty"`
	Code       string                 `json:"code,omitempty"`  // stable code of a refusal, the SPP's or the device's
	Next       string                 `json:"next,omitempty"`  // what to do about the error
	Notes      []string               `json:"notes,omitempty"` // what was not as it should be and was overcome
	Took       map[Step]time.Duration `json:"took_ns"`         // time of each step done
	Err        error                  `json:"-"`
}

// fail puts an error into the outcome, in its own words.
func (o *Outcome) fail(err error) {
	o.Err, o.Error = err, err.Error()
	var refused interface{ Refused() string }
	if errors.As(err, &refused) {
		o.Code = refused.Refused()
	}
	var next interface{ Next() string }
	if errors.As(err, &next) {
		o.Next = next.Next()
	}
}
