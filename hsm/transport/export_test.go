package transport

// The parts of a blob, for the golden values.
var (
	KEKContext = kekContext
	KDF1       = kdf1
	WrapKey    = wrapKey
	Encode     = encode
)
