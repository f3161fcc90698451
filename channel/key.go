package channel

import (
	"bytes"
	"context"
	"crypto/sha256"

	"github.com/devicekeys/devicekeys/detcbor"
)

// MAC gives HMAC-SHA-256 of msg under the device's communication key, inside the
// device's token: 32 bytes.
type MAC func(ctx context.Context, msg []byte) ([]byte, error)

// Peer is a device's communication key at the service, inside its HSM, for one
// handshake. It serves one goroutine.
type Peer interface {
	// MAC gives HMAC-SHA-256 of msg.
	MAC(ctx context.Context, msg []byte) ([]byte, error)
	// Verify checks a MAC inside the HSM; every error means that the device isn't let in.
	Verify(ctx context.Context, msg, mac []byte) error
	// Close destroys the key. Repeating it does no harm.
	Close(ctx context.Context) error
}

// macSize is that of HMAC-SHA-256.
const macSize = sha256.Size

// Labels of what the device's key authenticates. Each string begins with one, and no
// other part of the product makes strings that begin so.
const (
	labelPSK     = "dk-channel-psk"
	labelDevice  = "dk-channel-device"
	labelService = "dk-channel-service"
)

// pskMessage is what a pre-shared key is the HMAC of: hello and both ephemeral keys, so
// each handshake has its own and neither side chooses it alone.
func pskMessage(hello, device, service []byte) []byte {
	h := sha256.Sum256(hello)
	return detcbor.Array(labelPSK, 1, h[:], device, service)
}

// proofMessage is what device and service authenticate over a TLS connection: its
// exporter, which nobody in the middle can have made equal on two connections.
func proofMessage(label string, hello, exporter []byte) []byte {
	h := sha256.Sum256(hello)
	return detcbor.Array(label, 1, h[:], exporter)
}

// Labelled reports whether msg is one of those that this package asks a device's key
// to authenticate. A device's software gives its key to nothing else from outside.
func Labelled(msg []byte) bool {
	for l, items := range map[string]uint64{labelPSK: 5, labelDevice: 4, labelService: 4} {
		head := append(detcbor.Head(4, items), detcbor.Head(3, uint64(len(l)))...)
		if bytes.HasPrefix(msg, append(head, l...)) {
			return true
		}
	}
	return false
}
