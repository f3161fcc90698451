package chip

import "github.com/devicekeys/devicekeys/detcbor"

// Path gives the chip's file.
func (c *Software) Path() string { return c.path }

// ParseSoftwareState reads a state and writes it again.
func ParseSoftwareState(b []byte) ([]byte, error) {
	s, err := parseSoftwareState(b)
	if err != nil {
		return nil, err
	}
	return detcbor.Must(s), nil
}

// Key wrap and KDF 1, for their vectors.
var (
	WrapKey   = wrapKey
	UnwrapKey = unwrapKey
	Derive    = derive
)
