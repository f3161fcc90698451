package softhsm

// ParseSlots is parseSlots for the fuzz test.
var ParseSlots = parseSlots
