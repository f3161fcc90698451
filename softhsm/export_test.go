package softhsm

// ParseSlots is parseSlots for the fuzz test.
var ParseSlots = parseSlots

// ShimFunctions are the functions in the order of the shim's control file.
func ShimFunctions() []string { return shimFunctions() }

// SweepDirectory is Sweep of a directory that isn't attached.
func SweepDirectory(d *Directory) ([]string, error) { return sweep(d.Conf(), d.LockFile()) }

// Finished is finished for the fuzz test.
var Finished = finished
