package main

import (
	"fmt"

	"github.com/devicekeys/devicekeys/channel"
)

// Suite is a suite of the channel, which the configuration names.
type Suite channel.Suite

// MarshalText writes the suite's name.
func (s Suite) MarshalText() ([]byte, error) { return []byte(channel.Suite(s).String()), nil }

// UnmarshalText reads the suite's name.
func (s *Suite) UnmarshalText(b []byte) error {
	for _, known := range []channel.Suite{channel.SuiteNoise, channel.SuiteTLS, channel.SuiteCertificate} {
		if string(b) == known.String() {
			*s = Suite(known)
			return nil
		}
	}
	return fmt.Errorf("suite %q is not known: noise, tls and certificate are", b)
}
