package chiptest

import (
	"crypto/ecdsa"
	"crypto/sha256"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/statement"
)

// Item is one entry of a package to be, with its value.
type Item struct {
	Kind      keypackage.Kind
	Name      string
	Algorithm keypackage.Algorithm
	Clear     bool
	Value     []byte // 32 bytes of a symmetric key; a secret; drawn where nil. Of a pair: nil
	pair      *ecdsa.PrivateKey
	random    [32]byte
}

// Channel is the entry that every ordinary device has: its communication key.
func Channel() Item {
	return Item{Kind: keypackage.Communication, Name: "channel", Algorithm: keypackage.HMACSHA256}
}

// Everything has one entry of each kind and form that chips of any sort hold.
func Everything() []Item {
	return []Item{
		Channel(),
		{Kind: keypackage.KeyPair, Name: "signing", Algorithm: keypackage.ES256},
		{Kind: keypackage.DRM, Name: "content", Algorithm: keypackage.AES256GCM},
		{Kind: keypackage.SIMLock, Name: "network-code", Value: []byte("82041937")},
		{Kind: keypackage.Opaque, Name: "calibration", Clear: true, Value: []byte("gain=7")},
		{Kind: keypackage.Opaque, Name: "pairing-seed"},
		{Kind: keypackage.KeyPair, Name: "agreement", Algorithm: keypackage.ECDH},
	}
}

// Order says what package to make.
type Order struct {
	Identity   identity.Identity      // nil: an IMEI of the range for tests
	Generation identity.Generation    // 0: 1
	Items      []Item                 // nil: Channel alone
	Realm      identity.Realm         // 0: the SPP's own
	ChipID     identity.ChipID        // zero: the hello's
	Point      *statement.PublicKey   // nil: the SPP's own; else sent in its place
	Subject    identity.Identity      // nil: Identity; else what the certificate names
	Claims     func(*identity.Claims) // changes the claims before they are signed
	Manifest   func(*keypackage.Manifest)
	Package    func(*keypackage.DataPackage) // changes the package before it is encoded
}

// Assembly is a package and all that its maker knows.
type Assembly struct {
	Package     []byte
	Point       statement.PublicKey
	Certificate identity.Certificate
	Manifest    keypackage.Manifest
	RawManifest []byte
	Transcript  [32]byte
	Wrapped     [][]byte
	Secrets     *keypackage.Sealed
	Items       []Item
}

// Proof gives the MAC that the device's proving key makes of a message.
func (a Assembly) Proof(message []byte) []byte {
	i, ok := a.Manifest.Proving()
	if !ok {
		return nil
	}
	return MAC(a.Items[i].Value, message)
}

// Confirm gives the confirmation that belongs to a backup.
func (a Assembly) Confirm(backup []byte) []byte {
	return a.Proof(keypackage.ConfirmMessage(a.Transcript, sha256.Sum256(backup)))
}

// Published gives the SPP's message that the record is published.
func (a Assembly) Published() []byte {
	return a.Proof(keypackage.PublishedMessage(a.Certificate.ClaimsHash()))
}
