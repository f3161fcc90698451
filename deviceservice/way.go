package deviceservice

import (
	"fmt"

	"github.com/devicekeys/devicekeys/channel"
)

// Way is how the service comes by a device's key.
type Way string

// The ways.
const (
	Derived     Way = "derived"     // from the purpose key in the service's HSM
	Fetched     Way = "fetched"     // unwrapped in the service's HSM
	Certificate Way = "certificate" // public, in the registry
)

// MarshalText writes the way's name.
func (w Way) MarshalText() ([]byte, error) { return []byte(w), nil }

// UnmarshalText reads the way's name.
func (w *Way) UnmarshalText(b []byte) error {
	switch v := Way(b); v {
	case Derived, Fetched, Certificate:
		*w = v
		return nil
	}
	return fmt.Errorf("way %q is not known: derived, fetched and certificate are", b)
}

// wayOf tells which way a device asks for: by certificate in its suite, else by whether its key says that it is derived.
func wayOf(h channel.Hello) Way {
	switch {
	case h.Suite == channel.SuiteCertificate:
		return Certificate
	case h.Key.Derived():
		return Derived
	}
	return Fetched
}
