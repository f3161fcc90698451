package message_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/detcbor/detcbortest"
	"github.com/devicekeys/devicekeys/message"
)

// TestEnvelopeOneEncoding: the frame of any message has one encoding.
func TestEnvelopeOneEncoding(t *testing.T) {
	t.Parallel()
	point := readGolden(t).SenderPoint[:65]
	rapid.Check(t, func(t *rapid.T) {
		id := rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "key id")
		ciphertext := rapid.SliceOfN(rapid.Byte(), 16, 200).Draw(t, "ciphertext")
		detcbortest.OneEncoding(t, "message", detcbor.Array(1, 1, id, []byte(point), ciphertext), message.Again)
	})
}
