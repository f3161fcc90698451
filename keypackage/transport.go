package keypackage

import (
	"crypto/sha256"
	"fmt"

	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/statement"
)

// Limits of a transport blob, in bytes.
const (
	MaxTransportLabel = 128
	MaxTransportBlob  = 1024
)

// TransportBlob is a key on its way to an HSM, or in a table for it: wrapped to the
// HSM's transport key (package hsm/transport makes and opens it). Nothing in it is
// proven; the label is bound to the key, and shows on unwrapping.
type TransportBlob struct {
	Realm     identity.Realm
	Recipient [sha256.Size]byte // SHA-256 of the transport key's point
	Point     []byte            // the sender's fresh point, 65 bytes
	Label     string            // what is sent, 1 to MaxTransportLabel bytes
	Wrapped   []byte            // AES-KW: 24 bytes or more, a multiple of 8
}

const transportVersion = 1

type transportWire struct {
	_         struct{} `cbor:",toarray"`
	Version   uint
	Realm     identity.Realm
	Recipient []byte
	Point     []byte
	Label     string
	Wrapped   []byte
}

// Encode gives the blob's one encoding.
func (b TransportBlob) Encode() []byte {
	return detcbor.Must(transportWire{Version: transportVersion, Realm: b.Realm, Recipient: b.Recipient[:], Point: b.Point, Label: b.Label, Wrapped: b.Wrapped})
}

// ParseTransportBlob reads the one encoding of a blob.
func ParseTransportBlob(raw []byte) (TransportBlob, error) {
	fail := func(err error) (TransportBlob, error) {
		return TransportBlob{}, fmt.Errorf("read what was sent: %w", err)
	}
	var w transportWire
	if err := detcbor.Unmarshal(raw, &w, MaxTransportBlob); err != nil {
		return fail(err)
	}
	if w.Version != transportVersion || len(w.Recipient) != sha256.Size || len(w.Wrapped)%8 != 0 || len(w.Wrapped) < 24 {
		return fail(fmt.Errorf("version %d for a recipient of %d bytes with %d wrapped ones is not known", w.Version, len(w.Recipient), len(w.Wrapped)))
	}
	if _, err := statement.ParsePoint(w.Point); err != nil {
		return fail(err)
	}
	if err := CheckTransportLabel(w.Label); err != nil {
		return fail(err)
	}
	return TransportBlob{Realm: w.Realm, Recipient: [sha256.Size]byte(w.Recipient), Point: w.Point, Label: w.Label, Wrapped: w.Wrapped}, nil
}

// CheckTransportLabel refuses a label that is empty or too long.
func CheckTransportLabel(label string) error {
	if label == "" || len(label) > MaxTransportLabel {
		return fmt.Errorf("a label of %d bytes: 1 to %d are allowed", len(label), MaxTransportLabel)
	}
	return nil
}
