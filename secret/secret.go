// Package secret carries PINs and passwords through a program without letting
// them show.
//
// A [Secret] prints as "[redacted]" in every verb of fmt, in log/slog, in text,
// JSON and YAML, and also where it is an unexported field of something printed with
// %+v: its bytes stand behind a function. fmt calls no methods on unexported fields,
// but of a function it can only print the address. (A pointer is not enough: a
// verb that doesn't fit makes fmt follow it.) A Secret cannot be compared with ==, the
// compiler refuses; Equal does that. It cannot be decoded from a configuration
// file either: a configuration names a file or a descriptor, and [ReadFile] reads
// that.
//
// A file that holds a secret is regular, has mode 0400 and belongs to the user who
// reads it; anything wider is refused with the command that mends it. [WriteFile]
// makes such a file and never overwrites one.
//
// What this package doesn't do: the bytes live in ordinary Go memory, copied as
// the runtime likes, and are not wiped. Whoever can read the process's memory
// reads them; core dumps are for the service unit to switch off. It uses no cgo.
package secret

import (
	"bytes"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
)

// redacted is all a Secret ever says of itself.
const redacted = "[redacted]"

// A Secret is a PIN, password or similar. The zero value is "no secret". Secrets
// are immutable: copying one and using it from several goroutines is safe.
type Secret struct {
	view func() []byte // the bytes themselves, not a copy; nil for no secret
}

// New returns a Secret holding a copy of b; an empty b gives the zero Secret.
func New(b []byte) Secret {
	if len(b) == 0 {
		return Secret{}
	}
	b = bytes.Clone(b)
	return Secret{view: func() []byte { return b }}
}

// Random returns a Secret with nBytes bytes of randomness from the operating
// system, as lower-case base32 text without padding (8 characters for 5 bytes), so
// that it serves as a PIN, a Postgres password or a line of a file. It panics on a
// negative nBytes, which only a programmer can cause.
func Random(nBytes int) Secret {
	raw := make([]byte, nBytes)
	rand.Read(raw) // never fails: see crypto/rand
	text := base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(raw)
	return New([]byte(strings.ToLower(text)))
}

// Bytes returns a copy of the secret, nil for the zero Secret. This is the one way
// out, so that a search for it finds every use.
func (s Secret) Bytes() []byte {
	return bytes.Clone(s.bytes())
}

// Equal tells whether both hold the same bytes, in a time that depends only on
// their lengths. Two zero Secrets are equal.
func (s Secret) Equal(o Secret) bool {
	return subtle.ConstantTimeCompare(s.bytes(), o.bytes()) == 1
}

// IsZero tells whether there is no secret.
func (s Secret) IsZero() bool { return s.view == nil }

func (s Secret) bytes() []byte {
	if s.view == nil {
		return nil
	}
	return s.view()
}

// String returns "[redacted]".
func (s Secret) String() string { return redacted }

// GoString returns "[redacted]".
func (s Secret) GoString() string { return redacted }

// Format writes "[redacted]" for every verb: without it %d and the like would look
// inside.
func (s Secret) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// LogValue returns "[redacted]".
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText returns "[redacted]".
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// MarshalJSON returns "[redacted]" in quotes.
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// errDecode never repeats what it was given.
var errDecode = errors.New("decode secret: a configuration never holds a secret; name a file of mode 0400 or a descriptor (fd:3) instead")

// UnmarshalText always fails: secrets are read with [ReadFile], never decoded.
func (s *Secret) UnmarshalText([]byte) error { return errDecode }

// UnmarshalJSON always fails, as UnmarshalText does.
func (s *Secret) UnmarshalJSON([]byte) error { return errDecode }
