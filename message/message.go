package message

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/devicecert"
	"github.com/devicekeys/devicekeys/statement"
)

const (
	// MaxSize is the longest message, in bytes: what a device reads at once.
	MaxSize = detcbor.MaxArtefact
	// MaxBody is the longest body, in bytes. The rest of a message is below 1 KiB.
	MaxBody = MaxSize - 1<<10
	// MaxContentType is the longest content type, in bytes.
	MaxContentType = 127
	// DefaultContentType is for bodies that say themselves what they are.
	DefaultContentType = "application/octet-stream"
)

// Statement is the type of statement that signs a message's content.
const Statement statement.Type = "application/vnd.devicekeys.message+cbor"

// Errors of Open. All mean: there is no message.
var (
	// ErrForm says that the bytes are no message.
	ErrForm = errors.New("not a message")
	// ErrRecipient says that it is for another key.
	ErrRecipient = errors.New("the message is for another key")
	// ErrOpen says that it does not decrypt: it was encrypted to another
	// certificate of the same key, or changed on its way.
	ErrOpen = errors.New("the message does not open")
	// ErrSender says that the policy doesn't take the sender, or that the
	// signature is wrong.
	ErrSender = errors.New("the message's sender is not accepted")
)

// ID tells messages apart: 16 random bytes, drawn by the sender.
type ID [16]byte

// NewID draws an ID.
func NewID() (ID, error) {
	var id ID
	if _, err := rand.Read(id[:]); err != nil {
		return ID{}, fmt.Errorf("draw a message id: %w", err)
	}
	return id, nil
}

// String gives the id in hexadecimal.
func (i ID) String() string { return hex.EncodeToString(i[:]) }

// MarshalText gives the id in hexadecimal.
func (i ID) MarshalText() ([]byte, error) { return []byte(i.String()), nil }

// Message is what is sent.
type Message struct {
	ID ID
	// ContentType says what the body is, as RFC 6838 has it: "text/plain".
	ContentType string
	Body        []byte // at most MaxBody; may be empty
}

func (m Message) check() error {
	switch {
	case m.ID == ID{}:
		return errors.New("it has no id")
	case len(m.Body) > MaxBody:
		return fmt.Errorf("its body has %d bytes: at most %d are allowed", len(m.Body), MaxBody)
	}
	return CheckContentType(m.ContentType)
}

// CheckContentType checks a content type: type "/" subtype, without parameters
// (RFC 6838 §4.2).
func CheckContentType(s string) error {
	kind, sub, _ := strings.Cut(s, "/")
	if len(s) > MaxContentType || !restricted(kind) || !restricted(sub) {
		return fmt.Errorf("content type %.140q: two names with a slash between them are expected, at most %d characters", s, MaxContentType)
	}
	return nil
}

// restricted tells whether s is a restricted-name of RFC 6838 §4.2.
func restricted(s string) bool {
	for i := range len(s) {
		c := s[i]
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alnum && (i == 0 || !strings.ContainsRune("!#$&-^_.+", rune(c))) {
			return false
		}
	}
	return s != ""
}

const version = 1

// contentWire is what a sender signs.
type contentWire struct {
	_           struct{} `cbor:",toarray"`
	Version     uint
	Realm       uint
	Certificate []byte
	ID          []byte
	ContentType string
	Body        []byte
}

func (m Message) encode(to devicecert.Certificate) ([]byte, error) {
	hash := to.Hash()
	body := m.Body
	if body == nil {
		body = []byte{} // nil would encode as null
	}
	return detcbor.Marshal(contentWire{Version: version, Realm: uint(to.Realm), Certificate: hash[:], ID: m.ID[:], ContentType: m.ContentType, Body: body})
}

// parseContent reads a content and checks that it is for the certificate.
func parseContent(b []byte, to devicecert.Certificate) (Message, error) {
	var w contentWire
	if err := detcbor.Unmarshal(b, &w, MaxSize); err != nil {
		return Message{}, fmt.Errorf("%w: its content: %w", ErrForm, err)
	}
	hash := to.Hash()
	switch {
	case w.Version != version:
		return Message{}, fmt.Errorf("%w: version %d of its content is not known", ErrForm, w.Version)
	case w.Realm != uint(to.Realm) || string(w.Certificate) != string(hash[:]):
		return Message{}, fmt.Errorf("%w: its content was written to another certificate: someone passed it on", ErrRecipient)
	case len(w.ID) != len(ID{}) || w.Body == nil:
		return Message{}, fmt.Errorf("%w: its content has an id of %d bytes or no body", ErrForm, len(w.ID))
	}
	m := Message{ID: ID(w.ID), ContentType: w.ContentType, Body: w.Body}
	if err := m.check(); err != nil {
		return Message{}, fmt.Errorf("%w: %w", ErrForm, err)
	}
	return m, nil
}
