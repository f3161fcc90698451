package slots

// Lock and ParseSlot, for tests.
var (
	Lock      = lock
	ParseSlot = parseSlot
)
