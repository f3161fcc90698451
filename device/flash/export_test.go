package flash

// Geometry, for tests that break images at known places.
const (
	Size       = size
	HeaderSize = headerSize
	SlotSize   = slotSize
	RecordHead = recordHead
)

// DecodeRecord reads one area.
var DecodeRecord = decodeRecord

// EncodeRecord frames content.
var EncodeRecord = encodeRecord
