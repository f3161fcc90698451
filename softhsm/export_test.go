package softhsm

// ParseSlots is parseSlots for the fuzz test.
var ParseSlots = parseSlots

// ShimFunctions are the functions in the order of the shim's control file.
func ShimFunctions() []string { return shimFunctions() }
