package channel

import (
	"fmt"
	"time"
)

// Limits of a channel. Zero values stand for the defaults.
type Limits struct {
	// Handshake bounds the time from the connection to the open channel.
	Handshake time.Duration
	// Idle bounds the wait for the next message to begin, and Frame that for each further
	// frame of one that has begun, for the rest of a frame, and for a peer that doesn't
	// take what is sent.
	Idle, Frame time.Duration
	// Message bounds a message, in bytes.
	Message int
	// Rekey is after how many frames in one direction its key is replaced by one that
	// tells nothing of it (SuiteNoise; TLS looks after its own). Both sides must have the
	// same: the formats say DefaultRekey, and only tests have another.
	Rekey uint64
}

// The defaults.
const (
	DefaultHandshake = 10 * time.Second
	DefaultIdle      = 2 * time.Minute
	DefaultFrame     = 20 * time.Second
	DefaultMessage   = 1 << 20
	DefaultRekey     = 1 << 30
)

// MaxMessage is the most that Limits.Message may be.
const MaxMessage = 16 << 20

func (l Limits) withDefaults() (Limits, error) {
	for _, d := range []struct {
		value    *time.Duration
		standard time.Duration
	}{{&l.Handshake, DefaultHandshake}, {&l.Idle, DefaultIdle}, {&l.Frame, DefaultFrame}} {
		if *d.value == 0 {
			*d.value = d.standard
		}
	}
	if l.Message == 0 {
		l.Message = DefaultMessage
	}
	if l.Rekey == 0 {
		l.Rekey = DefaultRekey
	}
	if l.Handshake < 0 || l.Idle < 0 || l.Frame < 0 || l.Message < 1 || l.Message > MaxMessage {
		return l, fmt.Errorf("limits: times are above 0, and messages of 1 to %d bytes", MaxMessage)
	}
	return l, nil
}
