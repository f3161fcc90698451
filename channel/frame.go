package channel

import (
	"encoding/binary"
	"fmt"
	"io"
)

// Everything but TLS's own records travels in frames: two bytes of length, big-endian,
// then that many bytes.
const (
	headSize = 2
	// chunk is how much of a message a frame carries. Noise allows 64 KiB; whoever has
	// little memory must hold a frame whole.
	chunk = 16 << 10
	// maxFrame is a chunk with its type and its tag.
	maxFrame = 1 + chunk + tagSize
	tagSize  = 16
)

// The first byte of a frame of the handshake.
const (
	frameHello     = 1
	frameHandshake = 2
	frameBusy      = 3
)

// The first byte of a frame's plaintext once the channel is open.
const (
	recordConfirm = 0 // the device has the key: its first frame, empty
	recordPart    = 1 // of a message, and not the last
	recordLast    = 2 // the rest of a message
	recordEnd     = 3 // nothing more comes from this side, empty
)

// writeFrame writes a frame in one call, so that it's one packet where it fits.
func writeFrame(w io.Writer, body ...[]byte) error {
	n := 0
	for _, b := range body {
		n += len(b)
	}
	if n > maxFrame {
		return fmt.Errorf("a frame of %d bytes, at most %d are sent", n, maxFrame)
	}
	out := binary.BigEndian.AppendUint16(make([]byte, 0, headSize+n), uint16(n))
	for _, b := range body {
		out = append(out, b...)
	}
	_, err := w.Write(out)
	return err
}
