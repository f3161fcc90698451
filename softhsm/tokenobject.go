package softhsm

import "encoding/binary"

// Of SoftHSM's token.object (its ObjectFile): a generation number, then attributes, each a type, a kind and a value;
// all numbers have 8 bytes, big-endian. A byte string begins with its length.
const (
	kindBoolean = 1
	kindNumber  = 2
	kindBytes   = 3

	// soPINAttribute holds the token's master key under the security officer's PIN: the last thing written before a
	// token can be used.
	soPINAttribute = 0x8000534C
)

// finished tells whether the file of a token got as far as the security officer's PIN. A file that isn't of the form
// known here counts as finished: nobody but SoftHSM decides what becomes of it.
func finished(file []byte) bool {
	word := func() (uint64, bool) {
		if len(file) < 8 {
			return 0, false
		}
		n := binary.BigEndian.Uint64(file)
		file = file[8:]
		return n, true
	}
	if _, ok := word(); !ok { // the generation number
		return false
	}
	for {
		attribute, _ := word()
		kind, ok := word()
		if !ok {
			return false
		}
		var size uint64
		switch kind {
		case kindBoolean:
			size = 1
		case kindNumber:
			size = 8
		case kindBytes:
			if size, ok = word(); !ok {
				return false
			}
		default:
			return true
		}
		if uint64(len(file)) < size {
			return false
		}
		if attribute == soPINAttribute {
			return true
		}
		file = file[size:]
	}
}
