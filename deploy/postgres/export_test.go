package postgres

// ForbidCapability has root start servers as where CAP_DAC_OVERRIDE can't be passed on.
// It is for a process of its own.
func ForbidCapability() { capabilityExists = false }

// ForgetPlaces leaves only pg_config and PATH to find Postgres by.
func ForgetPlaces() { places = nil }

// ParsePIDFile is parsePIDFile for the fuzz test.
func ParsePIDFile(b []byte) (pid int, sockets string, memory int, err error) {
	p, err := parsePIDFile(b)
	return p.pid, p.sockets, p.memory, err
}
