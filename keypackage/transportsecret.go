package keypackage

import (
	"crypto/sha256"
	"fmt"

	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/statement"
)

// MaxTransportSecret bounds an encoded TransportSecret, in bytes: the longest secret, the
// longest label and framing.
const MaxTransportSecret = MaxSecret + 512

// TransportSecret is a secret that is no key on its way to an HSM: encrypted to the HSM's
// transport key (package hsm/transport makes and opens it). AES-KW is for keys, so its
// version and its key's context are others than a TransportBlob's: neither opens as the
// other. Nothing in it is proven; realm, recipient and label are bound to the secret, and
// show on opening.
type TransportSecret struct {
	Realm     identity.Realm
	Recipient [sha256.Size]byte // SHA-256 of the transport key's point
	Point     []byte            // the sender's fresh point, 65 bytes
	Label     string            // what is sent, 1 to MaxTransportLabel bytes
	Sealed    Sealed            // under the key of TransportSecretContext, with that as external associated data
}

const transportSecretVersion = 2

type transportSecretWire struct {
	_         struct{} `cbor:",toarray"`
	Version   uint
	Realm     identity.Realm
	Recipient []byte
	Point     []byte
	Label     string
	Sealed    encrypt0
}

// Encode gives the secret's one encoding.
func (s TransportSecret) Encode() []byte {
	return detcbor.Must(transportSecretWire{Version: transportSecretVersion, Realm: s.Realm, Recipient: s.Recipient[:], Point: s.Point, Label: s.Label, Sealed: s.Sealed.wire()})
}

// ParseTransportSecret reads the one encoding of a secret that was sent.
func ParseTransportSecret(raw []byte) (TransportSecret, error) {
	fail := func(err error) (TransportSecret, error) {
		return TransportSecret{}, fmt.Errorf("read a secret that was sent: %w", err)
	}
	var w transportSecretWire
	if err := detcbor.Unmarshal(raw, &w, MaxTransportSecret); err != nil {
		return fail(err)
	}
	if w.Version != transportSecretVersion || len(w.Recipient) != sha256.Size {
		return fail(fmt.Errorf("version %d for a recipient of %d bytes is not known", w.Version, len(w.Recipient)))
	}
	if _, err := statement.ParsePoint(w.Point); err != nil {
		return fail(err)
	}
	if err := CheckTransportLabel(w.Label); err != nil {
		return fail(err)
	}
	sealed, err := fromWire(w.Sealed)
	if err != nil {
		return fail(err)
	}
	if n := len(sealed.Ciphertext) - TagSize; n < 1 || n > MaxSecret {
		return fail(fmt.Errorf("a secret of %d bytes: 1 to %d are allowed", n, MaxSecret))
	}
	return TransportSecret{Realm: w.Realm, Recipient: [sha256.Size]byte(w.Recipient), Point: w.Point, Label: w.Label, Sealed: sealed}, nil
}
