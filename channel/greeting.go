package channel

import (
	"crypto/rand"
	"fmt"
	"time"

	"github.com/devicekeys/devicekeys/detcbor"
)

// sessionSize is that of a session id, in bytes.
const sessionSize = 16

// greeting is what the service tells a device that it lets in.
type greeting struct {
	at      time.Time
	session [sessionSize]byte
}

const greetingVersion = 1

type greetingWire struct {
	_       struct{} `cbor:",toarray"`
	Version uint
	Time    int64 // seconds since 1970
	Session []byte
}

// maxGreeting bounds an encoded greeting, in bytes.
const maxGreeting = 64

func newGreeting(now time.Time) greeting {
	g := greeting{at: time.Unix(now.Unix(), 0).UTC()}
	rand.Read(g.session[:]) // never fails
	return g
}

func (g greeting) encode() []byte {
	return detcbor.Must(greetingWire{Version: greetingVersion, Time: g.at.Unix(), Session: g.session[:]})
}

func parseGreeting(b []byte) (greeting, error) {
	var w greetingWire
	if err := detcbor.Unmarshal(b, &w, maxGreeting); err != nil {
		return greeting{}, fmt.Errorf("%w: %w", ErrForm, err)
	}
	if w.Version != greetingVersion || len(w.Session) != sessionSize || w.Time < 0 {
		return greeting{}, fmt.Errorf("%w: a greeting of version %d with a session id of %d bytes", ErrForm, w.Version, len(w.Session))
	}
	return greeting{at: time.Unix(w.Time, 0).UTC(), session: [sessionSize]byte(w.Session)}, nil
}
